//! Upgrades: another process, of the program that is on disk by now, takes over the listening sockets and
//! accepts; this one drains. Where the other one does not start, nothing has happened.

mod channel;
mod handover;
mod launcher;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::StartError;
use super::admin_address::AdminAddresses;
use super::control::Control;
use super::crew::{Report, vital};
use super::inherited::{Given, Purpose};
use super::pools::now;
use super::services::Lendable;
use crate::admin::{ConfigRequest, Refusal};
use crate::config::limits::UPGRADE_DEADLINE;
use crate::worker::{Command, Lent, ServiceId};
use channel::Channel;
pub(super) use handover::{Estate, Predecessor};
use launcher::Launcher;
pub use launcher::launcher;

/// The launcher of this process, or why there is none.
pub(super) struct Launched(Result<Launcher, String>);

impl Launched {
    /// Starts it, before anything else is done.
    pub(super) fn start() -> Self {
        let launcher = Launcher::start();
        if let Err(why) = &launcher {
            tracing::warn!("{why}; an upgrade is not possible");
        }
        Self(launcher)
    }
}

/// Asks for an upgrade.
#[derive(Clone)]
pub(super) struct Upgrades {
    asks: Sender<Ask>,
    control: Control,
}

/// What the thread that does upgrades is asked for.
#[derive(Debug)]
pub(super) enum Ask {
    /// SIGUSR2.
    Signal,
    /// At `admin_socket`.
    Request(ConfigRequest),
}

/// What does them.
struct Upgrader {
    launched: Launched,
    control: Control,
    admin: AdminAddresses,
}

/// One at a time.
const UNDER_WAY: &str = "an upgrade is under way";

impl Upgrades {
    /// Whoever has it may ask, before the thread is there.
    pub(super) fn new(control: Control) -> (Self, Receiver<Ask>) {
        let (asks, inbox) = channel();
        (Self { asks, control }, inbox)
    }

    /// Asks for one; one that is asked for while another is under way is refused.
    pub(super) fn ask(&self, ask: Ask) {
        if self.control.upgrading.swap(true, Ordering::AcqRel) {
            match ask {
                Ask::Signal => tracing::warn!("SIGUSR2: {UNDER_WAY}"),
                Ask::Request(request) => request.done(Err(Refusal::Wrong(UNDER_WAY.to_owned()))),
            }
            return;
        }
        // Without the thread the engine is about to end.
        drop(self.asks.send(ask));
    }
}

impl fmt::Debug for Upgrades {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upgrades")
    }
}

/// Starts the thread.
pub(super) fn start(
    inbox: Receiver<Ask>,
    launched: Launched,
    control: Control,
    admin: AdminAddresses,
    reports: Sender<Report>,
) -> Result<(), StartError> {
    let mut upgrader = Upgrader { launched, control, admin };
    vital("upgrade", reports, move || {
        for ask in inbox {
            upgrader.obey(ask);
            upgrader.control.upgrading.store(false, Ordering::Release);
        }
        Ok(())
    })?;
    Ok(())
}

impl Upgrader {
    fn obey(&mut self, ask: Ask) {
        match ask {
            Ask::Signal => drop(self.upgrade("SIGUSR2")),
            Ask::Request(request) => {
                let pid = self.upgrade("POST /v1/upgrade").map_err(Refusal::Wrong);
                let said = |pid| format!("process {pid} has taken over; this one, {}, drains", me());
                request.done(pid.map(said));
            }
        }
    }

    /// The process number of the one that serves from then on. Where it fails, this one serves as before.
    fn upgrade(&mut self, why: &str) -> Result<u32, String> {
        let deadline = now() + UPGRADE_DEADLINE;
        self.take_over(why, deadline).inspect_err(|error| {
            let error = error.replace(char::is_control, " ");
            tracing::error!("{why}: {error}; this process goes on serving");
            self.control.manager.status(&format!("serving; the upgrade failed: {error}"));
        })
    }

    fn take_over(&mut self, why: &str, deadline: Instant) -> Result<u32, String> {
        if self.control.is_stopping() {
            return Err("no upgrade while the connections drain".to_owned());
        }
        if me() == 1 {
            return Err("this process is number 1 of its container, which would end with it; try: start \
                        another container"
                .to_owned());
        }
        let launcher = self.launched.0.as_ref().map_err(Clone::clone)?;
        let failed = |error: io::Error| format!("the sockets cannot be handed over: {error}");
        let (ours, theirs) = Channel::pair().map_err(failed)?;
        let given = given(&self.control, &self.admin)?;
        let pid = launcher.launch(&theirs)?;
        drop(theirs);
        self.control.siblings.extend([pid]);
        tracing::info!("upgrade: process {pid} starts");
        if let Err(why) = converse(&self.control, pid, &ours, &given, deadline) {
            drop(ours);
            let how = self.end(launcher, pid);
            return Err(format!("the new process {pid} {why}; {how}"));
        }
        // The service manager knows it before it reports that it serves.
        self.control.manager.resign(pid);
        self.control.services.leave_files();
        if let Err(error) = ours.send(b"go", &[], deadline) {
            self.control.services.files().own_all();
            self.control.manager.stay();
            let how = self.end(launcher, pid);
            return Err(format!("the new process {pid} ended when it was ready: {error}; {how}"));
        }
        launcher.leave();
        tracing::info!("{why}: process {pid} accepts connections; those of this process, {}, drain", me());
        self.retire();
        Ok(pid)
    }

