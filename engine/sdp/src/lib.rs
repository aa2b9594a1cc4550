//! The SDP of the media gateway: what an offer or answer says of a stream, and the same document for the
//! other side. Pure: no sockets, no clock, no cryptography. The engine does not use it yet.
//!
//! A [`Document`] keeps every byte. [`Document::learn`] reads what a media section says of its sender, and
//! [`Document::rewrite`] changes the lines that describe the gateway. [`agree`] decides who connects and who
//! is the TLS client, [`association`] whether a new offer keeps the association, and [`FingerprintSet`]
//! which certificates hold.
//!
//! - TS 23.334 clause 5.11, TS 33.328: MSRP between a phone with TLS and a plain core (e2ae), in either
//!   direction; TCP direction and TLS role.
//! - RFC 8866 (4566): lines and sections; m= and c= with one unicast address and one port. Other lines pass.
//! - RFC 4145, 6135: a=setup in all its combinations, also for MSRP; a=connection; port 9.
//! - RFC 8122: a=fingerprint by sha-256, sha-384, sha-512; media before session; the strongest counts.
//! - RFC 8842: a=tls-id, and what keeps an association.
//! - RFC 4975: the MSRP URIs of a=path; the offerer connects where a=setup is missing.
//! - RFC 6714: CEMA: a=msrp-cema, or a path that differs from the media's address. The path then stays.
//! - TS 24.229 clause 7.5.2: a=3ge2ae.
//!
//! Not here: RTP, host names in c=, several c= lines, To-Path and From-Path inside MSRP.
//!
//! # Example
//!
//! A phone offers MSRP over TLS; the core gets it plain.
//!
//! ```
//! use offramp_sdp::{Document, Learnt, Local, PathRule, Setup};
//!
//! let offer = b"v=0\r\no=ue 1 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\n\
//!     m=message 9 TCP/TLS/MSRP *\r\na=setup:active\r\na=msrp-cema\r\n";
//! let mut document = Document::parse(offer)?;
//! let gateway = Local {
//!     address: "198.51.100.1:20000".parse().expect("an address"),
//!     tls: None,
//!     setup: Some(Setup::Actpass),
//!     connection: None,
//!     path: PathRule::Auto,
//! };
//! let Learnt::Stream(phone) = document.rewrite(0, &gateway)? else { panic!("a stream of ours") };
//! assert_eq!(phone.setup, Some(Setup::Active));
//! let text = String::from_utf8(document.to_bytes()).expect("text");
//! assert!(text.ends_with(
//!     "m=message 20000 TCP/MSRP *\r\nc=IN IP4 198.51.100.1\r\na=setup:actpass\r\na=msrp-cema\r\n"
//! ));
//! # Ok::<(), offramp_sdp::SdpError>(())
//! ```
#![forbid(unsafe_code)]

mod association;
mod attribute;
mod document;
mod error;
mod fingerprints;
mod line;
mod media;
mod path;
mod remote;
mod rewrite;
mod roles;

pub use association::{Association, Renewal, association};
pub use attribute::{ConnectionUse, E2ae, Setup, TlsId};
pub use document::{Document, Section};
pub use error::{Problem, SdpError};
pub use fingerprints::{FingerprintSet, first_match};
pub use line::Line;
pub use media::{MediaLine, Transport};
pub use offramp_proto::fingerprint::{Fingerprint, FingerprintHash};
pub use path::MsrpUri;
pub use remote::{Learnt, Remote};
pub use rewrite::{Local, LocalTls, PathRule};
pub use roles::{
    Agreement, Party, Roles, SetupError, TcpDirection, TlsRole, agree, answered_setup, offered_setup,
};

/// Most bytes of a document.
pub const MAX_BYTES: usize = 16 * 1024;
/// Most m= lines of a document.
pub const MAX_MEDIA: usize = 64;
/// Most a=fingerprint lines of a media section, or of a session where the section has none.
pub const MAX_FINGERPRINTS: usize = 8;
