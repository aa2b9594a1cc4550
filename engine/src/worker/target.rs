//! Which endpoint a connection goes to, and what becomes known of that endpoint by it.

use std::time::Instant;

use super::about::About;
use super::route::{Destination, Route};
use crate::conn::action::Report;
use crate::conn::event::Leg;
use crate::conn::fault::Fault;
use crate::metrics::PoolCounter;
use crate::pool::{Endpoint, Key, Tried};

/// Where a connection goes. An endpoint that is chosen is left again ([`Target::leave`]).
#[derive(Debug, Default)]
pub(super) struct Target {
    /// A place in [`Route::destinations`], once it is known.
    destination: Option<usize>,
    /// The endpoint that was chosen last, by its place in the pool.
    endpoint: Option<usize>,
    tried: Tried,
    /// It has neither failed nor succeeded.
    is_open: bool,
}

impl Target {
    /// The next endpoint that the connection has not tried. One that was being tried counts as failed. Where
    /// there is no other, all stays as it is.
    pub(super) fn next<'a>(
        &mut self,
        route: &'a Route,
        about: Option<&About>,
        worker: usize,
        now: Instant,
    ) -> Option<&'a Endpoint> {
        let destination = self.destination.or_else(|| route.find(about))?;
        self.destination = Some(destination);
        let key = about.map_or_else(Key::default, |about| Key {
            client: about.client.map(|client| client.ip()),
            server_name: about.server_name(),
        });
        let Destination { pool, counters, .. } = route.destinations.get(destination)?;
        let place = pool.choose(self.tried, key, now)?;
        if self.is_open {
            self.failed(route);
        }
        self.leave(route, worker);
        let endpoint = pool.endpoints().get(place)?;
        endpoint.state.enter(worker);
        counters.add(PoolCounter::Attempts);
        if self.tried != Tried::default() {
            counters.add(PoolCounter::Retries);
        }
        self.tried.add(place);
        (self.endpoint, self.is_open) = (Some(place), true);
        Some(endpoint)
    }

    /// Where it goes.
    pub(super) fn destination<'a>(&self, route: &'a Route) -> Option<&'a Destination> {
        route.destinations.get(self.destination?)
    }

    /// The endpoint that was chosen last.
    pub(super) fn endpoint<'a>(&self, route: &'a Route) -> Option<&'a Endpoint> {
        self.destination(route)?.pool.endpoints().get(self.endpoint?)
    }

    /// The endpoint does what it is there for.
    pub(super) fn succeeded(&mut self, route: &Route) {
        self.is_open = false;
        self.endpoint(route).into_iter().for_each(|endpoint| endpoint.state.succeeded());
    }

    /// The endpoint does not.
    pub(super) fn failed(&mut self, route: &Route) {
        self.is_open = false;
        if let (Some(destination), Some(endpoint)) = (self.destination(route), self.endpoint(route)) {
            endpoint.state.failed();
            destination.counters.add(PoolCounter::Failures);
        }
    }

    /// What this host lacks says nothing of the endpoint.
    pub(super) fn spare(&mut self) {
        self.is_open = false;
    }

    /// The connection is over. Where the client has chosen the name of the server, a handshake that this name
    /// makes fail says nothing of the endpoint.
    pub(super) fn ended(&mut self, route: &Route, report: &Report, is_named_by_client: bool, worker: usize) {
        // A server that does not have the name may say so, close, or say nothing.
        let is_of_name = matches!(
            report.fault,
            Some(
                Fault::PeerCertificateRefused
                    | Fault::AlertInHandshake
                    | Fault::ClosedInHandshake
                    | Fault::HandshakeTimeout
            )
        );
        let is_ours =
            report.fault.is_some_and(|fault| fault == Fault::Internal || fault.is_for_want_of_time());
        if self.is_open && report.culprit == Some(Leg::Far) && !is_ours && !(is_named_by_client && is_of_name)
        {
            self.failed(route);
        }
        self.leave(route, worker);
    }

    fn leave(&mut self, route: &Route, worker: usize) {
        self.endpoint(route).into_iter().for_each(|endpoint| endpoint.state.leave(worker));
        self.endpoint = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::{EndpointState, Pool};
    use crate::sys::socket::Address;

    /// How many failures of its endpoint a connection leaves that ends like this.
    #[expect(clippy::disallowed_methods, reason = "a test has no clock of a worker")]
    fn failures(fault: Fault, is_named_by_client: bool) -> u32 {
        let address = Address::Tcp(([127, 0, 0, 1], 1).into());
        let state = Arc::new(EndpointState::new(1));
        let endpoint = Endpoint::new(address.clone(), Arc::clone(&state)).expect("an address");
        let route = Route::to(address, Pool::of("far".into(), vec![endpoint]));
        let mut target = Target::default();
        assert!(target.next(&route, None, 0, Instant::now()).is_some());
        let report = Report { fault: Some(fault), culprit: Some(Leg::Far), heard: None, evidence: None };
        target.ended(&route, &report, is_named_by_client, 0);
        assert_eq!(state.connections(), 0);
        state.failures()
    }

    #[test]
    fn endpoint_is_not_blamed_for_the_name_of_a_client() {
        for fault in [
            Fault::PeerCertificateRefused,
            Fault::AlertInHandshake,
            Fault::ClosedInHandshake,
            Fault::HandshakeTimeout,
        ] {
            assert_eq!((failures(fault, false), failures(fault, true)), (1, 0), "{fault:?}");
        }
        assert_eq!(failures(Fault::ConnectTimeout, true), 1);
        assert_eq!(failures(Fault::LifetimeOver, false), 0);
    }
}
