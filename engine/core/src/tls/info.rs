//! What a handshake has come to, for those who decide by it, pass it on or log it.

use std::cell::RefCell;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::secrets::Version;

/// What was negotiated in a handshake, and who the peer is. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// The protocol version.
    pub version: Version,
    /// The cipher suite, by its number in the TLS registry of IANA.
    pub suite: u16,
    /// The group of the key exchange, by its name in the same registry; none in a resumption of TLS 1.2.
    pub group: Option<&'static str>,
    /// Abbreviated rather than full.
    pub resumed: bool,
    /// The name that the client has asked for (RFC 6066 §3), in lower case; none if it asked for none, or for
    /// what is no DNS name.
    pub server_name: Option<Box<str>>,
    /// The application protocol (RFC 7301), at most 255 bytes.
    pub alpn: Option<Box<[u8]>>,
    /// The peer's own certificate, which has been accepted, or, of a leg that is held, is still to be. In a
    /// resumption it is that of the first full handshake.
    pub certificate: Option<CertificateDer<'static>>,
}

/// The suites of the profile: number, name of IANA, name of OpenSSL.
const SUITES: [(u16, &str, &str); 9] = [
    (0x1301, "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
    (0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
];

impl TlsInfo {
    /// The name of the cipher suite in the registry of IANA.
    #[must_use]
    pub fn suite_name(&self) -> &'static str {
        self.names().map_or("unknown", |(_, iana, _)| iana)
    }

    /// The name of the cipher suite in OpenSSL, which PROXY headers have.
    #[must_use]
    pub fn openssl_suite_name(&self) -> &'static str {
        self.names().map_or("unknown", |(_, _, openssl)| openssl)
    }

    fn names(&self) -> Option<(u16, &'static str, &'static str)> {
        SUITES.into_iter().find(|(number, ..)| *number == self.suite)
    }

    /// The common name of the subject of the peer's certificate, as it stands there; none if it has none or
    /// one that is not text.
    #[must_use]
    pub fn common_name(&self) -> Option<String> {
        let (_, certificate) = X509Certificate::from_der(self.certificate.as_ref()?).ok()?;
        let name = certificate.subject().iter_common_name().next()?;
        name.as_str().ok().map(ToOwned::to_owned)
    }
}

thread_local! {
    /// The name in a ClientHello, which rustls's connection without buffers does not show afterwards.
    static SERVER_NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Notes the name that a client asks for, for who made the call in which its hello is read.
pub(super) fn note_server_name(name: Option<&str>) {
    SERVER_NAME.set(name.map(|name| name.to_ascii_lowercase().into()));
}

/// Takes that.
pub(super) fn take_server_name() -> Option<Box<str>> {
    SERVER_NAME.take()
}

#[cfg(test)]
mod tests {
    use super::super::profile;
    use super::*;

    fn info(suite: u16) -> TlsInfo {
        TlsInfo {
            version: Version::Tls13,
            suite,
            group: None,
            resumed: false,
            server_name: None,
            alpn: None,
            certificate: None,
        }
    }

    #[test]
    fn suites_of_the_profile_have_names() {
        for suite in &profile::provider().cipher_suites {
            let number = suite.suite().into();
            let rustls = suite.suite().as_str().expect("a known suite").replace("TLS13_", "TLS_");
            assert_eq!(info(number).suite_name(), rustls);
            assert_ne!(info(number).openssl_suite_name(), "unknown", "{rustls}");
        }
    }

    #[test]
    fn common_name_is_read_from_the_certificate() {
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "Alice");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate").der().clone();
        let with = |certificate| TlsInfo { certificate: Some(certificate), ..info(0x1301) };
        assert_eq!(with(certificate).common_name().as_deref(), Some("Alice"));
        assert_eq!(with(vec![0x30, 0x80, 1].into()).common_name(), None);
        assert_eq!(info(0x1301).common_name(), None);
    }
}
