//! A media section, rewritten for the other side (rules 2 and 3).

use std::net::SocketAddr;

use offramp_proto::fingerprint::Fingerprint;

use crate::attribute::{ConnectionUse, E2ae, Setup, TlsId};
use crate::document::{Document, Section};
use crate::error::{Problem, SdpError};
use crate::fingerprints;
use crate::line::{Ending, Line};
use crate::media::{Transport, address_line};
use crate::remote::{DISCARD_PORT, Learnt, Remote};

/// What the gateway is to the side that reads the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// The gateway's address and port on that leg; port 0 rejects the stream.
    pub address: SocketAddr,
    /// TLS on that leg; without it the leg is plain.
    pub tls: Option<LocalTls>,
    /// a=setup of that leg; without it what the document says stays. Plain UDP has none.
    pub setup: Option<Setup>,
    /// a=connection of that leg; without it what the document says stays.
    pub connection: Option<ConnectionUse>,
    /// What happens to a=path.
    pub path: PathRule,
}

/// The gateway's TLS on a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTls {
    /// Of the gateway's certificate, at least one, each by another function.
    pub fingerprints: Vec<Fingerprint>,
    /// Names the association on that leg; without it no a=tls-id is written.
    pub tls_id: Option<TlsId>,
    /// Whether the gateway writes that it secures the access (a=3ge2ae:applied).
    pub e2ae: bool,
}

/// What happens to the first URI of a=path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathRule {
    /// With CEMA (RFC 6714) it stays: a=msrp-cema is there, or the address of the media differs from it
    /// already. Otherwise it gets our authority.
    #[default]
    Auto,
    /// It stays.
    Keep,
    /// It gets our authority, and the scheme that fits the leg. The session-id stays.
    Authority,
}

impl Document {
    /// Rewrites the section at `index` for the other side and returns what it said of its sender. A foreign
    /// section stays as it is; of a released one only the protocol is rewritten. Lines of the session stay:
    /// other media depend on them.
    ///
    /// # Errors
    /// Those of [`Document::learn`], and TLS without a fingerprint of ours. The document is then unchanged.
    pub fn rewrite(&mut self, index: usize, local: &Local) -> Result<Learnt, SdpError> {
        let learnt = self.learn(index)?;
        let ending = self.ending();
        let Some(section) = self.sections.get_mut(index) else { return Ok(learnt) };
        let Some(transport) = section.media.transport() else { return Ok(learnt) };
        if local.tls.as_ref().is_some_and(|tls| tls.fingerprints.is_empty()) {
            return Err(section.fault(Problem::NoFingerprint));
        }
        let transport = transport.with_tls(local.tls.is_some());
        let port = if learnt == Learnt::Released { 0 } else { local.address.port() };
        let text = section.media.rewrite(port, transport);
        section.lines[0].set(text);
        if let Learnt::Stream(remote) = &learnt {
            Rewriter { section, ending, transport }.apply(local, remote);
        }
        Ok(learnt)
    }
}

struct Rewriter<'a> {
    section: &'a mut Section,
    /// For a line that had none and is no longer the last one.
    ending: Ending,
    transport: Transport,
}

impl Rewriter<'_> {
    fn apply(&mut self, local: &Local, remote: &Remote) {
        self.put_address(local);
        self.put_path(local, remote);
        self.put_roles(local);
        let tls = local.tls.as_ref();
        let fingerprints = tls.map(|tls| tls.fingerprints.as_slice()).unwrap_or_default();
        self.put(fingerprints::NAME, fingerprints.iter().map(ToString::to_string).collect());
        let tls_id = tls.and_then(|tls| tls.tls_id.as_ref());
        self.put(TlsId::NAME, tls_id.iter().map(ToString::to_string).collect());
        let e2ae = tls.filter(|tls| tls.e2ae).map(|_| E2ae::Applied.name().to_owned());
        self.put(E2ae::NAME, e2ae.into_iter().collect());
    }

    fn put_address(&mut self, local: &Local) {
        let text = address_line(local.address.ip());
        match self.section.lines.iter_mut().find(|line| line.value_of(b'c').is_some()) {
            Some(line) => line.set(text),
            None => {
                let titles = self.section.lines[1..].iter().take_while(|line| line.value_of(b'i').is_some());
                let at = 1 + titles.count();
                self.section.insert(at, text, self.ending);
            }
        }
    }

    fn put_path(&mut self, local: &Local, remote: &Remote) {
        let Some(first) = remote.path.first() else { return };
        let stays = match local.path {
            PathRule::Auto => is_cema(remote),
            PathRule::Keep => true,
            PathRule::Authority => false,
        };
        if !stays {
            // Without the scope of an IPv6 address, which means nothing to others.
            let address = SocketAddr::new(local.address.ip(), local.address.port());
            let uris = std::iter::once(first.at(address, local.tls.is_some()));
            let others = remote.path[1..].iter().map(|uri| uri.as_str().to_owned());
            let path: Vec<String> = uris.chain(others).collect();
            self.put("path", vec![path.join(" ")]);
        }
    }

    fn put_roles(&mut self, local: &Local) {
        match local.setup {
            _ if self.transport == Transport::Udptl => self.put(Setup::NAME, Vec::new()),
            Some(setup) => self.put(Setup::NAME, vec![setup.name().to_owned()]),
            None => {}
        }
        if let Some(connection) = local.connection {
            self.put(ConnectionUse::NAME, vec![connection.name().to_owned()]);
        }
    }

    /// Has the section say these values of an attribute and no others: at its first place, or else at the
    /// end.
    fn put(&mut self, name: &str, values: Vec<String>) {
        let is_it = |line: &Line| line.attribute(name).is_some();
        let mut texts = values.into_iter().map(|value| format!("a={name}:{value}"));
        let place = self.section.lines.iter().position(is_it);
        let mut at = match (place, texts.next()) {
            (None, None) => return,
            (Some(_), None) => return self.section.remove(is_it),
            (None, Some(text)) => {
                let end = self.section.end();
                self.section.insert(end, text, self.ending);
                end
            }
            (Some(place), Some(text)) => {
                let mut is_first = true;
                self.section.remove(|line| is_it(line) && !std::mem::take(&mut is_first));
                self.section.lines[place].set(text);
                place
            }
        };
        for text in texts {
            at += 1;
            self.section.insert(at, text, self.ending);
        }
    }
}

/// Whether the addresses of the SDP, and not the path, say where to connect to (RFC 6714). Port 9 and the
/// unspecified address say nothing of it, and neither does a host name in the path, which is not looked up.
fn is_cema(remote: &Remote) -> bool {
    let (ip, port) = (remote.address.ip(), remote.address.port());
    let in_path = remote.path.first().and_then(|uri| uri.address());
    let differs = in_path.is_some_and(|in_path| {
        (!ip.is_unspecified() && in_path.ip() != ip) || (port != DISCARD_PORT && in_path.port() != port)
    });
    remote.cema || differs
}
