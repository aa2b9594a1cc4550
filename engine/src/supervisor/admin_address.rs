//! The admin address and its thread. A reload may move it: the new one serves before the old one ends.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::crew::{Report, watched};
use super::inherited::{Given, Purpose};
use super::sockets::{bind_admin, bound};
use super::{StartError, ThreadLost};
use crate::admin::{self, Stop};
use crate::sys::errno;

/// Where the control plane serves, if anywhere; shared by who changes it and who ends it.
#[derive(Clone, Default)]
pub(super) struct AdminAddress(Arc<Mutex<Option<State>>>);

struct State {
    service: admin::Service,
    reports: Sender<Report>,
    current: Option<Serving>,
    /// Those that are no longer wanted, and answer who is connected.
    retired: Vec<Serving>,
    /// Another process serves there, and who has asked for that waits for an answer.
    is_handed_over: bool,
}

/// A thread that serves. Dropped, it ends at once.
struct Serving {
    /// As configured.
    asked: SocketAddr,
    address: SocketAddr,
    /// A duplicate, to be handed over; none once it is no longer served there.
    listener: Option<OwnedFd>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

/// A socket that listens, and is not served yet.
pub(super) struct Bound {
    asked: SocketAddr,
    address: SocketAddr,
    listener: OwnedFd,
}

/// What will serve from then on: to be put in force, or dropped.
pub(super) struct Next(Option<Option<Serving>>);

impl Bound {
    pub(super) fn new(asked: SocketAddr) -> Result<Self, StartError> {
        let listener = bind_admin(asked)?;
        let address = bound(&listener, asked)?;
        Ok(Self { asked, address, listener })
    }

    /// One that another process has opened, or a new one.
    pub(super) fn given(given: Option<Given>, asked: SocketAddr) -> Result<Self, StartError> {
        let given = given.and_then(|it| Some((it.bound.tcp()?, it.sockets.into_iter().next()?)));
        given.map_or_else(|| Self::new(asked), |(address, listener)| Ok(Self { asked, address, listener }))
    }
}

impl AdminAddress {
    /// Nothing is served yet.
    pub(super) fn new(service: admin::Service, reports: Sender<Report>) -> Self {
        Self(Arc::new(Mutex::new(Some(State {
            service,
            reports,
            current: None,
            retired: Vec::new(),
            is_handed_over: false,
        }))))
    }

    /// At the start.
    pub(super) fn serve(&self, bound: Bound) -> Result<SocketAddr, StartError> {
        let mut state = self.lock();
        let address = bound.address;
        if let Some(state) = &mut *state {
            state.current = Some(state.start(bound)?);
        }
        Ok(address)
    }

    /// Serves where it is wanted; where it was served before, that goes on until the commit.
    pub(super) fn prepare(&self, wanted: Option<SocketAddr>) -> Result<Next, StartError> {
        let state = self.lock();
        let Some(state) = &*state else { return Ok(Next(None)) };
        if state.current.as_ref().map(|current| current.asked) == wanted {
            return Ok(Next(None));
        }
        let serving = wanted.map(|asked| state.start(Bound::new(asked)?)).transpose()?;
        Ok(Next(Some(serving)))
    }

    pub(super) fn commit(&self, next: Next) {
        let (Some(state), Next(Some(next))) = (&mut *self.lock(), next) else { return };
        state.retired.retain(|it| it.thread.as_ref().is_some_and(|thread| !thread.is_finished()));
        if let Some(next) = &next {
            tracing::info!("admin is on {}", next.address);
        }
        if let Some(mut gone) = std::mem::replace(&mut state.current, next) {
            tracing::info!("admin is no longer on {}", gone.address);
            gone.listener = None;
            gone.stop.when_answered();
            state.retired.push(gone);
        }
    }

    /// Its socket, for another process.
    pub(super) fn given(&self) -> Option<Given> {
        let state = self.lock();
        let current = state.as_ref()?.current.as_ref()?;
        let socket = current.listener.as_ref()?.try_clone().ok()?;
        Some(Given {
            purpose: Some(Purpose::Admin),
            asked: current.asked.into(),
            bound: current.address.into(),
            sockets: vec![socket],
            is_shared: true,
            owns_file: false,
        })
    }

    /// Another process serves there from now on.
    pub(super) fn retire(&self) {
        self.commit(Next(Some(None)));
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

impl fmt::Debug for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminAddress")
    }
}

impl State {
    fn start(&self, Bound { asked, address, listener }: Bound) -> Result<Serving, StartError> {
        let resource = |error: std::io::Error| StartError::resource("descriptor", &error);
        let duplicate = listener.try_clone().map_err(resource)?;
        let stop = Stop::new().map_err(|error| StartError::resource("event descriptor", &error))?;
        let (theirs, service) = (stop.clone(), self.service.clone());
        let (began, begun) = channel();
        let thread = watched("admin", self.reports.clone(), move || {
            let (failed, mut is_ready) = (began.clone(), false);
            let ready = || {
                is_ready = true;
                drop(began.send(Ok(())));
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
        let serving = Serving { asked, address, listener: Some(duplicate), stop, thread: Some(thread) };
        match begun.recv() {
            Ok(Ok(())) => Ok(serving),
            Ok(Err(error)) => Err(StartError::resource("ring for the admin address", &error)),
            // It panicked, which is reported.
            Err(_) => Err(ThreadLost::new("the thread admin", "ended before it was ready").into()),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.at_once();
        // Its panics were caught.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
