//! The PROXY header that an endpoint gets in front of everything else: who the client is, and what its
//! handshake came to (the PROXY protocol's specification, haproxy.org, versions 1 and 2).

use std::borrow::Cow;
use std::net::SocketAddr;

use proxy_header::{ProxiedAddress, ProxyHeader as Header, SslInfo, Tlv};

use super::about::About;
use crate::buf::Buf;
use crate::config::{ProxyTlvs, SendProxy};
use crate::tls::TlsInfo;
use crate::tls::secrets::Version;

/// PP2_SUBTYPE_SSL_CLIENT_CERT.
const SSL_CLIENT_CERT: u8 = 0x28;
/// A certificate that is longer is not passed on.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// A common name that is longer is not passed on.
const COMMON_NAME_BYTES_MAX: usize = 256;
/// Bytes of PP2_TYPE_CRC32C's value, which is the last.
const CRC_BYTES: usize = 4;

/// What is sent, by configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    version: SendProxy,
    tlvs: ProxyTlvs,
}

impl ProxyHeader {
    /// None where nothing is to be sent.
    #[must_use]
    pub fn new(version: SendProxy, tlvs: ProxyTlvs) -> Option<Self> {
        (version != SendProxy::Off).then_some(Self { version, tlvs })
    }

    /// The header of a connection of ours, which is for no client (version 2: LOCAL).
    pub(crate) fn local(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        // A header without addresses has room for all that it says.
        let _ = match self.version {
            SendProxy::V2 => Header::with_local().encode_v2(&mut bytes),
            SendProxy::V1 | SendProxy::Off => Header::with_local().encode_v1(&mut bytes),
        };
        bytes
    }

    /// Writes the header of a connection into an empty `buf`. Where there are no addresses, as on a Unix
    /// socket, or those of two families, it says that they are unknown: UNKNOWN, or LOCAL without a family,
    /// as HAProxy does. HAProxy refuses PROXY without a family (`conn_recv_proxy`).
    pub(super) fn write(self, about: &About, buf: &mut Buf) {
        let of_one_family = |(client, local): &(SocketAddr, SocketAddr)| client.is_ipv4() == local.is_ipv4();
        let addresses = about.client.zip(about.local).filter(of_one_family);
        let addresses = addresses.map(|(client, local)| ProxiedAddress::stream(client, local));
        let mut bytes = Vec::with_capacity(256);
        let written = match self.version {
            SendProxy::Off => return,
            SendProxy::V1 => {
                addresses.map_or_else(Header::with_local, Header::with_address).encode_v1(&mut bytes)
            }
            SendProxy::V2 => Header::with_tlvs(addresses, self.tlvs(about)).encode_v2(&mut bytes),
        };
        // One family and bounded fields: nothing is left that could be refused.
        debug_assert!(written.is_ok(), "{written:?}");
        if self.version == SendProxy::V2 && self.tlvs.crc32c {
            seal(&mut bytes);
        }
        buf.extend(&bytes);
    }

    fn tlvs<'a>(&self, about: &'a About) -> Vec<Tlv<'a>> {
        let (info, these) = (about.near.as_deref(), self.tlvs);
        let mut tlvs = Vec::with_capacity(5);
        if let Some(alpn) = info.and_then(|info| info.alpn.as_deref()).filter(|_| these.alpn) {
            tlvs.push(Tlv::Alpn(Cow::Borrowed(alpn)));
        }
        if let Some(name) = about.server_name().filter(|_| these.authority) {
            tlvs.push(Tlv::Authority(Cow::Borrowed(name)));
        }
        if let Some(info) = info.filter(|_| these.ssl) {
            tlvs.push(Tlv::Ssl(ssl(info, these.certificate)));
        }
        if these.unique_id {
            tlvs.push(Tlv::UniqueId(Cow::Owned(about.id.to_string().into_bytes())));
        }
        if these.crc32c {
            tlvs.push(Tlv::Crc32c(0));
        }
        tlvs
    }
}

/// PP2_TYPE_SSL. A certificate that is known was accepted: `verify` is 0 for it, and 1 where there is none.
fn ssl(info: &TlsInfo, with_certificate: bool) -> SslInfo<'static> {
    let certificate = info.certificate.as_ref();
    let is_shown = certificate.is_some() && !info.resumed;
    let mut ssl = SslInfo::new(true, is_shown, certificate.is_some(), u32::from(certificate.is_none()));
    let version = match info.version {
        Version::Tls12 => "TLSv1.2",
        Version::Tls13 => "TLSv1.3",
    };
    ssl.append_tlv(Tlv::SslVersion(Cow::Borrowed(version)));
    ssl.append_tlv(Tlv::SslCipher(Cow::Borrowed(info.openssl_suite_name())));
    if let Some(name) = info.common_name().filter(|name| name.len() <= COMMON_NAME_BYTES_MAX) {
        ssl.append_tlv(Tlv::SslCn(Cow::Owned(name)));
    }
    if let Some(der) = certificate.filter(|der| with_certificate && der.len() <= CERTIFICATE_BYTES_MAX) {
        ssl.append_tlv(Tlv::Custom(SSL_CLIENT_CERT, Cow::Borrowed(der)));
    }
    ssl
}

