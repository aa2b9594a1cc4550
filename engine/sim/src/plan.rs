//! How a world begins, and how it ended.

use std::sync::Arc;

use super::kernel::KernelProfile;
use super::peer::{Peer, Script};
use super::watch::{Watched, Wire};
use offramp_core::config::Fingerprint;
use offramp_core::conn::action::{Milestone, ProxiedAddresses, Report};
use offramp_core::conn::fault::Fault;
use offramp_core::tls::TlsInfo;

/// What the backend does, once the plain leg is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Sends back what it gets, and its end after the peer's.
    Echo,
    /// Sends this at once, then as `Echo`.
    Greets(Vec<u8>),
    /// Sends this and its end at once, whatever it gets.
    AnswersAndCloses(Vec<u8>),
    /// Resets the connection when it has got this many bytes.
    ResetsAfter(usize),
    /// Takes connections and bytes and says nothing, ever.
    Silent,
    /// Takes this many bytes and no more.
    Stalls(usize),
}

/// Something that befalls the world at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    /// The peer resets the connection.
    PeerReset,
    /// The peer's FIN comes without close_notify.
    PeerFin,
    /// Every operation on the plain leg fails from here on.
    PlainPeerReset,
    /// A bit of what the peer sent is flipped.
    FlippedBit,
    /// The engine begins to drain.
    Drain,
    /// Its memory is wanted for others.
    NoMoreMemory,
    /// Its slot is wanted for a newcomer, before it is established or while it ends.
    Evicted,
    /// The kill switch of the offload is thrown.
    NoMoreOffload,
    /// The kernel takes no keys any more, and says this errno.
    NoMoreKeys(i32),
}

/// How a world begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the handshake draws, and the dice.
    pub seed: u64,
    /// What the dice throw instead, if anything.
    pub dice: Option<Vec<u8>>,
    /// The peer's part.
    pub script: Script,
    /// The backend's part.
    pub backend: Backend,
    /// The errno with which every endpoint refuses the leg that is connected.
    pub refuses: Option<i32>,
    /// The errno with which the first endpoint does.
    pub first_refuses: Option<i32>,
    /// Whether the first endpoint answers nothing.
    pub first_is_silent: bool,
    /// Whether the last one does not.
    pub last_is_silent: bool,
    /// Why the client that a PROXY header names is turned away, if it is.
    pub turns_away: Option<Fault>,
    /// Whether a full handshake may be begun as a server.
    pub may_begin_full: bool,
    /// A PROXY header that the accepted leg begins with.
    pub header: Option<Vec<u8>>,
    /// What is sent on the plain leg before anything else, if that is the one that is connected.
    pub preamble: Option<Vec<u8>>,
    /// The kernel's part.
    pub habits: KernelProfile,
    /// How many bytes of the peer's last flight, and of what comes with it, one receive gets, before the
    /// dice decide; 0 leaves it to them at once.
    pub cut: usize,
    /// What befalls it, at which step.
    pub mishap: Option<(usize, InjectedFault)>,
    /// The fingerprints that become known of the peer, at which step; or when nothing else happens.
    pub pinned: Option<(usize, Arc<[Fingerprint]>)>,
    /// Whether it is ended for a newcomer as soon as nothing else happens, once.
    pub evicted_when_idle: bool,
}

impl Plan {
    /// A peer that sends `sends` and closes, a backend that echoes, a kernel that takes everything.
    #[must_use]
    pub fn new(seed: u64, sends: Vec<u8>) -> Self {
        let script = Script { sends, closes_first: true, ..Script::default() };
        let (backend, habits) = (Backend::Echo, KernelProfile::default());
        Self {
            seed,
            dice: None,
            script,
            backend,
            refuses: None,
            first_refuses: None,
            first_is_silent: false,
            last_is_silent: false,
            turns_away: None,
            may_begin_full: true,
            header: None,
            preamble: None,
            habits,
            cut: 0,
            mishap: None,
            pinned: None,
            evicted_when_idle: false,
        }
    }
}

/// How a world ended.
#[derive(Debug)]
pub struct Outcome {
    /// What the connection reported.
    pub report: Report,
    /// What the handshake came to, if it was completed.
    pub established: Option<Box<TlsInfo>>,
    /// What a PROXY header has said.
    pub proxied: Option<ProxiedAddresses>,
    /// What it noted on the way.
    pub notes: Vec<Milestone>,
    /// What the backend got.
    pub to_backend: Vec<u8>,
    /// Whether the backend read an orderly end.
    pub backend_saw_end: bool,
    /// Whether the backend was reset.
    pub backend_was_reset: bool,
    /// The peer.
    pub peer: Peer,
    /// One receive ended where the plan says that the last flight is cut.
    pub was_cut: bool,
    /// What the peer said in the handshake is not what came: the two may have different keys.
    pub was_altered: bool,
    /// How many bytes of the backend's the connection has received.
    pub from_backend: usize,
    /// How many bytes of application data the connection has received in whole, authentic records, up to the
    /// peer's end or the first record that is none.
    pub authentic: usize,
    /// How many bytes lie in our socket behind an orderly end, until the backend takes them.
    pub in_socket: usize,
    /// The plain leg was open.
    pub plain_was_open: bool,
    /// What was on the wire of the TLS leg.
    pub wire: Wire,
    /// What was found on it.
    pub watched: Watched,
    /// Steps taken.
    pub steps: usize,
    /// A digest of all that happened at the connection, in order, with every byte.
    pub transcript: u64,
}
