//! The admin interface and its threads, one per address. Each is ready before it is put in force, and accepts
//! nobody until then: at the start another process may still answer at the same address. A reload may move
//! it: the new one serves before the old one ends.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::crew::{Report, watched};
use super::inherited::{Given, Inherited, Purpose};
use super::sockets::{bind_admin, bound};
use super::unix_socket::{self, SocketFile, SocketFiles, listening_at};
use super::{StartError, ThreadLost};
use crate::admin::{self, Stop};
use crate::config::SocketAccess;
use crate::sys::errno;
use crate::sys::socket::Address;

/// Who may connect to the Unix socket: the user that runs this process, and root.
const ACCESS: SocketAccess = SocketAccess { mode: 0o600, user: None, group: None };

/// Where the control plane serves, if anywhere; shared by who changes it and who ends it.
#[derive(Clone, Default)]
pub(super) struct AdminAddresses(Arc<Mutex<Option<State>>>);

struct State {
    service: admin::Service,
    /// Those of all Unix sockets.
    files: SocketFiles,
    reports: Sender<Report>,
    current: Vec<Serving>,
    /// Those that are no longer wanted, and answer who is connected.
    retired: Vec<Serving>,
    /// Another process serves there, and who has asked for that waits for an answer.
    is_handed_over: bool,
}

/// A thread that serves. Dropped, it ends at once.
struct Serving {
    /// As configured.
    asked: Address,
    address: Address,
    /// A duplicate, to be handed over; none once it is no longer served there.
    listener: Option<OwnedFd>,
    stop: Stop,
    /// What the thread waits for before it accepts anybody; none once it accepts.
    held: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Of a Unix socket.
    file: Option<Arc<SocketFile>>,
}

/// A socket that listens, and is not served yet.
pub(super) struct Bound {
    asked: Address,
    address: Address,
    listener: OwnedFd,
    file: Option<Arc<SocketFile>>,
}

/// What will serve from then on: to be put in force, or dropped.
pub(super) struct Next {
    wanted: Vec<Address>,
    new: Vec<Serving>,
}

impl Bound {
    /// One for each address: a socket that was given to this process, or a new one. The file of a new Unix
    /// socket belongs to this user and group, if there are any.
    pub(super) fn all(
        asked: Vec<Address>,
        owner: Option<(u32, u32)>,
        inherited: &mut Inherited,
        files: &SocketFiles,
    ) -> Result<Vec<Self>, StartError> {
        let bound = |asked: Address| match inherited.take(Purpose::Admin, &asked) {
            Some(given) => Self::given(given, asked, owner, files),
            None => Self::new(asked, owner, files),
        };
        asked.into_iter().map(bound).collect()
    }

    fn new(asked: Address, owner: Option<(u32, u32)>, files: &SocketFiles) -> Result<Self, StartError> {
        if let Address::Tcp(tcp) = asked {
            let listener = bind_admin(tcp)?;
            let address = bound(&listener, tcp)?.into();
            return Ok(Self { asked, address, listener, file: None });
        }
        let (listener, file) = listening_at(&asked, ACCESS.or_owner(owner)).map_err(|problem| {
            let address = asked.clone();
            StartError::Listen { key: "admin_socket", address, problem }
        })?;
        Ok(Self { address: asked.clone(), asked, listener, file: file.map(|file| files.add(file)) })
    }

    /// One that another process has opened.
    fn given(
        given: Given,
        asked: Address,
        owner: Option<(u32, u32)>,
        files: &SocketFiles,
    ) -> Result<Self, StartError> {
        let bound = given.bind(1, ACCESS.or_owner(owner))?;
        let unix_socket::Bound { listen: address, sockets, file, .. } = bound;
        let nothing = || StartError::Handover(format!("{asked}: no socket was handed over"));
        let listener = sockets.into_iter().next().ok_or_else(nothing)?;
        Ok(Self { asked, address, listener, file: file.map(|file| files.add(file)) })
    }
}

impl AdminAddresses {
    /// Nothing is served yet.
    pub(super) fn new(service: admin::Service, files: SocketFiles, reports: Sender<Report>) -> Self {
        let (current, retired, is_handed_over) = Default::default();
        let state = State { service, files, reports, current, retired, is_handed_over };
        Self(Arc::new(Mutex::new(Some(state))))
    }

    /// At the start: all are ready, and serve once they are [released](Self::release).
    pub(super) fn prepare_all(&self, bound: Vec<Bound>) -> Result<Vec<Address>, StartError> {
        let mut state = self.lock();
        let addresses = bound.iter().map(|one| one.address.clone()).collect();
        if let Some(state) = &mut *state {
            for one in bound {
                let serving = state.start(one)?;
                state.current.push(serving);
            }
        }
        Ok(addresses)
    }

