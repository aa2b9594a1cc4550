//! Connections that begin something and go no further.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

use socket2::SockRef;
use std::time::Duration;

use crate::hello::Hello;

/// Bytes of a ClientHello that [`half_hello`] sends: its record's header and the first four.
pub const HALF_HELLO_BYTES: usize = 9;

/// A connection that has sent the first nine bytes of a ClientHello. It is reset when dropped.
///
/// # Errors
/// The connection could not be opened, or took no bytes.
pub fn half_hello(target: SocketAddr, hello: Hello) -> io::Result<TcpStream> {
    let mut tcp = TcpStream::connect(target)?;
    SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?;
    half_hello_on(&mut tcp, hello)?;
    Ok(tcp)
}

/// The same on a connection that is open.
///
/// # Errors
/// It took no bytes.
pub fn half_hello_on(tcp: &mut TcpStream, hello: Hello) -> io::Result<()> {
    tcp.write_all(&hello.record()[..HALF_HELLO_BYTES])
}

/// The first byte of a record of application data: with it an established connection has a record that has
/// begun and does not end.
///
/// # Errors
/// The connection took no bytes.
pub fn half_record(tcp: &mut TcpStream) -> io::Result<()> {
    tcp.write_all(&[23])
}
