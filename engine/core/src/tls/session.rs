//! The handshake of one connection: the only file that names rustls's connection interface.
//!
//! A `Session` is fed bytes and yields bytes until it is `Established`; then rustls is left behind for good:
//! keys and sequence numbers of both directions come out, and the kernel or userspace goes on from there.
//! What remains of rustls is, in TLS 1.3, the secret from which a KeyUpdate derives the next keys.

use offramp_proto::alert::{
    DECODE_ERROR, HANDSHAKE_FAILURE, MISSING_EXTENSION, PROTOCOL_VERSION, UNEXPECTED_MESSAGE,
    UNRECOGNIZED_NAME,
};
use std::fmt;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::time_provider::TimeProvider;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{CommonState, ConnectionTrafficSecrets, Error, HandshakeKind, ServerConfig};

use super::evidence::{self, Evidence, Offered};
use super::full::{Full, with_permission};
use super::hello::{Finding, HelloReader};
use super::info::{self, TlsInfo};
use super::originate::Server;
use super::peer::{PeerRefusal, PeerVerdict, Peers};
use super::pending::PendingPeer;
use super::profile::version_and_aead;
use super::record::{HEADER_BYTES, Header, RecordType};
pub use super::refusal::{Refusal, alert_in_the_clear, description_in_the_clear};
use super::refusal::{alert_of, is_incompatible_key, is_no_name, is_unknown_name};
use super::secrets::{Cipher, Direction, TrafficKeys, Version};
use super::tickets::{SessionBirth, with_origin};
use super::{Role, TlsPolicy};
use crate::buf::Buf;
use crate::config::UnknownName;

/// A handshake in progress, in either role.
pub struct Session {
    connection: Connection,
    /// Bytes at the front of the input that rustls was shown and has not discarded.
    shown: usize,
    hello: HelloReader,
    /// Whether `hello` reads the second one already, which answers a HelloRetryRequest.
    retried: bool,
    origin: SessionBirth,
    judge: Judge,
    /// By the client, for the log.
    offered: Option<Offered>,
    /// Why it was refused, likewise.
    reason: Option<Box<str>>,
    /// The alert for it, as far as that is known.
    alert: Option<u8>,
    refuses_unknown_names: bool,
    /// In the server's role: what the client has asked for.
    server_name: Option<Box<str>>,
    /// In the server's role: whether a full handshake may be begun now.
    may_begin_full: bool,
    has_begun_full: bool,
}

/// rustls's connection, by role.
enum Connection {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// Who says whether the peer may stay.
enum Judge {
    OfClients(Arc<ServerConfig>, Arc<Peers>),
    OfServer(Server),
}

/// What one call into rustls came to.
enum Turn {
    /// Something was put into the output, or was seen to be.
    Sent,
    WantsMore,
    Refused(Refusal),
    Failed(Error),
}

/// What a session wants after it was fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes from the peer.
    NeedsMore,
    /// Nothing: once its output is sent, the handshake is complete.
    Complete,
}

/// A complete handshake: what the stages after it need, and no connection any more.
#[derive(Debug)]
pub struct Established {
    /// What protects the records.
    pub cipher: Cipher,
    /// What was negotiated. A resumed handshake is one without public-key authentication, and in TLS 1.2 of
    /// one round trip (A7).
    pub info: Box<TlsInfo>,
    /// Whether the peer is one that may connect; where that is not known yet, what is to be judged.
    pub peer: Result<Option<PendingPeer>, PeerRefusal>,
    /// For records from us.
    pub tx: TrafficKeys,
    /// For records from the peer.
    pub rx: TrafficKeys,
    /// Makes the keys that follow a KeyUpdate; TLS 1.3 only.
    pub rekey: Option<Rekey>,
}

