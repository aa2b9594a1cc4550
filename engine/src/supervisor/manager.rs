//! The service manager that has started this process, such as systemd: what it is notified of (sd_notify(3)),
//! and its watchdog. Nobody waits for it: a message that it does not take is lost.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use offramp_files::notify::{self, Notifier};

use crate::config::limits::TICK;
use crate::sys::errno;

/// Where messages go; nowhere if no service manager asks for them. Every copy is of the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Manager(Option<Arc<Connected>>);

struct Connected {
    notifier: Notifier,
    /// Looks at the workers between two messages for the watchdog; 0 without one.
    looks_per_message: u64,
    looks: AtomicU64,
    /// Another process is the service from now on.
    has_resigned: AtomicBool,
    is_stopping: AtomicBool,
}

impl Manager {
    /// What the environment names: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. What is wrong with it
    /// is logged, and keeps nobody from serving.
    pub(super) fn from_environment() -> Self {
        let notifier = match Notifier::from_environment() {
            Ok(Some(notifier)) => notifier,
            Ok(None) => return Self(None),
            Err(error) => {
                tracing::warn!("{error}");
                return Self(None);
            }
        };
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let watchdog = text("WATCHDOG_USEC").filter(|_| is_for_us(text("WATCHDOG_PID").as_deref()));
        Self::connected(notifier, watchdog.as_deref())
    }

    fn connected(notifier: Notifier, watchdog: Option<&str>) -> Self {
        let looks_per_message = watchdog.map_or(0, looks_per_message);
        let (looks, has_resigned, is_stopping) = Default::default();
        Self(Some(Arc::new(Connected { notifier, looks_per_message, looks, has_resigned, is_stopping })))
    }

    /// The service is there: after the start, and after a reload, whatever came of that.
    pub(super) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\n{}", notify::status(status)));
    }

    /// A reload has begun; [`Manager::ready`] ends it.
    pub(super) fn reloading(&self) {
        // By the C library: rustix panics where the kernel has no vDSO, as User-Mode Linux 7.2.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let micros = now.as_micros();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading"));
    }

    /// No more connections are accepted.
    pub(super) fn stopping(&self) {
        if self.0.as_ref().is_some_and(|it| !it.is_stopping.swap(true, Ordering::Relaxed)) {
            self.send("STOPPING=1\nSTATUS=draining: no new connections");
        }
    }

    /// How things are.
    pub(super) fn status(&self, status: &str) {
        self.send(&notify::status(status));
    }

    /// All workers turn: to be called once a TICK in which they do.
    pub(super) fn all_turn(&self) {
        let Some(connected) = self.0.as_ref().filter(|it| it.looks_per_message > 0) else { return };
        let looks = connected.looks.fetch_add(1, Ordering::Relaxed);
        if looks.is_multiple_of(connected.looks_per_message) {
            self.send("WATCHDOG=1");
        }
    }

    /// Another process is the service from now on, and reports that it is ready: this one has nothing more to
    /// say.
    pub(super) fn resign(&self, successor: u32) {
        self.send(&format!("MAINPID={successor}"));
        if let Some(connected) = &self.0 {
            connected.has_resigned.store(true, Ordering::Relaxed);
        }
    }

    /// That process did not come to serve: this one does, as before.
    pub(super) fn stay(&self) {
        if let Some(connected) = &self.0 {
            connected.has_resigned.store(false, Ordering::Relaxed);
        }
        self.send(&format!("MAINPID={}", std::process::id()));
    }

    fn send(&self, message: &str) {
        let Some(connected) = self.0.as_ref().filter(|it| !it.has_resigned.load(Ordering::Relaxed)) else {
            return;
        };
        if let Err(error) = connected.notifier.send(message) {
            let first = message.lines().next().unwrap_or_default();
            tracing::warn!(error = errno::name(&error), "the service manager was not notified: {first}");
        }
    }
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connected({} looks per message)", self.looks_per_message)
    }
}

fn is_for_us(pid: Option<&str>) -> bool {
    pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()))
}

/// A message at half of the watchdog's time, as sd_watchdog_enabled(3) advises: one per so many looks.
fn looks_per_message(watchdog: &str) -> u64 {
    let time = watchdog.parse().map(Duration::from_micros).unwrap_or_default();
    if time < 2 * TICK {
        tracing::warn!(
            "WATCHDOG_USEC={watchdog}: the workers are looked at each second, so that less than 2 s is too \
             short; try: WatchdogSec=30"
        );
        return u64::from(!time.is_zero());
    }
    (time / 2).as_secs() / TICK.as_secs()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    struct Listening {
        socket: UnixDatagram,
        manager: Manager,
        _directory: tempfile::TempDir,
    }

    fn listening(watchdog: Option<&str>) -> Listening {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = Manager::connected(Notifier::connect(&path.into_os_string()).unwrap(), watchdog);
        Listening { socket, manager, _directory: directory }
    }

    impl Listening {
        fn next(&self) -> Option<String> {
            let mut bytes = [0; 4096];
            let length = self.socket.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
        }
    }

    #[test]
    fn manager_gets_each_message_in_its_form() {
        let it = listening(None);
        it.manager.ready("two\nlines");
        assert_eq!(it.next().unwrap(), "READY=1\nSTATUS=two lines");
        it.manager.reloading();
        assert!(it.next().unwrap().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        (0..2).for_each(|_| it.manager.stopping());
        assert!(it.next().unwrap().starts_with("STOPPING=1\n"));
        it.manager.all_turn();
        assert_eq!(it.next(), None, "it is stopping already, and has no watchdog");
        it.manager.resign(7);
        it.manager.status("not heard");
        assert_eq!((it.next().as_deref(), it.next()), (Some("MAINPID=7"), None));
    }

    #[test]
    fn watchdog_is_fed_at_half_of_its_time() {
        let it = listening(Some("8000000"));
        let fed = (0..8).filter(|_| {
            it.manager.all_turn();
            it.next().is_some_and(|message| message == "WATCHDOG=1")
        });
        assert_eq!(fed.count(), 2);
        assert_eq!(["30000000", "3000000", "1000000", "x"].map(looks_per_message), [15, 1, 1, 0]);
        let own = std::process::id().to_string();
        assert!(is_for_us(None) && is_for_us(Some(&own)) && !is_for_us(Some("1")));
    }
}
