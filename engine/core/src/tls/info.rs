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

/// A cipher suite of the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    number: u16,
    /// Its name in the registry of IANA.
    pub iana: &'static str,
    openssl: &'static str,
}

impl Suite {
    const fn new(number: u16, iana: &'static str, openssl: &'static str) -> Self {
        Self { number, iana, openssl }
    }

    /// The only version that has it.
    #[must_use]
    pub fn version(self) -> Version {
        if self.number >> 8 == 0x13 { Version::Tls13 } else { Version::Tls12 }
    }
}

/// The suites of the profile.
pub const SUITES: [Suite; 9] = [
    Suite::new(0x1301, "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    Suite::new(0x1302, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    Suite::new(0x1303, "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    Suite::new(0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    Suite::new(0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    Suite::new(0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    Suite::new(0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    Suite::new(0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
    Suite::new(0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
];

/// The groups that can be negotiated, the post-quantum one included, by their names in the registry of IANA.
pub const GROUPS: [&str; 4] = ["X25519", "secp256r1", "secp384r1", "X25519MLKEM768"];

impl TlsInfo {
    /// The name of the cipher suite in the registry of IANA.
    #[must_use]
    pub fn suite_name(&self) -> &'static str {
        SUITES.get(self.suite_place()).map_or("unknown", |suite| suite.iana)
    }

    /// The name of the cipher suite in OpenSSL, which PROXY headers have.
    #[must_use]
    pub fn openssl_suite_name(&self) -> &'static str {
        SUITES.get(self.suite_place()).map_or("unknown", |suite| suite.openssl)
    }

    /// The place of the cipher suite in [`SUITES`]; the one behind the last for any other.
    #[must_use]
    pub fn suite_place(&self) -> usize {
        SUITES.iter().position(|suite| suite.number == self.suite).unwrap_or(SUITES.len())
    }

    /// The place of the group in [`GROUPS`]; the one behind the last if there is none.
    #[must_use]
    pub fn group_place(&self) -> usize {
        let name = self.group.unwrap_or_default();
        GROUPS.iter().position(|group| *group == name).unwrap_or(GROUPS.len())
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
    use crate::config::PostQuantum;

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
            let is_tls13 = suite.version().version == rustls::ProtocolVersion::TLSv1_3;
            let version = SUITES[info(number).suite_place()].version();
            assert_eq!(version, if is_tls13 { Version::Tls13 } else { Version::Tls12 }, "{rustls}");
        }
    }

    #[test]
    fn groups_that_can_be_negotiated_have_places() {
        let provider = profile::with_post_quantum(profile::provider(), PostQuantum::Allow);
        let named = |group: &&dyn rustls::crypto::SupportedKxGroup| group.name().as_str().expect("known");
        let names: Vec<_> = provider.kx_groups.iter().map(named).collect();
        assert_eq!(names, GROUPS);
        let info = TlsInfo { group: Some("secp384r1"), ..info(0x1301) };
        assert_eq!((info.group_place(), TlsInfo { group: None, ..info }.group_place()), (2, GROUPS.len()));
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
