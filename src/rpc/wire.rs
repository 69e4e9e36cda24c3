//! A tunnel as a stream of bytes, the same at both ends.
//!
//! Each end sends no more than the other has room for, which is less than the connection has for one stream. So whoever
//! does not read never fills the connection, on which it would also hold up the news that its caller has left.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use narvana_proto::v1;
use narvana_proto::v1::tunnel_part::Part;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use tonic::{Status, Streaming};

/// Largest piece of data in one part.
const PIECE_BYTES_MAX: usize = 32 * 1024;
/// Parts that wait for the connection. Together with the windows of the connection this is all that a tunnel holds.
const PARTS_WAITING: usize = 2;

/// What each end may send before the other has read it; part of the protocol.
pub(super) const WINDOW: usize = 256 * 1024;
/// What a part costs beyond its data; part of the protocol.
const PART_COST: usize = 32;

/// One end of a tunnel, for one task. A direction that was shut down has an end; dropping the wire before cuts it off, which the other
/// side sees as an error.
pub(super) struct Wire {
    incoming: Streaming<v1::TunnelPart>,
    outgoing: PollSender<v1::TunnelPart>,
    /// What came and was not read.
    unread: VecDeque<Bytes>,
    /// What of the first piece has been read counts when all of it has.
    first_cost: usize,
    /// What may be sent.
    allowance: usize,
    /// What was read and the other end does not know of yet.
    owed: usize,
    heard_end: bool,
    said_end: bool,
}

/// Room for what one end sends.
pub(super) fn parts() -> (mpsc::Sender<v1::TunnelPart>, mpsc::Receiver<v1::TunnelPart>) {
    mpsc::channel(PARTS_WAITING)
}

pub(super) fn part(part: Part) -> v1::TunnelPart {
    v1::TunnelPart { part: Some(part) }
}

impl Wire {
    pub(super) fn new(incoming: Streaming<v1::TunnelPart>, outgoing: mpsc::Sender<v1::TunnelPart>) -> Self {
        let outgoing = PollSender::new(outgoing);
        Self {
            incoming,
            outgoing,
            unread: VecDeque::new(),
            first_cost: 0,
            allowance: WINDOW,
            owed: 0,
            heard_end: false,
            said_end: false,
        }
    }

    /// Takes the next part. Ready without data when it was a credit or the end.
    fn hear(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let part = ready!(self.incoming.poll_next_unpin(context)).transpose().map_err(|status| cut(&status))?;
        match part.and_then(|part| part.part) {
            Some(Part::Data(data)) => {
                let held: usize = self.unread.iter().map(|piece| piece.len() + PART_COST).sum();
                if self.heard_end || held + data.len() > WINDOW {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                self.unread.push_back(data);
            }
            Some(Part::End(v1::TunnelEnd {})) => self.heard_end = true,
            Some(Part::Credit(credit)) => self.allowance = self.allowance.saturating_add(credit as usize),
            Some(Part::Target(_)) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the other end of the room it has, when that is worth a part.
    fn give_credit(&mut self, context: &mut Context<'_>) {
        if self.owed < WINDOW / 2 || self.heard_end {
            return;
        }
        let owed = u32::try_from(self.owed).expect("not more than the window");
        // When there is no room yet, the task is woken and comes by here again; a wire that broke shows elsewhere.
        if let Poll::Ready(Ok(())) = self.outgoing.poll_reserve(context)
            && self.outgoing.send_item(part(Part::Credit(owed))).is_ok()
        {
            self.owed = 0;
        }
    }

    fn say(&mut self, context: &mut Context<'_>, what: impl FnOnce() -> Part) -> Poll<io::Result<()>> {
        let broken = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(context)).map_err(broken)?;
        Poll::Ready(self.outgoing.send_item(part(what())).map_err(broken))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        wire.give_credit(context);
        while wire.unread.is_empty() && !wire.heard_end {
            ready!(wire.hear(context))?;
        }
        let Some(first) = wire.unread.front_mut() else { return Poll::Ready(Ok(())) };
        let bytes = first.len().min(buffer.remaining());
        buffer.put_slice(&first[..bytes]);
        first.advance(bytes);
        wire.first_cost += bytes;
        if first.is_empty() {
            wire.unread.pop_front();
            wire.owed += std::mem::take(&mut wire.first_cost) + PART_COST;
            wire.give_credit(context);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        if wire.said_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        wire.give_credit(context);
        while wire.allowance <= PART_COST {
            ready!(wire.hear(context))?;
        }
        let bytes = &bytes[..bytes.len().min(PIECE_BYTES_MAX).min(wire.allowance - PART_COST)];
        ready!(wire.say(context, || Part::Data(Bytes::copy_from_slice(bytes))))?;
        wire.allowance -= bytes.len() + PART_COST;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Parts travel as soon as there is room for them.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if !wire.said_end {
            ready!(wire.say(context, || Part::End(v1::TunnelEnd {})))?;
            wire.said_end = true;
        }
        Poll::Ready(Ok(()))
    }
}

fn cut(status: &Status) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, status.message().to_owned())
}