    /// Ends the new process. How it has ended.
    fn end(&self, launcher: &Launcher, pid: u32) -> String {
        let how = launcher.end().unwrap_or_else(|error| error);
        self.control.siblings.remove(pid);
        how
    }

    /// This process accepts nobody any more, and leaves to the other one what both have.
    fn retire(&mut self) {
        self.admin.retire();
        self.control.drain();
        // The launcher ends by this, so that the new process is the service manager's child.
        self.launched = Launched(Err("another process has taken over".to_owned()));
    }
}

fn me() -> u32 {
    std::process::id()
}

/// How long a worker may take to make a turn.
const LEND_PATIENCE: Duration = Duration::from_secs(5);

/// Duplicates of all sockets that listen.
fn given(control: &Control, admin: &AdminAddresses) -> Result<Vec<Given>, String> {
    let lendable = control.services.lock().lendable();
    let mut lent = lent(control)?;
    let of_listener = |it: Lendable| {
        let mut sockets = lent.extract_if(.., |(id, _)| it.ids.contains(id)).map(|(_, socket)| socket);
        // Of one that all share there is one; the others are its duplicates.
        let most = if it.is_shared { 1 } else { usize::MAX };
        let sockets: Vec<OwnedFd> = sockets.by_ref().take(most).collect();
        Given {
            purpose: Some(Purpose::Listener),
            asked: it.asked,
            bound: it.bound,
            sockets,
            is_shared: it.is_shared,
            owns_file: it.owns_file,
        }
    };
    let mut given: Vec<Given> = lendable.into_iter().map(of_listener).collect();
    given.extend(admin.given());
    given.retain(|it| !it.sockets.is_empty());
    Ok(given)
}

/// What the workers have, in their order.
fn lent(control: &Control) -> Result<Vec<(ServiceId, OwnedFd)>, String> {
    let (sender, inbox) = channel();
    control.mailboxes.iter().for_each(|mailbox| mailbox.post(Command::Lend(sender.clone())));
    drop(sender);
    let mut all = Vec::with_capacity(control.mailboxes.len());
    for _ in control.mailboxes.iter() {
        let lent: Lent = inbox.recv_timeout(LEND_PATIENCE).map_err(|_| {
            "a worker does not turn, so that its sockets cannot be handed over; try: a restart".to_owned()
        })?;
        all.push(lent);
    }
    all.sort_by_key(|lent| lent.worker);
    let lent: io::Result<Vec<_>> = all.into_iter().map(|lent| lent.sockets).collect();
    let lent = lent.map_err(|error| {
        format!(
            "the sockets cannot be handed over: {error}; try: LimitNOFILE= in the systemd unit, or ulimit -Hn"
        )
    })?;
    Ok(lent.into_iter().flatten().collect())
}

/// Until the new process could serve, or why that does not happen.
fn converse(
    control: &Control,
    pid: u32,
    channel: &Channel,
    given: &[Given],
    deadline: Instant,
) -> Result<(), String> {
    let tickets = control.tickets.share();
    let unanswered = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => "was not ready in time".to_owned(),
        _ => format!("did not take the sockets: {error}"),
    };
    // Where it does not take them it may have said why.
    let siblings = [vec![me()], control.siblings.all()].concat();
    let words = handover::Words {
        tickets: tickets.as_deref().map(String::as_str),
        siblings: &siblings,
        is_offload_allowed: control.offload.is_allowed(),
    };
    let sent = handover::hand_over(channel, given, words, deadline);
    if sent.is_ok() {
        tracing::info!("upgrade: process {pid} was given the listening sockets");
    }
    match (handover::answer(channel, deadline), sent) {
        (Ok(Some(Ok(()))), Ok(())) if control.is_stopping() => {
            Err("was ready when this one was asked to stop".to_owned())
        }
        (Ok(Some(Ok(()))), Ok(())) => Ok(()),
        (Ok(Some(Err(why))), _) => Err(format!("does not start: {why}")),
        (Ok(None), _) => Err("ended before it was ready: see its lines in the log".to_owned()),
        (Err(error), _) | (_, Err(error)) => Err(unanswered(error)),
    }
}