impl Session {
    /// In the role that the policy is for. A client asks for `name` if the policy forwards names.
    ///
    /// # Errors
    /// [`Refusal::Internal`] if the library refuses the configuration.
    pub fn begin(policy: &TlsPolicy, name: Option<&str>) -> Result<Self, Refusal> {
        let internal = |_| Refusal::Internal;
        let mut origin = SessionBirth::default();
        let (connection, judge) = match &policy.role {
            Role::Terminate { server, peers, .. } => {
                let connection = UnbufferedServerConnection::new(Arc::clone(server)).map_err(internal)?;
                (
                    Connection::Server(Box::new(connection)),
                    Judge::OfClients(Arc::clone(server), Arc::clone(peers)),
                )
            }
            Role::Originate(origination) => {
                let server = Server::new(origination, name);
                let (config, name) = (Arc::clone(&origination.config), server.name().clone());
                // The hello is made here, and with it a session is offered.
                let client = with_origin(&mut origin, || UnbufferedClientConnection::new(config, name));
                let client = client.map_err(internal)?;
                (Connection::Client(Box::new(client)), Judge::OfServer(server))
            }
        };
        let (hello, refuses_unknown_names) = match &policy.role {
            Role::Terminate { unknown_name, .. } => {
                (HelloReader::of_client(), *unknown_name == UnknownName::Refuse)
            }
            Role::Originate(_) => (HelloReader::of_server(), false),
        };
        Ok(Self {
            connection,
            shown: 0,
            hello,
            retried: false,
            origin,
            judge,
            refuses_unknown_names,
            server_name: None,
            may_begin_full: true,
            has_begun_full: false,
            offered: None,
            reason: None,
            alert: None,
        })
    }

    /// Whether a full handshake may be begun as a server in the calls of [`Session::feed`] that follow; at
    /// the beginning it may.
    pub fn allow_full(&mut self, may_begin: bool) {
        self.may_begin_full = may_begin;
    }

    /// Whether one was begun since this was asked last.
    pub fn took_full(&mut self) -> bool {
        std::mem::take(&mut self.has_begun_full)
    }

    /// Takes what it can use from the front of `incoming` and appends what is to be sent to `outgoing`. Stops
    /// behind the record that completes the handshake: what follows is for the record paths.
    ///
    /// # Errors
    /// A [`Refusal`], after which the session must not be fed again; `outgoing` then ends with the alert.
    pub fn feed(&mut self, incoming: &mut Buf, outgoing: &mut Buf) -> Result<Progress, Refusal> {
        let result = self.advance(incoming, outgoing);
        if let (Err(_), Judge::OfServer(server)) = (result, &self.judge)
            && self.origin != SessionBirth::default()
        {
            // It may be the session that was offered.
            server.forget_sessions();
        }
        result
    }

    fn advance(&mut self, incoming: &mut Buf, outgoing: &mut Buf) -> Result<Progress, Refusal> {
        loop {
            let shown = &mut incoming.filled_mut()[..self.shown];
            let connection = &mut self.connection;
            if connection.begins_a_session() {
                // Whatever a ticket said that was opened or offered, and not used.
                self.origin = SessionBirth::default();
            }
            let call = || with_origin(&mut self.origin, || connection.turn(shown, outgoing));
            let ((discard, turn), full) = with_permission(self.may_begin_full, call);
            self.has_begun_full |= full == Full::Begun;
            self.server_name = info::take_server_name().or(self.server_name.take());
            let wants_more = match turn {
                Turn::Sent => false,
                Turn::WantsMore => true,
                Turn::Refused(refusal) => return Err(refusal),
                Turn::Failed(error) if full == Full::Refused => {
                    self.flush_alert(incoming, outgoing);
                    if let Some(alert) = self.unsaid_alert(&error).filter(|_| outgoing.is_empty()) {
                        outgoing.extend(&alert_in_the_clear(alert));
                    }
                    return Err(Refusal::FullHandshakeLimit);
                }
                Turn::Failed(error) if is_unknown_name(&error) || is_no_name(&error) => {
                    outgoing.extend(&alert_in_the_clear(UNRECOGNIZED_NAME));
                    return Err(Refusal::UnknownName);
                }
                Turn::Failed(error) => {
                    (self.reason, self.alert) = (Some(evidence::reason(&error)), alert_of(&error));
                    self.flush_alert(incoming, outgoing);
                    if let Some(alert) = self.unsaid_alert(&error).filter(|_| outgoing.is_empty()) {
                        outgoing.extend(&alert_in_the_clear(alert));
                    }
                    return Err(Refusal::from(&error));
                }
            };
            incoming.consume(discard);
            self.shown -= discard;
            let common = self.connection.common();
            if !common.is_handshaking() && !common.wants_write() {
                return if self.shown == 0 { Ok(Progress::Complete) } else { Err(Refusal::Internal) };
            }
            if wants_more {
                match self.show_more(incoming.filled()) {
                    Ok(true) => {}
                    Ok(false) => return Ok(Progress::NeedsMore),
                    Err((refusal, alert)) => {
                        outgoing.extend(&alert_in_the_clear(alert));
                        return Err(refusal);
                    }
                }
            }
        }
    }

