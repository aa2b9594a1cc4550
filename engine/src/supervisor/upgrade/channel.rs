//! Messages with descriptors between two processes on this host, over a Unix socket that keeps their
//! boundaries (SOCK_SEQPACKET).
//!
//! Bounds: [`MESSAGE_BYTES_MAX`] bytes and [`DESCRIPTORS_MAX`] descriptors per message; no call waits beyond
//! its deadline.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use zeroize::Zeroizing;

use super::super::pools::now;

/// Bytes in a message: those of 32 ticket keys have 8 KiB.
pub(super) const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Descriptors in a message; Linux allows 253 (`SCM_MAX_FD`).
pub(super) const DESCRIPTORS_MAX: usize = 64;

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// What came.
#[derive(Debug)]
pub(super) struct Message {
    /// Wiped when it is dropped: ticket keys may be in it.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Both ends, closed on exec.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    /// The end that this process was given as its standard input, which is /dev/null from then on.
    pub(super) fn from_stdin() -> io::Result<Self> {
        let ours = io::stdin().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        Ok(Self(ours))
    }

    /// Sends a message, whole.
    ///
    /// # Errors
    /// EPIPE, ECONNRESET: nobody is at the other end. TimedOut.
    pub(super) fn send(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = descriptors.len() <= DESCRIPTORS_MAX
            && (descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
        if !fits {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        loop {
            set_socket_timeout(&self.0, Timeout::Send, Some(left(deadline)?))?;
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                other => return other.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// The next message; none when the other end is closed. Without a deadline it waits for ever.
    ///
    /// # Errors
    /// TimedOut; InvalidData: the message is longer than one may be.
    pub(super) fn receive(&self, deadline: Option<Instant>) -> io::Result<Option<Message>> {
        let mut bytes = Zeroizing::new(vec![0; MESSAGE_BYTES_MAX]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            set_socket_timeout(&self.0, Timeout::Recv, deadline.map(left).transpose()?)?;
            let into = &mut [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // A message of ours is never empty.
        if received.bytes == 0 {
            return Ok(None);
        }
        bytes.truncate(received.bytes);
        Ok(Some(Message { bytes, descriptors }))
    }
}

impl From<OwnedFd> for Channel {
    fn from(end: OwnedFd) -> Self {
        Self(end)
    }
}

impl Message {
    /// The word in front, and the text behind it.
    pub(super) fn words(&self) -> (&str, &str) {
        let text = std::str::from_utf8(&self.bytes).unwrap_or_default();
        text.split_once(' ').unwrap_or((text, ""))
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(now());
    // A timeout of nothing is none.
    if left < Duration::from_millis(1) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn soon() -> Instant {
        now() + Duration::from_secs(10)
    }

    #[test]
    fn message_arrives_whole_with_its_descriptors() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from(theirs);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let descriptors = vec![listener.as_fd(); DESCRIPTORS_MAX];
        ours.send(b"socket of one", &descriptors, soon()).unwrap();
        ours.send(b"end", &[], soon()).unwrap();
        let mut came = theirs.receive(Some(soon())).unwrap().unwrap();
        assert_eq!((came.words(), came.descriptors.len()), (("socket", "of one"), DESCRIPTORS_MAX));
        let passed = TcpListener::from(came.descriptors.remove(0));
        assert_eq!(passed.local_addr().unwrap(), listener.local_addr().unwrap());
        assert_eq!(theirs.receive(None).unwrap().unwrap().words(), ("end", ""));
        drop(ours);
        assert!(theirs.receive(Some(soon())).unwrap().is_none());
        assert!(theirs.send(b"late", &[], soon()).is_err());
    }

    #[test]
    fn message_beyond_size_or_descriptor_limit_is_refused() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from(theirs);
        ours.send(&[b'x'; MESSAGE_BYTES_MAX + 1], &[], soon()).unwrap();
        assert_eq!(theirs.receive(Some(soon())).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let many = vec![ours.0.as_fd(); DESCRIPTORS_MAX + 1];
        assert_eq!(ours.send(b"x", &many, soon()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn idle_channel_times_out_at_the_deadline() {
        let (ours, _theirs) = Channel::pair().unwrap();
        let deadline = now() + Duration::from_millis(50);
        assert_eq!(ours.receive(Some(deadline)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let deadline = now() + Duration::from_millis(50);
        let error = loop {
            if let Err(error) = ours.send(&[b'x'; 16 * 1024], &[], deadline) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
