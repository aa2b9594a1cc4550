//! What the old process hands over to the new one, and what the new one answers.
//!
//! The old one sends `socket HEADER` with the sockets of an address, as often as there are some; `tickets
//! KEYS` if it has generated ticket keys; `siblings PIDS`, its own and those that it has replaced;
//! `offload off` if the kill switch says so; and `end`. The new one starts by that, and sends `ready`, or
//! `failed WHY`. Only after `ready` does the old one send `go`, and from then on the new one accepts. Without
//! `go` it ends: one process decides which of the two serves. A word that a process does not know it passes
//! over, as the other may be of a later version.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::inherited::{Given, Giver, Inherited, Purpose};
use super::super::pools::now;
use super::channel::{Channel, DESCRIPTORS_MAX, MESSAGE_BYTES_MAX};
use super::launcher::HANDOVER;
use crate::config::limits::{LISTENERS, UPGRADE_DEADLINE, WORKERS};
use crate::sys::socket::{self, Address};
use crate::sys::{errno, passed};

/// Most sockets that a process takes over.
const SOCKETS_MAX: usize = (*LISTENERS.end() + 2) * *WORKERS.end();
/// How long the old process may take to answer that the new one is ready.
const GO_PATIENCE: Duration = Duration::from_secs(10);

/// In front of sockets.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    is_admin: bool,
    asked: String,
    bound: String,
    is_shared: bool,
    owns_file: bool,
}

/// What is handed over beside sockets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    /// The ticket keys, as a file has them, if the process has generated them.
    pub(super) tickets: Option<&'a str>,
    /// The process that hands over, and those that it has replaced.
    pub(super) siblings: &'a [u32],
    /// The kill switch.
    pub(super) is_offload_allowed: bool,
}

/// Sends all of it.
pub(super) fn hand_over(
    channel: &Channel,
    given: &[Given],
    words: Words<'_>,
    deadline: Instant,
) -> io::Result<()> {
    for given in given {
        let header = Header {
            is_admin: given.purpose == Some(Purpose::Admin),
            asked: given.asked.to_string(),
            bound: given.bound.to_string(),
            is_shared: given.is_shared,
            owns_file: given.owns_file,
        };
        let header = format!("socket {}", serde_json::to_string(&header)?);
        for sockets in given.sockets.chunks(DESCRIPTORS_MAX) {
            let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            channel.send(header.as_bytes(), &sockets, deadline)?;
        }
    }
    let siblings: Vec<_> = words.siblings.iter().map(u32::to_string).collect();
    channel.send(format!("siblings {}", siblings.join(" ")).as_bytes(), &[], deadline)?;
    if !words.is_offload_allowed {
        channel.send(b"offload off", &[], deadline)?;
    }
    if let Some(tickets) = words.tickets {
        let mut message = Zeroizing::new(String::with_capacity(tickets.len() + 8));
        message.push_str("tickets ");
        message.push_str(tickets);
        channel.send(message.as_bytes(), &[], deadline)?;
    }
    channel.send(b"end", &[], deadline)
}

/// Waits for what the new process says: whether it is ready, or why not; none if it says nothing any more.
pub(super) fn answer(channel: &Channel, deadline: Instant) -> io::Result<Option<Result<(), String>>> {
    while let Some(message) = channel.receive(Some(deadline))? {
        match message.words() {
            ("ready", _) => return Ok(Some(Ok(()))),
            ("failed", why) => return Ok(Some(Err(why.to_owned()))),
            _ => {}
        }
    }
    Ok(None)
}

/// The process that this one is to replace.
#[derive(Debug)]
pub(in super::super) struct Predecessor(Channel);

/// What it has handed over.
#[derive(Debug, Default)]
pub(in super::super) struct Estate {
    pub(in super::super) sockets: Inherited,
    /// The ticket keys, as a file has them.
    pub(in super::super) tickets: Option<Zeroizing<String>>,
    /// The process that is replaced, and those that it has replaced.
    pub(in super::super) siblings: Vec<u32>,
    /// The kill switch of the offload was turned off there.
    pub(in super::super) is_offload_off: bool,
}

impl Predecessor {
    /// The one that the environment speaks of, and what it hands over; none if this process replaces nobody.
    pub(in super::super) fn from_environment() -> Result<Option<(Self, Estate)>, String> {
        if std::env::var_os(HANDOVER).is_none() {
            return Ok(None);
        }
        let failed = |error: io::Error| {
            format!(
                "what the process hands over that is to be replaced cannot be taken: {}; try: unset \
                 {HANDOVER}",
                errno::name(&error)
            )
        };
        // What arrives beyond the limit is lost; the file limit of the first process was raised too.
        socket::raise_nofile_limit().map_err(failed)?;
        let predecessor = Self(Channel::from_stdin().map_err(failed)?);
        let estate = predecessor.take().map_err(failed)?;
        Ok(Some((predecessor, estate)))
    }

    fn take(&self) -> io::Result<Estate> {
        let deadline = now() + UPGRADE_DEADLINE;
        let (mut all, mut count, mut estate) = (Vec::<Given>::new(), 0, Estate::default());
        loop {
            let message = self.0.receive(Some(deadline))?.ok_or(io::ErrorKind::UnexpectedEof)?;
            count += message.descriptors.len();
            if count > SOCKETS_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match message.words() {
                ("socket", header) => {
                    let header: Header = serde_json::from_str(header)?;
                    let given = given(&header)?;
                    let is_more = |it: &&mut Given| (it.purpose, &it.bound) == (given.purpose, &given.bound);
                    match all.iter_mut().find(is_more) {
                        Some(before) => before.sockets.extend(message.descriptors),
                        None => all.push(Given { sockets: message.descriptors, ..given }),
                    }
                }
                ("tickets", keys) => estate.tickets = Some(Zeroizing::new(keys.to_owned())),
                ("siblings", pids) => {
                    estate.siblings = pids.split(' ').filter_map(|pid| pid.parse().ok()).collect();
                }
                ("offload", "off") => estate.is_offload_off = true,
                ("end", _) => break,
                _ => {}
            }
        }
        let is_good = |it: &Given| {
            let listens = |socket| passed::listening(socket).is_ok_and(|found| found.address == it.bound);
            !it.sockets.is_empty() && it.sockets.iter().all(|socket| listens(socket.as_fd()))
        };
        if !all.iter().all(is_good) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        estate.sockets = Inherited { giver: Giver::Predecessor, sockets: all };
        Ok(estate)
    }