    /// Shows rustls one more record of the input, and never one behind the handshake's last: it would open it
    /// and change its keys without a word (a KeyUpdate in the flight of a Finished). What is no record it is
    /// shown whole, to refuse it.
    fn show_more(&mut self, incoming: &[u8]) -> Result<bool, (Refusal, u8)> {
        let unseen = &incoming[self.shown..];
        let more = match Header::read(unseen) {
            Ok(Some(header)) if header.record_bytes() <= unseen.len() => {
                if header.record_type == RecordType::Handshake {
                    self.read_hello(&unseen[HEADER_BYTES..header.record_bytes()])?;
                }
                header.record_bytes()
            }
            Ok(_) => 0,
            Err(_) => unseen.len(),
        };
        self.shown += more;
        Ok(more > 0)
    }

    /// What rustls would not refuse, or with another alert. In TLS 1.3 a second hello may follow, likewise in
    /// the clear; nothing else that comes in records of this type is.
    fn read_hello(&mut self, payload: &[u8]) -> Result<(), (Refusal, u8)> {
        let retry =
            self.connection.common().handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest);
        if retry && !self.retried {
            self.hello = self.hello.again();
            self.retried = true;
        }
        if self.offered.is_none() && matches!(self.connection, Connection::Server(_)) {
            self.offered = Some(Offered::read(payload));
        }
        match self.hello.read(payload) {
            Finding::Nothing | Finding::Unfinished => Ok(()),
            // "The server MUST then verify that the length of the renegotiated_connection field is zero,
            // and if it is not, MUST abort the handshake": RFC 5746 §3.6, and §3.4 for the client (A6b, A6d).
            Finding::RenegotiationInfo => Err((Refusal::RenegotiationInfo, HANDSHAKE_FAILURE)),
            // "If server supports (or is willing to use) only versions greater than
            // client_version, it MUST send a protocol_version alert": RFC 5246 Appendix E.1 (B1).
            Finding::NoCommonVersion => Err((Refusal::NoCommonVersion, PROTOCOL_VERSION)),
            // "Servers receiving a ClientHello which does not conform to these requirements MUST abort the
            // handshake with a missing_extension alert": RFC 8446 §9.2 (B5a).
            Finding::MissingExtension => Err((Refusal::MissingExtension, MISSING_EXTENSION)),
            // "Literal IPv4 and IPv6 addresses are not permitted in "HostName"": RFC 6066 §3. It is a name
            // that no certificate has, and what becomes of those is for the operator to say.
            Finding::AddressAsName if self.refuses_unknown_names => {
                Err((Refusal::UnknownName, UNRECOGNIZED_NAME))
            }
            Finding::AddressAsName => Ok(()),
        }
    }

    /// What the client offered and why it was refused, as far as that is known.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        self.offered.as_ref().unwrap_or(&Offered::default()).evidence(self.reason.clone())
    }

    /// The description of the alert that ended it, where that is sealed and known.
    pub fn alert(&self) -> Option<u8> {
        self.alert
    }

    /// What the client offered, for who outlives the session.
    pub fn take_offered(&mut self) -> Offered {
        self.offered.take().unwrap_or_default()
    }

    /// Whether the ClientHello has not come whole, and so nothing can be encrypted yet.
    #[must_use]
    pub fn awaits_hello(&self) -> bool {
        self.connection.common().protocol_version().is_none()
    }

    /// What is due for an error of which rustls says nothing to the peer: the incompatible key, and what its
    /// deframer finds while it puts fragments together.
    fn unsaid_alert(&self, error: &Error) -> Option<u8> {
        match error {
            error if is_incompatible_key(error) => Some(HANDSHAKE_FAILURE),
            Error::InvalidMessage(_) if self.awaits_hello() => Some(DECODE_ERROR),
            Error::PeerMisbehaved(_) if self.awaits_hello() => Some(UNEXPECTED_MESSAGE),
            _ => None,
        }
    }

    /// Leaves rustls behind. To be called once, after [`Progress::Complete`].
    ///
    /// # Errors
    /// [`Refusal::Internal`] if the library does not part with the keys.
    pub fn establish(self) -> Result<Established, Refusal> {
        let common = self.connection.common();
        let suite = common.negotiated_cipher_suite().ok_or(Refusal::Internal)?;
        let (version, aead) = version_and_aead(suite).ok_or(Refusal::Internal)?;
        let resumed = common.handshake_kind() == Some(HandshakeKind::Resumed);
        let chain = common.peer_certificates();
        let now = |time: &dyn TimeProvider| time.current_time().ok_or(Refusal::Internal);
        let (verdict, server) = match &self.judge {
            Judge::OfClients(server, peers) => {
                (peers.judge(chain, resumed, now(&*server.time_provider)?), None)
            }
            Judge::OfServer(server) => {
                let now = now(&*server.origination.config.time_provider)?;
                (server.judge(chain, resumed, now), Some(server))
            }
        };
        let peer = verdict.map(|verdict| match verdict {
            PeerVerdict::Holds => None,
            PeerVerdict::Pending(certificate) => Some(PendingPeer::new(certificate, server.cloned())),
        });
        let server_name = self.server_name;
        let info = Box::new(TlsInfo { server_name, ..self.connection.info(version, resumed)? });
        let (secrets, rekey) = match self.connection {
            Connection::Server(server) => {
                let (secrets, kernel) =
                    server.dangerous_into_kernel_connection().map_err(|_| Refusal::Internal)?;
                (secrets, Kernel::Server(kernel))
            }
            Connection::Client(client) => {
                let (secrets, kernel) =
                    client.dangerous_into_kernel_connection().map_err(|_| Refusal::Internal)?;
                (secrets, Kernel::Client(kernel, if resumed { self.origin } else { SessionBirth::default() }))
            }
        };
        let rekey = (version == Version::Tls13).then_some(Rekey(rekey));
        let keys = |secrets| TrafficKeys::from_rustls(version, secrets).ok_or(Refusal::Internal);
        let (tx, rx) = (keys(secrets.tx)?, keys(secrets.rx)?);
        Ok(Established { cipher: Cipher::new(version, aead), info, peer, tx, rx, rekey })
    }

    /// After an error the library has its alert queued. It is asked only while it has something to send:
    /// asked for more, it would look at the input again, at places that were valid before the error.
    fn flush_alert(&mut self, incoming: &mut Buf, outgoing: &mut Buf) {
        while self.connection.common().wants_write() {
            let shown = &mut incoming.filled_mut()[..self.shown];
            let (_, Turn::Sent) = self.connection.turn(shown, outgoing) else { return };
        }
    }
}