    /// Serves what was prepared at the start.
    pub(super) fn release(&self) {
        let mut state = self.lock();
        state.iter_mut().flat_map(|state| &mut state.current).for_each(Serving::release);
    }

    /// Makes ready what is wanted; where it was served before, that goes on until the commit.
    pub(super) fn prepare(&self, wanted: &[Address]) -> Result<Next, StartError> {
        let state = self.lock();
        let mut next = Next { wanted: wanted.to_vec(), new: Vec::new() };
        let Some(state) = &*state else { return Ok(next) };
        let is_new = |asked: &&Address| !state.current.iter().any(|it| it.is_at(asked));
        for asked in wanted.iter().filter(is_new) {
            next.new.push(state.start(Bound::new(asked.clone(), None, &state.files)?)?);
        }
        Ok(next)
    }

    pub(super) fn commit(&self, Next { wanted, mut new }: Next) {
        let Some(state) = &mut *self.lock() else { return };
        state.retired.retain(|it| it.thread.as_ref().is_some_and(|thread| !thread.is_finished()));
        let stays = |it: &Serving| wanted.iter().any(|asked| it.is_at(asked));
        for serving in &mut new {
            serving.release();
            tracing::info!("admin is on {}", serving.address);
        }
        let (staying, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.current).into_iter().partition(stays);
        state.current = staying.into_iter().chain(new).collect();
        for mut gone in gone {
            tracing::info!("admin is no longer on {}", gone.address);
            gone.listener = None;
            gone.stop.when_answered();
            gone.file = None;
            state.retired.push(gone);
        }
    }

    /// Their sockets, for another process.
    pub(super) fn given(&self) -> Vec<Given> {
        let state = self.lock();
        let current = state.iter().flat_map(|state| &state.current);
        let given = |it: &Serving| {
            Some(Given {
                purpose: Some(Purpose::Admin),
                asked: it.asked.clone(),
                bound: it.address.clone(),
                sockets: vec![it.listener.as_ref()?.try_clone().ok()?],
                is_shared: true,
                owns_file: it.file.is_some(),
            })
        };
        current.filter_map(given).collect()
    }

    /// Another process serves there from now on.
    pub(super) fn retire(&self) {
        self.commit(Next { wanted: Vec::new(), new: Vec::new() });
        if let Some(state) = &mut *self.lock() {
            state.is_handed_over = true;
        }
    }

    /// Ends all threads, for good. After a hand-over it waits until they have answered, no longer than a
    /// connection may take.
    pub(super) fn stop(&self) {
        let Some(mut state) = self.lock().take() else { return };
        if state.is_handed_over {
            state.retired.iter_mut().for_each(|it| drop(it.thread.take().map(JoinHandle::join)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AdminAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminAddresses")
    }
}

impl Serving {
    /// Whether it serves there, and clients find it: not if somebody has removed or replaced the file.
    fn is_at(&self, asked: &Address) -> bool {
        self.asked == *asked && self.file.as_ref().is_none_or(|file| file.is_in_place())
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            // A thread that has ended is reported.
            let _ = held.send(());
        }
    }
}

impl State {
    fn start(&self, Bound { asked, address, listener, file }: Bound) -> Result<Serving, StartError> {
        let resource = |error: std::io::Error| StartError::resource("descriptor", &error);
        let duplicate = listener.try_clone().map_err(resource)?;
        let stop = Stop::new().map_err(|error| StartError::resource("event descriptor", &error))?;
        let (theirs, service) = (stop.clone(), self.service.clone());
        let ((began, begun), (held, released)) = (channel(), channel());
        let thread = watched("admin", self.reports.clone(), move || {
            let (failed, mut is_ready) = (began.clone(), false);
            let ready = || {
                is_ready = true;
                drop(began.send(Ok(())));
                released.recv().is_ok()
            };
            match admin::serve(listener, &theirs, &service, ready) {
                Err(error) if is_ready => {
                    Err(format!("cannot go on: {}; try: offramp probe", errno::name(&error)))
                }
                Err(error) => {
                    drop(failed.send(Err(error)));
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        })?;
        let (listener, held, thread) = (Some(duplicate), Some(held), Some(thread));
        let serving = Serving { asked, address, listener, stop, held, thread, file };
        match begun.recv() {
            Ok(Ok(())) => Ok(serving),
            Ok(Err(error)) => Err(StartError::resource("ring for admin", &error)),
            // It panicked, which is reported.
            Err(_) => Err(ThreadLost::new("the thread admin", "ended before it was ready").into()),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.held = None;
        self.stop.at_once();
        // Its panics were caught.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