/// The checksum of the whole header, in which the checksum's own bytes are zero.
fn seal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(bytes);
    if let Some(last) = bytes.last_chunk_mut::<CRC_BYTES>() {
        *last = crc.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proxy_header::ParseConfig;

    use super::super::about::ConnectionId;
    use super::*;

    const ALL: ProxyTlvs = ProxyTlvs {
        alpn: true,
        authority: true,
        ssl: true,
        unique_id: true,
        crc32c: true,
        certificate: true,
    };

    fn about(resumed: bool, certificate: Option<Vec<u8>>) -> About {
        let near = TlsInfo {
            version: Version::Tls12,
            suite: 0xc02f,
            group: Some("X25519"),
            resumed,
            server_name: Some("a.example".into()),
            alpn: Some((*b"msrp").into()),
            certificate: certificate.map(Into::into),
        };
        About {
            client: "192.0.2.7:4711".parse().ok(),
            local: "192.0.2.1:443".parse().ok(),
            near: Some(Box::new(near)),
            id: ConnectionId { worker: 1, serial: 2 },
            ..About::default()
        }
    }

    fn header(version: SendProxy, tlvs: ProxyTlvs, about: &About) -> Vec<u8> {
        let mut buf = Buf::with_capacity(1 << 16);
        ProxyHeader::new(version, tlvs).expect("one is sent").write(about, &mut buf);
        buf.filled().to_vec()
    }

    #[test]
    fn header_v1_is_the_line_of_the_specification() {
        let text = header(SendProxy::V1, ALL, &about(false, None));
        assert_eq!(text, b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n");
        let unknown = header(SendProxy::V1, ALL, &About::default());
        assert_eq!(unknown, b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn header_of_a_probe_names_no_client() {
        let local = |version| ProxyHeader::new(version, ALL).expect("one is sent").local();
        assert_eq!(local(SendProxy::V1), b"PROXY UNKNOWN\r\n");
        assert_eq!(local(SendProxy::V2), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    }

    #[test]
    fn header_v2_has_what_was_asked_for() {
        let about = about(false, Some(vec![1; 600]));
        let bytes = header(SendProxy::V2, ALL, &about);
        let (read, length) = Header::parse(&bytes, ParseConfig::default()).expect("a header");
        assert_eq!(length, bytes.len());
        assert_eq!(
            read.proxied_address().map(|it| (it.source, it.destination)),
            about.client.zip(about.local)
        );
        assert_eq!((read.alpn(), read.authority()), (Some(&b"msrp"[..]), Some("a.example")));
        assert_eq!(read.unique_id(), Some(&b"00000000000000010000000000000002"[..]));
        let ssl = read.ssl().expect("it was TLS");
        assert_eq!((ssl.version(), ssl.cipher()), (Some("TLSv1.2"), Some("ECDHE-RSA-AES128-GCM-SHA256")));
        assert!(ssl.client_ssl() && ssl.client_cert_conn() && ssl.client_cert_sess() && ssl.verify() == 0);
        let has_certificate = |tlv: Result<Tlv<'_>, _>| tlv == Ok(Tlv::Custom(0x28, vec![1; 600].into()));
        assert!(ssl.tlvs().any(has_certificate));
        let mut zeroed = bytes.clone();
        zeroed.last_chunk_mut::<4>().expect("a checksum").fill(0);
        assert_eq!(read.crc32c(), Some(crc32c::crc32c(&zeroed)));
    }

    #[test]
    fn header_v2_without_options_is_28_bytes() {
        assert_eq!(header(SendProxy::V2, ProxyTlvs::default(), &about(false, None)).len(), 28);
    }

    #[test]
    fn ssl_flags_tell_a_session_from_a_handshake() {
        let flags = |resumed, certificate: Option<Vec<u8>>| {
            let about = about(resumed, certificate);
            let bytes = header(SendProxy::V2, ALL, &about);
            let (read, _) = Header::parse(&bytes, ParseConfig::default()).expect("a header");
            let ssl = read.ssl().expect("it was TLS").into_owned();
            (ssl.client_cert_conn(), ssl.client_cert_sess(), ssl.verify())
        };
        assert_eq!(flags(true, Some(vec![1])), (false, true, 0));
        assert_eq!(flags(false, None), (false, false, 1));
    }

    #[test]
    fn what_is_too_long_is_left_out() {
        let bytes = header(SendProxy::V2, ALL, &about(false, Some(vec![1; CERTIFICATE_BYTES_MAX + 1])));
        assert!(bytes.len() < 300 && Header::parse(&bytes, ParseConfig::default()).is_ok());
    }

    #[test]
    fn addresses_of_two_families_are_unknown() {
        let about = About { local: "[::1]:443".parse().ok(), ..about(false, None) };
        assert_eq!(header(SendProxy::V1, ALL, &about), b"PROXY UNKNOWN\r\n");
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        assert_eq!(header(SendProxy::V2, ProxyTlvs::default(), &about), expected);
        let unix = About { client: None, local: None, ..about };
        let bytes = header(SendProxy::V2, ALL, &unix);
        let (read, _) = Header::parse(&bytes, ParseConfig::default()).expect("a header");
        assert_eq!(bytes[12..14], [0x20, 0x00], "the command LOCAL and no family");
        assert_eq!((read.alpn(), read.authority()), (Some(&b"msrp"[..]), Some("a.example")));
        let mut zeroed = bytes.clone();
        zeroed.last_chunk_mut::<4>().expect("a checksum").fill(0);
        assert_eq!(read.crc32c(), Some(crc32c::crc32c(&zeroed)));
    }
}