impl Connection {
    fn common(&self) -> &CommonState {
        match self {
            Self::Server(server) => server,
            Self::Client(client) => client,
        }
    }

    /// Whether the handshake is a full one, as far as is known. A client that was asked for another hello may
    /// resume yet, and its session was found before; a server looks for one in each.
    fn begins_a_session(&self) -> bool {
        match self.common().handshake_kind() {
            Some(HandshakeKind::Full) => true,
            Some(HandshakeKind::FullWithHelloRetryRequest) => matches!(self, Self::Server(_)),
            Some(HandshakeKind::Resumed) | None => false,
        }
    }

    /// What was negotiated in a complete handshake, but for the name.
    fn info(&self, version: Version, resumed: bool) -> Result<TlsInfo, Refusal> {
        let common = self.common();
        let group = common.negotiated_key_exchange_group();
        Ok(TlsInfo {
            version,
            suite: common.negotiated_cipher_suite().ok_or(Refusal::Internal)?.suite().into(),
            group: group.and_then(|group| group.name().as_str()),
            resumed,
            server_name: None,
            alpn: common.alpn_protocol().map(Into::into),
            certificate: common.peer_certificates().and_then(<[_]>::first).map(|it| it.clone().into_owned()),
        })
    }

    /// One call into rustls: how much of the input it has no more use for, and what it came to.
    fn turn(&mut self, shown: &mut [u8], outgoing: &mut Buf) -> (usize, Turn) {
        match self {
            Self::Server(server) => turn(server.process_tls_records(shown), outgoing),
            Self::Client(client) => turn(client.process_tls_records(shown), outgoing),
        }
    }
}

