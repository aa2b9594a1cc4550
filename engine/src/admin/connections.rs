//! The connections that are open, and how long each may be.

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::{Rc, Weak};

use super::stream::{Access, Stream};
use crate::config::limits::ADMIN_CONNECTIONS_MAX;

/// Ticks in a deadline: it is kept to a tenth.
pub(super) const TICKS: u32 = 10;

/// The connections that are open.
#[derive(Clone, Default)]
pub(super) struct Open(Rc<RefCell<Vec<Weak<Client>>>>);

/// A connection as its task holds it.
pub(super) struct Client {
    pub(super) stream: Stream,
    pub(super) access: Access,
    pub(super) ticks_left: Cell<u32>,
    /// Its request has come whole: it only has to be answered.
    pub(super) has_asked: Cell<bool>,
}

impl Open {
    /// Takes a connection in. If there are too many, the oldest whose request has not come is ended, or else
    /// the oldest.
    pub(super) fn admit(&self, stream: Stream, access: Access) -> Rc<Client> {
        let mut open = self.0.borrow_mut();
        open.retain(|client| client.strong_count() > 0);
        if open.len() >= ADMIN_CONNECTIONS_MAX {
            let is_slow = |client: &Weak<Client>| client.upgrade().is_some_and(|held| !held.has_asked.get());
            let oldest = open.iter().position(is_slow).unwrap_or(0);
            if let Some(client) = open.remove(oldest).upgrade() {
                // One that is gone already needs no ending.
                let _ = client.stream.shutdown(Shutdown::Both);
            }
        }
        let client =
            Rc::new(Client { stream, access, ticks_left: Cell::new(TICKS), has_asked: Cell::new(false) });
        open.push(Rc::downgrade(&client));
        client
    }

    /// Shuts down what has used up its time: whatever its task waits for then completes.
    pub(super) fn tick(&self) {
        self.0.borrow_mut().retain(|client| {
            let Some(client) = client.upgrade() else { return false };
            client.ticks_left.set(client.ticks_left.get().saturating_sub(1));
            if client.ticks_left.get() == 0 {
                // One that is gone already needs no ending.
                let _ = client.stream.shutdown(Shutdown::Both);
            }
            true
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().iter().all(|client| client.strong_count() == 0)
    }
}
