//! Commands from the control plane to a worker: a queue, and an eventfd that the worker's ring reads.
//!
//! The queue is bounded, however often commands are posted: a command replaces an earlier one that it makes
//! pointless. A worker that does not turn has at most three commands waiting per service, five others, and
//! [`INQUIRIES_MAX`] inquiries.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::inquiry::Inquiry;
use super::route::Route;
use crate::conn::policy::Policy;
use crate::limit::Limits;
use crate::sys::socket;

/// Inquiries that wait for a worker; one more is dropped, and who has asked learns that.
pub const INQUIRIES_MAX: usize = 64;

/// Names a service from its beginning to its end, in every worker; no other gets the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// What accepts connections and passes them on.
#[derive(Debug)]
pub struct Service {
    /// Names it.
    pub id: ServiceId,
    /// Bound and listening. Of TCP each worker has its own, with SO_REUSEPORT and TCP_NODELAY (accepted
    /// sockets inherit it), unless it is shared.
    pub listener: OwnedFd,
    /// All workers accept on this one: a Unix socket, or one that the service manager has passed.
    pub is_shared: bool,
    /// What holds for its connections.
    pub policy: Arc<Policy>,
    /// Where they come from and go to.
    pub route: Arc<Route>,
}

/// Duplicates of a worker's sockets that listen.
#[derive(Debug)]
pub struct Lent {
    /// Of which worker.
    pub worker: usize,
    /// By service; or the error for which there are none.
    pub sockets: io::Result<Vec<(ServiceId, OwnedFd)>>,
}

/// A command to a worker.
#[derive(Debug)]
pub enum Command {
    /// To accept connections for this service.
    Add(Service),
    /// What holds for the connections of the service that are accepted from now on.
    Update {
        /// Of which.
        id: ServiceId,
        /// See [`Service::policy`].
        policy: Arc<Policy>,
        /// See [`Service::route`].
        route: Arc<Route>,
    },
    /// To accept no more for the service; its connections go on.
    Remove(ServiceId),
    /// What clients may use from now on.
    Limits(Arc<Limits>),
    /// How many connections it may have from now on. Those that are open go on, if they are more.
    MaxConnections(usize),
    /// The kill switch: whether the kernel may be given further directions. What it has stays with it.
    Offload(bool),
    /// To tell admin of its connections, or to end one.
    Ask(Inquiry),
    /// To send duplicates of its sockets that listen.
    Lend(Sender<Lent>),
    /// To accept no more at all and let what is open finish, for the time of a drain.
    Drain,
    /// To end at once.
    End,
}

/// One worker's.
#[derive(Debug)]
pub struct Mailbox {
    queue: Mutex<Queue>,
    event: OwnedFd,
}

