//! A listening socket on its way from a process to the one that started it.
//!
//! A child that was sent into another network listens there, and who started it takes the connections. What goes over is one byte
//! with the socket, or the reason why there is none.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 1_024;

/// Hands a socket to whoever is at the other end.
pub fn give(to: &UnixStream, listener: &TcpListener) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [listener.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(to, &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Says why there is none.
pub fn refuse(mut to: &UnixStream, reason: &str) -> io::Result<()> {
    to.write_all(&reason.as_bytes()[..reason.len().min(REASON_BYTES_MAX)])
}

/// The socket that comes from the other end; blocks as long as that. What is said after it stays to be read.
///
/// # Errors
/// The other end's reason, or that it ended or said nothing in time.
pub fn take(from: &UnixStream, within: Duration) -> io::Result<TcpListener> {
    from.set_read_timeout(Some(within))?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut first = [0];
    let message = match recvmsg(from, &mut [IoSliceMut::new(&mut first)], &mut control, RecvFlags::CMSG_CLOEXEC) {
        Err(Errno::AGAIN) => return Err(io::Error::other(format!("no answer within {} s", within.as_secs()))),
        answer => answer?,
    };
    let listener = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    match (listener, message.bytes) {
        (Some(listener), _) => Ok(TcpListener::from(listener)),
        (None, 0) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the process that was sent inside ended without an answer",
        )),
        (None, _) => {
            let mut reason = first.to_vec();
            // A reason that is cut off is one too.
            let _ = from.take(REASON_BYTES_MAX as u64).read_to_end(&mut reason);
            Err(io::Error::other(String::from_utf8_lossy(&reason).into_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_socket_or_a_reason_comes_out() {
        const SOON: Duration = Duration::from_millis(10);
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        give(&theirs, &listener).expect("sent");
        drop(listener);
        refuse(&theirs, "no such tool").expect("sent");
        assert_eq!(take(&ours, SOON).expect("a socket").local_addr().expect("bound"), address);
        assert_eq!(take(&ours, SOON).expect_err("a reason").to_string(), "no such tool");
        assert!(take(&ours, SOON).expect_err("it hangs").to_string().contains("no answer within"));
        drop(theirs);
        assert_eq!(take(&ours, SOON).expect_err("nobody").kind(), io::ErrorKind::UnexpectedEof);
    }
}