fn turn<D>(status: UnbufferedStatus<'_, '_, D>, outgoing: &mut Buf) -> (usize, Turn) {
    let UnbufferedStatus { discard, state } = status;
    let turn = match state {
        Ok(ConnectionState::EncodeTlsData(mut flight)) => match flight.encode(outgoing.spare_mut()) {
            Ok(bytes) => {
                outgoing.commit(bytes);
                Turn::Sent
            }
            Err(_) => Turn::Refused(Refusal::FlightTooLong),
        },
        Ok(ConnectionState::TransmitTlsData(flight)) => {
            flight.done();
            Turn::Sent
        }
        Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => Turn::WantsMore,
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Turn::Refused(Refusal::Closed),
        Ok(_) => Turn::Refused(Refusal::Internal),
        Err(error) => Turn::Failed(error),
    };
    (discard, turn)
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session")
    }
}

/// What is left of rustls in TLS 1.3: it derives the traffic keys that follow a KeyUpdate (RFC 8446 §7.2),
/// and in the client's role it takes the tickets that come behind the handshake.
pub struct Rekey(Kernel);

enum Kernel {
    Server(KernelConnection<ServerConnectionData>),
    /// With the origin of the session that its tickets are of.
    Client(KernelConnection<ClientConnectionData>, SessionBirth),
}

impl Rekey {
    /// The next keys of a direction; they begin at sequence number 0.
    ///
    /// # Errors
    /// [`Refusal::Internal`] if the library refuses.
    pub fn next(&mut self, direction: Direction) -> Result<TrafficKeys, Refusal> {
        let secrets: Result<(u64, ConnectionTrafficSecrets), Error> = match (&mut self.0, direction) {
            (Kernel::Server(kernel), Direction::Tx) => kernel.update_tx_secret(),
            (Kernel::Server(kernel), Direction::Rx) => kernel.update_rx_secret(),
            (Kernel::Client(kernel, _), Direction::Tx) => kernel.update_tx_secret(),
            (Kernel::Client(kernel, _), Direction::Rx) => kernel.update_rx_secret(),
        };
        let secrets = secrets.map_err(|_| Refusal::Internal)?;
        TrafficKeys::from_rustls(Version::Tls13, secrets).ok_or(Refusal::Internal)
    }

    /// Whether the peer has tickets to give.
    #[must_use]
    pub fn takes_tickets(&self) -> bool {
        matches!(self.0, Kernel::Client(..))
    }

    /// Keeps a ticket of the server's for the next handshake with it; `message` is the body of a
    /// NewSessionTicket (RFC 8446 §4.6.1). A server does not take any.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if it cannot be parsed, [`Refusal::Unexpected`] in the server's role.
    pub fn take_ticket(&mut self, message: &[u8]) -> Result<(), Refusal> {
        match &mut self.0 {
            Kernel::Server(_) => Err(Refusal::Unexpected),
            Kernel::Client(kernel, origin) => {
                let taken = with_origin(origin, || kernel.handle_new_session_ticket(message));
                taken.map_err(|_| Refusal::Malformed)
            }
        }
    }
}

impl fmt::Debug for Rekey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rekey")
    }
}
