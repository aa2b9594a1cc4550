//! What an OCSP response (RFC 6960 §4.2.1) says of one certificate: as much as it takes not to staple one
//! that is for another certificate or no longer current. Its signature is for clients to verify.
//!
//! The reader goes as deep as the structures that it knows, and takes no step back.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};
use rustls::sign::CertifiedKey;
use x509_parser::asn1_rs::{Any, Class, FromDer, Oid};
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

use super::findings::{Findings, Period};

/// Why a response is not stapled, whatever the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unfit {
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
struct Statement {
    period: Period,
    /// Whether the certificate is good; otherwise it is revoked or unknown to the responder.
    is_good: bool,
}

/// The certificate with this response of a file, and when that is current; nothing inside where it is for
/// another certificate or from a responder that has not answered, since the handshake goes on as well without
/// (B13). `None` if it is no OCSP response.
pub(super) fn staple(
    file: &Path,
    response: Vec<u8>,
    certified: &CertifiedKey,
    findings: &mut Findings,
) -> Option<Option<(Arc<CertifiedKey>, Period)>> {
    let own = certified.cert.first().and_then(|der| X509Certificate::from_der(der).ok());
    let read = own.map_or(Err(Unfit::AnotherCertificate), |(_, own)| read(&response, &own));
    match read {
        Ok(Statement { period, is_good }) => {
            findings.response(file, period);
            if !is_good {
                findings.remark(format!("{}: says that the certificate is not good", file.display()));
            }
            let stapled = CertifiedKey { ocsp: Some(response), ..certified.clone() };
            Some(Some((Arc::new(stapled), period)))
        }
        Err(Unfit::Malformed) => None,
        Err(unfit) => {
            findings.remark(format!("{}: is not stapled: {unfit}", file.display()));
            Some(None)
        }
    }
}

/// Reads what a response says of this certificate.
fn read(response: &[u8], certificate: &X509Certificate<'_>) -> Result<Statement, Unfit> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair, SerialNumber};

    use rustls::pki_types::UnixTime;

    use super::*;

    fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = match u8::try_from(content.len()) {
            Ok(short @ ..=127) => vec![short],
            Ok(long) => vec![0x81, long],
            Err(_) => [&[0x82][..], &u16::try_from(content.len()).expect("short").to_be_bytes()].concat(),
        };
        [&[tag][..], &length, &content].concat()
    }

    const SHA_1: [u8; 7] = [6, 5, 0x2b, 14, 3, 2, 0x1a];

    /// A SingleResponse (RFC 6960 §4.2.1), of the certificate with this serial number and issuer.
    fn single(serial: &[u8], issuer: &[u8], status: u8, times: &[&str]) -> Vec<u8> {
        let name_hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, issuer);
        let hashes = [value(4, &[name_hash.as_ref()]), value(4, &[&[0; 20]])].concat();
        let id = value(0x30, &[&value(0x30, &[&SHA_1, &[5, 0]]), &hashes, &value(2, &[serial])]);
        let mut times = times.iter().map(|time| value(0x18, &[time.as_bytes()]));
        let this_update = times.next().expect("a time");
        let next_update = times.next().map(|time| value(0xa0, &[&time])).unwrap_or_default();
        value(0x30, &[&id, &[status, 0], &this_update, &next_update])
    }

    fn response(singles: &[&[u8]]) -> Vec<u8> {
        let responder = value(0xa2, &[&value(4, &[&[7; 20]])]);
        let produced = value(0x18, &[b"20260901000000Z"]);
        let data = value(0x30, &[&responder, &produced, &value(0x30, singles)]);
        let algorithm = value(0x30, &[&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]]);
        let basic = value(0x30, &[&data, &algorithm, &value(3, &[&[0, 1, 2, 3]])]);
        let kind = [6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
        let bytes = value(0xa0, &[&value(0x30, &[&kind, &value(4, &[&basic])])]);
        value(0x30, &[&[0x0a, 1, 0], &bytes])
    }

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(vec![0x11, 0x22, 0x33]));
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signs").der().to_vec()
    }

    const SERIAL: [u8; 3] = [0x11, 0x22, 0x33];
    const GOOD: u8 = 0x80;
    const UNKNOWN: u8 = 0x82;
    const TIMES: [&str; 2] = ["20260901000000Z", "20260908000000Z"];
    /// The first of them.
    const FROM: u64 = 1_788_220_800;
    const WEEK: u64 = 7 * 24 * 3600;

    #[test]
    fn a_response_is_current_between_its_two_times() {
        let der = certificate();
        let (_, certificate) = X509Certificate::from_der(&der).expect("X.509");
        let issuer = certificate.issuer().as_raw();
        let other = single(&[9], issuer, GOOD, &TIMES);
        let good = response(&[&other, &single(&SERIAL, issuer, GOOD, &TIMES)]);
        let statement = read(&good, &certificate).expect("it is there");
        assert!(statement.is_good);
        let at =
            |seconds: u64| statement.period.has(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert!(at(FROM) && at(FROM + WEEK - 1) && at(FROM - 300), "a clock may be ahead");
        assert!(!at(FROM - 301) && !at(FROM + WEEK) && !at(0) && !at(u64::MAX));
        let unknown = response(&[&single(&SERIAL, issuer, UNKNOWN, &TIMES)]);
        assert!(read(&unknown, &certificate).is_ok_and(|statement| !statement.is_good));
    }

    #[test]
    fn a_response_that_is_unfit_says_why() {
        let der = certificate();
        let (_, certificate) = X509Certificate::from_der(&der).expect("X.509");
        let issuer = certificate.issuer().as_raw();
        let read = |response: &[u8]| read(response, &certificate);
        let good = response(&[&single(&SERIAL, issuer, GOOD, &TIMES)]);
        for (bad, why) in [
            (response(&[&single(&[9], issuer, GOOD, &TIMES)]), Unfit::AnotherCertificate),
            (response(&[&single(&SERIAL, b"another", GOOD, &TIMES)]), Unfit::AnotherCertificate),
            (response(&[]), Unfit::AnotherCertificate),
            (response(&[&single(&SERIAL, issuer, GOOD, &TIMES[..1])]), Unfit::NoNextUpdate),
            (vec![0x30, 3, 0x0a, 1, 6], Unfit::Unsuccessful(6)),
            (vec![0x30, 3, 0x0a, 1, 0], Unfit::Malformed),
            ([&good[..], &[0]].concat(), Unfit::Malformed),
            (Vec::new(), Unfit::Malformed),
        ] {
            assert_eq!(read(&bad), Err(why), "{bad:x?}");
        }
        for end in 0..good.len() {
            assert_eq!(read(&good[..end]), Err(Unfit::Malformed), "cut at {end}");
        }
        for at in 0..good.len() {
            for change in [1, 0x80, 0xff] {
                let mut changed = good.clone();
                changed[at] ^= change;
                // Whatever comes of it, it comes to an end.
                let _ = read(&changed);
            }
        }
    }
}