#[derive(Debug, Default)]
struct Queue {
    commands: VecDeque<Command>,
    /// The worker has ended: nobody obeys.
    is_closed: bool,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// What eventfd(2) says: EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self { queue: Mutex::default(), event: socket::event()? })
    }

    /// Queues a command. The worker obeys in its next turn, in the order of the posts.
    pub fn post(&self, command: Command) {
        self.queue(command);
        self.wake();
    }

    /// Has the worker make a turn, if it is able to.
    pub fn wake(&self) {
        // It fails only if the counter is at its end, and then the worker is being woken already.
        let _ = socket::signal(self.event.as_fd());
    }

    /// The worker has ended: what waits is dropped, and what is posted later. Who waits for an answer learns
    /// by that that there will be none.
    pub(super) fn close(&self) {
        let dropped = {
            let mut queue = self.lock();
            queue.is_closed = true;
            std::mem::take(&mut queue.commands)
        };
        drop(dropped);
    }

    fn queue(&self, command: Command) {
        let Queue { commands, is_closed } = &mut *self.lock();
        if *is_closed || matches!(commands.back(), Some(Command::End)) {
            return;
        }
        match &command {
            Command::Add(_) => {}
            Command::Update { id, .. } => {
                commands.retain(|it| !matches!(it, Command::Update { id: earlier, .. } if earlier == id));
            }
            Command::Remove(id) => {
                commands.retain(
                    |it| !matches!(it, Command::Update { id: of, .. } | Command::Remove(of) if of == id),
                );
                let waiting = commands.len();
                commands.retain(|it| !matches!(it, Command::Add(service) if service.id == *id));
                if commands.len() < waiting {
                    return;
                }
            }
            Command::Limits(_) => commands.retain(|it| !matches!(it, Command::Limits(_))),
            Command::MaxConnections(_) => commands.retain(|it| !matches!(it, Command::MaxConnections(_))),
            Command::Offload(_) => commands.retain(|it| !matches!(it, Command::Offload(_))),
            Command::Ask(_) => {
                let is_one = |it: &&Command| matches!(it, Command::Ask(_));
                if commands.iter().filter(is_one).count() >= INQUIRIES_MAX {
                    return;
                }
            }
            Command::Lend(_) => commands.retain(|it| !matches!(it, Command::Lend(_))),
            Command::Drain => commands.retain(|it| !matches!(it, Command::Drain)),
            Command::End => commands.clear(),
        }
        commands.push_back(command);
    }

    /// All that waits, in order.
    pub(crate) fn take(&self) -> VecDeque<Command> {
        std::mem::take(&mut self.lock().commands)
    }

    /// Readable when something was posted, or the worker is to make a turn.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::time::Instant;

    use super::super::fixtures::{policy, route};
    use super::*;
    use crate::limit::LimitRules;

    fn add(id: u32) -> Command {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port").into();
        let (policy, route) = (policy(), route());
        Command::Add(Service { id: ServiceId(id), listener, is_shared: false, policy, route })
    }

    fn update(id: u32) -> Command {
        Command::Update { id: ServiceId(id), policy: policy(), route: route() }
    }

    fn remove(id: u32) -> Command {
        Command::Remove(ServiceId(id))
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn limits() -> Command {
        Command::Limits(Arc::new(Limits::new(LimitRules::default(), Instant::now())))
    }

    fn left(commands: impl IntoIterator<Item = Command>) -> Vec<String> {
        let mailbox = Mailbox::new().expect("an eventfd");
        commands.into_iter().for_each(|command| mailbox.post(command));
        let name = |command| match command {
            Command::Add(Service { id, .. }) => format!("add {}", id.0),
            Command::Update { id, .. } => format!("update {}", id.0),
            Command::Remove(id) => format!("remove {}", id.0),
            Command::Limits(_) => "limits".to_owned(),
            Command::MaxConnections(most) => format!("most {most}"),
            Command::Offload(allowed) => format!("offload {allowed}"),
            Command::Ask(_) => "ask".to_owned(),
            Command::Lend(_) => "lend".to_owned(),
            Command::Drain => "drain".to_owned(),
            Command::End => "end".to_owned(),
        };
        mailbox.take().into_iter().map(name).collect()
    }

    #[test]
    fn what_a_command_makes_pointless_is_not_kept() {
        assert_eq!(left([add(1), add(2), update(1)]), ["add 1", "add 2", "update 1"]);
        assert_eq!(left([update(1), update(2), update(1)]), ["update 2", "update 1"]);
        assert_eq!(left([update(1), remove(1), remove(1)]), ["remove 1"]);
        assert_eq!(left([add(1), update(1), remove(1), add(2)]), ["add 2"], "as if it had never been");
        let switched = [true, false, true].map(Command::Offload);
        assert_eq!(
            left(switched.into_iter().chain([Command::Drain, Command::Drain])),
            ["offload true", "drain"]
        );
        assert_eq!(left([limits(), add(1), limits()]), ["add 1", "limits"]);
        let lend = || Command::Lend(std::sync::mpsc::channel().0);
        assert_eq!(left([lend(), add(1), lend()]), ["add 1", "lend"]);
        let most = [1, 2].map(Command::MaxConnections);
        assert_eq!(left(most.into_iter().chain([limits()])), ["most 2", "limits"]);
        assert_eq!(left([add(1), Command::End, Command::Drain, add(2)]), ["end"]);
    }

    #[test]
    fn mailbox_drops_inquiries_that_are_too_many() {
        use super::super::inquiry::{ConnectionName, InquiryTask};
        use crate::reply::reply;

        let mailbox = Mailbox::new().expect("an eventfd");
        let waiting: Vec<_> = (0..INQUIRIES_MAX + 1)
            .map(|_| {
                let (reply, waiting) = reply().expect("an eventfd");
                let task = InquiryTask::End(ConnectionName { worker: 0, slot: 0, serial: 0 });
                mailbox.post(Command::Ask(Inquiry { task, reply }));
                waiting
            })
            .collect();
        assert_eq!(mailbox.take().len(), INQUIRIES_MAX);
        assert!(waiting.iter().all(|it| it.take().is_none()), "nobody has answered");
    }

    #[test]
    fn mailbox_of_a_worker_that_ended_wakes_who_asks() {
        use super::super::inquiry::{ConnectionName, InquiryTask};
        use crate::reply::reply;

        let mailbox = Mailbox::new().expect("an eventfd");
        let ask = || {
            let (reply, waiting) = reply::<super::super::inquiry::InquiryAnswer>().expect("an eventfd");
            let task = InquiryTask::End(ConnectionName { worker: 0, slot: 0, serial: 0 });
            mailbox.post(Command::Ask(Inquiry { task, reply }));
            waiting
        };
        let before = ask();
        mailbox.close();
        for waiting in [before, ask()] {
            let event = std::fs::File::from(waiting.event().expect("a descriptor"));
            let mut count = [0; 8];
            Read::read_exact(&mut &event, &mut count).expect("it is woken");
            assert!(waiting.take().is_none());
        }
        assert!(mailbox.take().is_empty());
    }

    #[test]
    fn stalled_worker_does_not_let_the_mailbox_grow() {
        let storm = (0..10_000).flat_map(|nth| {
            [
                update(nth % 4),
                Command::Offload(nth % 2 == 0),
                limits(),
                remove(nth % 4),
                Command::MaxConnections(nth as usize),
                Command::Drain,
                update(nth % 4),
            ]
        });
        assert!(left(storm).len() <= 4 * 3 + 4);
    }
}
