//! What an OCSP response (RFC 6960 §4.2.1) says of one certificate: as much as it takes not to staple one
//! that is for another certificate or no longer current. Its signature is for clients to verify.
//!
//! The reader goes as deep as the structures that it knows, and takes no step back.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};
use rustls::pki_types::UnixTime;
use x509_parser::asn1_rs::{Any, Class, FromDer, Oid};
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

/// How far the clock of a responder may be ahead of ours.
const CLOCK_SKEW_SECONDS: i64 = 300;

/// Why a response is not stapled, whatever the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("not an OCSP response")]
    Malformed,
    #[error("the responder refused to answer (OCSPResponseStatus {0})")]
    Unsuccessful(u8),
    #[error("it is for another certificate")]
    AnotherCertificate,
    #[error("it does not say until when it is current (nextUpdate)")]
    NoNextUpdate,
}

/// What is said of the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) period: Period,
    /// Whether the certificate is good; otherwise it is revoked or unknown to the responder.
    pub(super) is_good: bool,
}

/// From thisUpdate to nextUpdate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    from: ASN1Time,
    pub(super) until: ASN1Time,
}

impl Period {
    /// Whether the response is current at this time.
    pub(super) fn has(&self, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.from.timestamp().saturating_sub(CLOCK_SKEW_SECONDS) <= now && now < self.until.timestamp()
    }
}

/// Reads what a response says of this certificate.
pub(super) fn read(response: &[u8], certificate: &X509Certificate<'_>) -> Result<Statement, Unfit> {
    let mut responses = Der(successful(response)?);
    while !responses.0.is_empty() {
        let mut single = Der(responses.sequence()?);
        let mut id = Der(single.sequence()?);
        let status = single.next()?;
        let this_update = single.time()?;
        if is_of(&mut id, certificate)? {
            let until = single.optional(0)?.ok_or(Unfit::NoNextUpdate)?;
            let period = Period { from: this_update, until: Der(until).time()? };
            let is_good = status.class() == Class::ContextSpecific && status.tag().0 == 0;
            return Ok(Statement { period, is_good });
        }
    }
    Err(Unfit::AnotherCertificate)
}

/// The single responses of an OCSPResponse, as they stand behind one another.
fn successful(response: &[u8]) -> Result<&[u8], Unfit> {
    const BASIC: &str = "1.3.6.1.5.5.7.48.1.1";
    let mut whole = Der(response);
    let mut response = Der(whole.sequence()?);
    let status = response.content(Class::Universal, 10)?;
    match status {
        [0] if whole.0.is_empty() => {}
        [status] if whole.0.is_empty() => return Err(Unfit::Unsuccessful(*status)),
        _ => return Err(Unfit::Malformed),
    }
    let bytes = response.optional(0)?.ok_or(Unfit::Malformed)?;
    let mut bytes = Der(Der(bytes).sequence()?);
    let kind = Oid::try_from(bytes.next()?).map_err(|_| Unfit::Malformed)?;
    if kind.to_id_string() != BASIC {
        return Err(Unfit::Malformed);
    }
    let mut basic = Der(bytes.content(Class::Universal, 4)?);
    let mut basic = Der(basic.sequence()?);
    let mut data = Der(basic.sequence()?);
    data.optional(0)?;
    // responderID and producedAt.
    data.next()?;
    data.time()?;
    data.sequence()
}

/// Whether a CertID names this certificate: by its serial number, and by the hash of its issuer's name where
/// that is one that we know.
fn is_of(id: &mut Der<'_>, certificate: &X509Certificate<'_>) -> Result<bool, Unfit> {
    let algorithm = Oid::try_from(Der(id.sequence()?).next()?).map_err(|_| Unfit::Malformed)?;
    let (name_hash, _key_hash) = (id.content(Class::Universal, 4)?, id.content(Class::Universal, 4)?);
    let serial = id.content(Class::Universal, 2)?;
    let algorithm = match algorithm.to_id_string().as_str() {
        "1.3.14.3.2.26" => Some(&SHA1_FOR_LEGACY_USE_ONLY),
        "2.16.840.1.101.3.4.2.1" => Some(&SHA256),
        "2.16.840.1.101.3.4.2.2" => Some(&SHA384),
        "2.16.840.1.101.3.4.2.3" => Some(&SHA512),
        _ => None,
    };
    let issuer = certificate.issuer().as_raw();
    let is_issuer = algorithm.is_none_or(|algorithm| digest(algorithm, issuer).as_ref() == name_hash);
    Ok(is_issuer && serial == certificate.raw_serial())
}

/// DER values that stand behind one another.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Result<Any<'a>, Unfit> {
        let (rest, value) = Any::from_der(self.0).map_err(|_| Unfit::Malformed)?;
        self.0 = rest;
        Ok(value)
    }

    fn content(&mut self, class: Class, tag: u32) -> Result<&'a [u8], Unfit> {
        let value = self.next()?;
        if value.class() == class && value.tag().0 == tag { Ok(value.data) } else { Err(Unfit::Malformed) }
    }

    fn sequence(&mut self) -> Result<&'a [u8], Unfit> {
        self.content(Class::Universal, 16)
    }

    /// What stands in the explicit tag with this number, if that comes next.
    fn optional(&mut self, tag: u32) -> Result<Option<&'a [u8]>, Unfit> {
        let before = self.0;
        if before.is_empty() {
            return Ok(None);
        }
        let value = self.next()?;
        if value.class() == Class::ContextSpecific && value.tag().0 == tag {
            return Ok(Some(value.data));
        }
        self.0 = before;
        Ok(None)
    }

    fn time(&mut self) -> Result<ASN1Time, Unfit> {
        let (rest, time) = ASN1Time::from_der(self.0).map_err(|_| Unfit::Malformed)?;
        self.0 = rest;
        Ok(time)
    }
}