    /// Says why this process does not start.
    pub(in super::super) fn failed(&self, why: &str) {
        let why = &why[..why.floor_char_boundary(MESSAGE_BYTES_MAX - 16)];
        // Who has gone does not want to know.
        drop(self.0.send(format!("failed {why}").as_bytes(), &[], now() + GO_PATIENCE));
    }

    /// Says that this process could serve, and waits until it is to.
    pub(in super::super) fn ready(&self) -> Result<(), String> {
        let deadline = now() + GO_PATIENCE;
        let go = self.0.send(b"ready", &[], deadline).and_then(|()| {
            while let Some(message) = self.0.receive(Some(deadline))? {
                if message.words().0 == "go" {
                    return Ok(());
                }
            }
            Err(io::ErrorKind::UnexpectedEof.into())
        });
        go.map_err(|error: io::Error| {
            format!("the process that is to be replaced goes on, or has ended: {}", errno::name(&error))
        })
    }
}

fn given(header: &Header) -> io::Result<Given> {
    let address = |text: &str| match text.strip_prefix("unix:") {
        Some(path) => Ok(Address::Unix(path.into())),
        None => text.parse().map(Address::Tcp).map_err(|_| io::Error::from(io::ErrorKind::InvalidData)),
    };
    Ok(Given {
        purpose: Some(if header.is_admin { Purpose::Admin } else { Purpose::Listener }),
        asked: address(&header.asked)?,
        bound: address(&header.bound)?,
        sockets: Vec::new(),
        is_shared: header.is_shared,
        owns_file: header.owns_file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        now() + Duration::from_secs(10)
    }

    fn listening(count: usize) -> Given {
        let first = socket::listener("127.0.0.1:0".parse().unwrap(), true, 16).unwrap();
        let bound = socket::local_addr(first.as_fd()).unwrap();
        let more = (1..count).map(|_| socket::listener(bound, true, 16).unwrap());
        Given {
            purpose: Some(Purpose::Listener),
            asked: Address::Tcp("127.0.0.1:0".parse().unwrap()),
            bound: bound.into(),
            sockets: std::iter::once(first).chain(more).collect(),
            is_shared: false,
            owns_file: false,
        }
    }

    #[test]
    fn handover_arrives_as_it_was_sent() {
        let (ours, theirs) = Channel::pair().unwrap();
        let predecessor = Predecessor(Channel::from(theirs));
        let (many, one) = (listening(DESCRIPTORS_MAX + 1), listening(1));
        let expected = [&many, &one].map(|it| (it.bound.clone(), it.sockets.len()));
        let words = Words { tickets: Some("key a b"), siblings: &[7, 8], is_offload_allowed: false };
        let sending = std::thread::spawn(move || hand_over(&ours, &[many, one], words, soon()));
        let mut estate = predecessor.take().unwrap();
        sending.join().unwrap().unwrap();
        assert_eq!(estate.tickets.as_deref().map(String::as_str), Some("key a b"));
        assert_eq!((&estate.siblings[..], estate.is_offload_off), (&[7, 8][..], true));
        let asked = Address::Tcp("127.0.0.1:0".parse().unwrap());
        for expected in expected {
            let taken = estate.sockets.take(Purpose::Listener, &asked).unwrap();
            assert_eq!((taken.bound, taken.sockets.len()), expected, "in the order of the configuration");
        }
        assert!(estate.sockets.take(Purpose::Listener, &asked).is_none());
    }

    #[test]
    fn handover_of_something_else_is_refused() {
        let refused = |messages: &[&str]| {
            let (ours, theirs) = Channel::pair().unwrap();
            messages.iter().for_each(|it| ours.send(it.as_bytes(), &[], soon()).unwrap());
            drop(ours);
            Predecessor(Channel::from(theirs)).take().unwrap_err().kind()
        };
        assert_eq!(refused(&[]), io::ErrorKind::UnexpectedEof);
        assert_eq!(refused(&["later words", "tickets k"]), io::ErrorKind::UnexpectedEof);
        assert_eq!(refused(&["socket {}"]), io::ErrorKind::InvalidData);
        let header = r#"socket {"is_admin":false,"asked":"127.0.0.1:0","bound":"127.0.0.1:1",
                         "is_shared":false,"owns_file":false}"#;
        assert_eq!(refused(&[header, "end"]), io::ErrorKind::InvalidData, "there is no socket");
    }

    #[test]
    fn new_process_is_ready_or_says_why_not() {
        let (ours, theirs) = Channel::pair().unwrap();
        let predecessor = Predecessor(Channel::from(theirs));
        ours.send(b"go", &[], soon()).unwrap();
        predecessor.ready().unwrap();
        assert_eq!(answer(&ours, soon()).unwrap(), Some(Ok(())));
        predecessor.failed("no such file");
        assert_eq!(answer(&ours, soon()).unwrap(), Some(Err("no such file".to_owned())));
        drop(predecessor);
        assert_eq!(answer(&ours, soon()).unwrap(), None);
    }
}
