//! What two members say to each other at the beginning of a connection: which process each of them is, and what the other one
//! makes of that. Only then do they talk HTTP/2.

use std::io;

use narvana_proto::v1;
use narvana_proto::v1::verdict::Verdict as Said;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use uuid::Uuid;

use super::Refusal;
use super::witness::{Hello, Verdict, Witness};
use crate::model::{Incarnation, NodeId};

/// Longest of these messages; the words of a refusal are a few sentences.
const BYTES_MAX: usize = 4 * 1024;

/// The caller's side. Fails when one of both does not accept the other.
pub(super) async fn call<S>(stream: &mut S, witness: &Witness, peer: NodeId) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    say(stream, &v1::Hello::from(witness.own())).await?;
    let theirs = Hello::try_from(hear::<v1::Hello>(stream).await?)?;
    let of_us = Verdict::try_from(hear::<v1::Verdict>(stream).await?)?;
    let of_them = witness.judge(peer, &theirs, Instant::now());
    say(stream, &v1::Verdict::from(of_them.clone())).await?;
    witness.hear(peer, &of_us);
    of_us.agree(of_them)
}

/// The other one's side. `admitted` is false for a caller whose calls will be refused by itself: nothing is remembered of it. Answers which
/// process calls.
pub(super) async fn answer<S>(
    stream: &mut S,
    witness: &Witness,
    caller: NodeId,
    admitted: bool,
) -> io::Result<Incarnation>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let theirs = Hello::try_from(hear::<v1::Hello>(stream).await?)?;
    let of_them = if admitted { witness.judge(caller, &theirs, Instant::now()) } else { Verdict::Accepted };
    say(stream, &v1::Hello::from(witness.own())).await?;
    say(stream, &v1::Verdict::from(of_them.clone())).await?;
    let of_us = Verdict::try_from(hear::<v1::Verdict>(stream).await?)?;
    witness.hear(caller, &of_us);
    of_us.agree(of_them)?;
    Ok(theirs.run)
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, message: &impl Message) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let length = u16::try_from(bytes.len()).map_err(|_| malformed("a message is too long"))?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    stream.flush().await
}

async fn hear<M: Message + Default>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<M> {
    let length = usize::from(stream.read_u16().await?);
    if length > BYTES_MAX {
        return Err(malformed("a message is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    M::decode(&*bytes).map_err(|_| malformed("a message cannot be read"))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("at the beginning of the connection {what}"))
}

impl Verdict {
    fn agree(self, other: Self) -> io::Result<()> {
        for verdict in [self, other] {
            let words = match verdict {
                Self::Accepted => continue,
                Self::Wait(words) => words,
                Self::Refused(refusal) => refusal.words,
            };
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, words));
        }
        Ok(())
    }
}

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        let run = hello.run.0.as_bytes().to_vec().into();
        Self { run, began: Some(hello.began.into()) }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = io::Error;

    fn try_from(hello: v1::Hello) -> io::Result<Self> {
        let run = Uuid::from_slice(&hello.run).map_err(|_| malformed("nobody says which process it is"))?;
        Ok(Self { run: Incarnation(run), began: hello.began.unwrap_or_default().into() })
    }
}

impl From<Verdict> for v1::Verdict {
    fn from(verdict: Verdict) -> Self {
        let said = match verdict {
            Verdict::Accepted => Said::Accepted(v1::Accepted {}),
            Verdict::Wait(words) => Said::Wait(words),
            Verdict::Refused(Refusal { words, lives: true }) => Said::Twin(words),
            Verdict::Refused(Refusal { words, lives: false }) => Said::Outdated(words),
        };
        Self { verdict: Some(said) }
    }
}

impl TryFrom<v1::Verdict> for Verdict {
    type Error = io::Error;

    fn try_from(verdict: v1::Verdict) -> io::Result<Self> {
        Ok(match verdict.verdict.ok_or_else(|| malformed("nobody says what it makes of the other"))? {
            Said::Accepted(v1::Accepted {}) => Self::Accepted,
            Said::Wait(words) => Self::Wait(words),
            Said::Twin(words) => Self::Refused(Refusal { words, lives: true }),
            Said::Outdated(words) => Self::Refused(Refusal::end(words)),
        })
    }
}
