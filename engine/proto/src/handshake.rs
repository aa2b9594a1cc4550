//! Handshake messages: their types and their header (RFC 8446 §4; RFC 5246 §7.4).

/// Bytes of the header of a message: type, and a length of 24 bits.
pub const HEADER_BYTES: usize = 4;
/// HelloRequest, of TLS 1.2: an attempt to renegotiate.
pub const HELLO_REQUEST: u8 = 0;
/// ClientHello.
pub const CLIENT_HELLO: u8 = 1;
/// ServerHello.
pub const SERVER_HELLO: u8 = 2;
/// NewSessionTicket.
pub const NEW_SESSION_TICKET: u8 = 4;
/// Finished.
pub const FINISHED: u8 = 20;
/// KeyUpdate, of TLS 1.3.
pub const KEY_UPDATE: u8 = 24;
