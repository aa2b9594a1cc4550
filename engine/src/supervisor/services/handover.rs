//! Services between two processes: what this one lends to another, and what it holds back until that one has
//! let it accept.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::super::StartError;
use super::InForce;
use crate::config::limits::LISTEN_BACKLOG;
use crate::supervisor::running::Running;
use crate::supervisor::sockets;
use crate::sys::socket::Address;
use crate::sys::{errno, passed, unix};
use crate::worker::{Command, Mailbox, Service, ServiceId};

/// The sockets of a listener, for another process.
#[derive(Debug)]
pub(in super::super) struct Lendable {
    pub(in super::super) ids: Vec<ServiceId>,
    pub(in super::super) asked: Address,
    pub(in super::super) bound: Address,
    pub(in super::super) is_shared: bool,
    pub(in super::super) owns_file: bool,
}

impl InForce {
    /// Has commands wait until this process [is to accept](InForce::release).
    pub(super) fn hold(&mut self) -> Result<(), StartError> {
        let held: io::Result<Vec<_>> = self.mailboxes.iter().map(|_| Mailbox::new().map(Arc::new)).collect();
        let held = held.map_err(|error| StartError::resource("event descriptor", &error))?;
        self.released = Some(std::mem::replace(&mut self.mailboxes, held.into()));
        Ok(())
    }

    /// This process accepts from now on. What it was given it has for good: sockets and files get what its
    /// configuration says of them. It closes the sockets that it was given and has not taken.
    pub(in super::super) fn release(&mut self) {
        if let Some(workers) = self.released.take() {
            let held = std::mem::replace(&mut self.mailboxes, workers);
            for (index, (held, worker)) in held.iter().zip(self.mailboxes.iter()).enumerate() {
                for command in held.take() {
                    if let Command::Add(service) = &command {
                        sockets::take_over(service, sockets::incoming_cpu(&self.incoming_cpus, index));
                        listen(service);
                    }
                    worker.post(command);
                }
            }
        }
        let left = self.inherited.left_files(&self.files);
        self.files.take_over();
        drop(left);
    }

    /// The sockets that another process may have: those of Unix sockets only where clients find them.
    pub(in super::super) fn lendable(&self) -> Vec<Lendable> {
        let reachable = self.services.iter().filter(|it| it.is_reachable());
        let of = |it: &Running| Lendable {
            ids: std::iter::once(it.id).chain(it.further.iter().map(|(id, _)| *id)).collect(),
            asked: it.listener.listen.clone(),
            bound: it.listen.clone(),
            is_shared: it.is_shared,
            owns_file: it.file.is_some(),
        };
        reachable.map(of).collect()
    }
}

/// Of sockets that were bound beside those of another process, which accept from now on.
fn listen(service: &Service) {
    let socket = service.listener.as_fd();
    if passed::listening(socket).is_err()
        && let Err(error) = unix::listen(socket, LISTEN_BACKLOG)
    {
        let address = &service.route.listen;
        tracing::error!(error = errno::name(&error), "{address}: a worker does not accept; try: a restart");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;
    use crate::config::{Config, ConfigOption, Raw};
    use crate::supervisor::Control;
    use crate::supervisor::inherited::{Given, Giver, Inherited, Purpose};
    use crate::supervisor::reload::find;
    use crate::sys::socket;
    use crate::tls::Tickets;

    fn config(listen: SocketAddr) -> Config {
        let mut raw = Raw::default();
        for (option, value) in [
            (ConfigOption::Listen, listen.to_string()),
            (ConfigOption::Backend, "127.0.0.1:1".to_owned()),
            (ConfigOption::Mode, "plain".to_owned()),
            (ConfigOption::Offload, "never".to_owned()),
            (ConfigOption::TcpUserTimeout, "7s".to_owned()),
        ] {
            raw.give_flag(option, value);
        }
        raw.check().unwrap()
    }

    /// What the other process has, whose listening socket is the same open one.
    fn options(socket: &OwnedFd) -> (bool, Option<Duration>, usize) {
        let socket = SockRef::from(socket);
        let timeout = socket.tcp_user_timeout().unwrap();
        (socket.keepalive().unwrap(), timeout, socket.cpu_affinity().unwrap())
    }

    #[test]
    fn given_sockets_get_their_options_at_the_release() {
        for giver in [Giver::Manager, Giver::Predecessor] {
            let theirs = socket::listener("127.0.0.1:0".parse().unwrap(), true, 16).unwrap();
            let address = socket::local_addr(theirs.as_fd()).unwrap();
            socket::prefer_incoming_cpu(theirs.as_fd(), Some(3)).unwrap();
            let before = options(&theirs);
            let given = Given {
                purpose: Some(Purpose::Listener),
                asked: address.into(),
                bound: address.into(),
                sockets: vec![theirs.try_clone().unwrap()],
                is_shared: false,
                owns_file: false,
            };
            let control = Control::new(1, Arc::new(Tickets::generate(1, 0).unwrap())).unwrap();
            let mut in_force = control.services.lock();
            let inherited = Inherited { giver, sockets: vec![given] };
            in_force.begin(Vec::new(), 0, inherited, None).unwrap();
            let config = config(address);
            let next = in_force.prepare(&config, &find(&config)).unwrap();
            in_force.commit(next);
            assert_eq!(options(&theirs), before, "this process may still fail");
            assert!(control.mailboxes[0].take().is_empty());
            in_force.release();
            let (keepalive, timeout, cpu) = options(&theirs);
            assert_eq!((keepalive, timeout), (true, Some(Duration::from_secs(7))));
            assert_ne!(cpu, 3, "workers have no CPU any more");
            assert!(control.mailboxes[0].take().iter().any(|it| matches!(it, Command::Add(_))));
        }
    }
}
