//! Open files on their way between a process and the one that started it.
//!
//! A child that was sent into another network listens there, and who started it takes the connections. What goes over is one byte
//! with the files, or the reason why there are none.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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

/// Most files that go over at once.
const FILES_MAX: usize = 4;

/// Hands a socket to whoever is at the other end.
pub fn give(to: &UnixStream, listener: &TcpListener) -> io::Result<()> {
    send(to, &[listener.as_fd()])
}

/// Hands a few files over, or none.
pub fn give_files(to: &UnixStream, files: &[File]) -> io::Result<()> {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    send(to, &files)
}

fn send(to: &UnixStream, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other(format!("more than {FILES_MAX} files at once")));
    }
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
    let (files, said) = receive(from, within)?;
    match files.into_iter().next() {
        Some(listener) => Ok(TcpListener::from(listener)),
        None => {
            let mut reason = vec![said];
            // A reason that is cut off is one too.
            let _ = from.take(REASON_BYTES_MAX as u64).read_to_end(&mut reason);
            Err(io::Error::other(String::from_utf8_lossy(&reason).into_owned()))
        }
    }
}

/// The files that come from the other end; blocks as long as that.
///
/// # Errors
/// The other end ended or said nothing in time.
pub fn take_files(from: &UnixStream, within: Duration) -> io::Result<Vec<File>> {
    Ok(receive(from, within)?.0.into_iter().map(File::from).collect())
}

/// The files, and the byte that came with them.
fn receive(from: &UnixStream, within: Duration) -> io::Result<(Vec<OwnedFd>, u8)> {
    from.set_read_timeout(Some(within))?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut first = [0];
    let message = match recvmsg(from, &mut [IoSliceMut::new(&mut first)], &mut control, RecvFlags::CMSG_CLOEXEC) {
        Err(Errno::AGAIN) => return Err(io::Error::other(format!("no answer within {} s", within.as_secs()))),
        answer => answer?,
    };
    if message.bytes == 0 {
        let reason = "the process that was sent inside ended without an answer";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
    }
    let mut files = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = part {
            files.extend(came);
        }
    }
    Ok((files, first[0]))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn files_go_over_or_none() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        for count in [0, 2] {
            let files: Vec<File> = (0..count).map(|_| File::open("/dev/null").expect("opens")).collect();
            give_files(&theirs, &files).expect("sent");
            assert_eq!(take_files(&ours, Duration::from_secs(1)).expect("they come").len(), count);
        }
    }

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
