//! Services between two processes: what this one lends to another, and what it holds back until that one has
//! let it accept.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::super::StartError;
use super::InForce;
use crate::config::limits::LISTEN_BACKLOG;
use crate::supervisor::running::Running;
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

    /// This process accepts from now on, where it has waited for another one; it closes what it has not taken
    /// of that one's sockets, and owns the files.
    pub(in super::super) fn release(&mut self) {
        if let Some(workers) = self.released.take() {
            let held = std::mem::replace(&mut self.mailboxes, workers);
            for (held, worker) in held.iter().zip(self.mailboxes.iter()) {
                for command in held.take() {
                    if let Command::Add(service) = &command {
                        listen(service);
                    }
                    worker.post(command);
                }
            }
        }
        let left = self.inherited.left_files(&self.files);
        self.files.own_all();
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
