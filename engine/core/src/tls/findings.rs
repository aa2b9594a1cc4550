//! What an operator should know of the certificates that a listener works with: until when each is valid,
//! and what is wrong with it although it can be used. Found at load; what depends on the time is judged by
//! the time that the reader gives.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use x509_parser::prelude::{GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

use super::ticket_keys::UnixSeconds;

/// Most warnings of one listener; the rest is a number.
const WARNINGS_MAX: usize = 20;

/// How far the clock of a responder may be ahead of ours.
const CLOCK_SKEW_SECONDS: i64 = 300;

/// Whose certificates are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Clients,
    Servers,
}

/// From when to when a certificate is valid (RFC 5280 §4.1.2.5), both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dates {
    not_before: ASN1Time,
    not_after: ASN1Time,
}

impl Dates {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self { not_before: validity.not_before, not_after: validity.not_after }
    }

    pub(super) fn check(&self, now: UnixTime) -> Result<(), webpki::Error> {
        let (not_before, not_after) = (unix_time(self.not_before), unix_time(self.not_after));
        if now < not_before {
            return Err(webpki::Error::CertNotValidYet { time: now, not_before });
        }
        if now > not_after {
            return Err(webpki::Error::CertExpired { time: now, not_after });
        }
        Ok(())
    }
}

/// A time before 1970 counts as its beginning.
fn unix_time(time: ASN1Time) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)))
}

/// A certificate of a file that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    /// The file.
    pub file: PathBuf,
    /// Which certificate of the file, from 1.
    pub nth: usize,
    /// Whom it is for: names of the subject, or else its common name.
    pub names: Vec<String>,
    dates: Dates,
}

impl Dated {
    /// Its notAfter, in seconds since 1970: the last one at which it is valid.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.dates.not_after.timestamp()
    }

    fn warning(&self, now: UnixTime) -> Option<String> {
        let Dates { not_before, not_after } = self.dates;
        let what = match self.dates.check(now) {
            Ok(()) => return None,
            Err(webpki::Error::CertNotValidYet { .. }) => format!("is not valid before {not_before}"),
            Err(_) => format!("has expired: it was valid until {not_after}"),
        };
        Some(format!("{}: certificate {} {what}", self.file.display(), self.nth))
    }
}

/// Most names of a certificate that are kept, and most characters of each.
const NAMES_MAX: usize = 16;
const NAME_CHARS_MAX: usize = 255;

/// DNS names, URIs and addresses of the subject (RFC 5280 §4.2.1.6); where there are none, its common name.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let alternative = extension.into_iter().flat_map(|found| &found.value.general_names);
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => <[u8; 4]>::try_from(*octets)
            .map(IpAddr::from)
            .ok()
            .or_else(|| <[u8; 16]>::try_from(*octets).map(IpAddr::from).ok())
            .map(|address| address.to_string()),
        _ => None,
    };
    let mut names: Vec<String> = alternative.filter_map(text).take(NAMES_MAX).collect();
    if names.is_empty() {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.take(1).map(ToOwned::to_owned));
    }
    let short = |name: String| name.chars().take(NAME_CHARS_MAX).collect();
    names.into_iter().map(short).collect()
}

/// When an OCSP response is current: from thisUpdate to nextUpdate (RFC 6960 §4.2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    pub(super) from: ASN1Time,
    pub(super) until: ASN1Time,
}

impl Period {
    /// Whether the response is current at this time.
    pub(super) fn has(&self, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.from.timestamp().saturating_sub(CLOCK_SKEW_SECONDS) <= now && now < self.until.timestamp()
    }
}

/// All that was found out about the certificates of a listener.
#[derive(Debug, Default)]
pub(super) struct Findings {
    dated: Vec<Dated>,
    /// OCSP responses.
    responses: Vec<(PathBuf, Period)>,
    /// Lists of revoked certificates: which of the file, and their nextUpdate.
    revocations: Vec<(PathBuf, usize, ASN1Time)>,
    remarks: Vec<String>,
}

impl Findings {
    /// Keeps the dates of a certificate.
    pub(super) fn dated(&mut self, file: &Path, nth: usize, certificate: &X509Certificate<'_>) -> Dates {
        let dates = Dates::of(certificate);
        self.dated.push(Dated { file: file.to_owned(), nth, names: names(certificate), dates });
        dates
    }

    /// Keeps when an OCSP response is current.
    pub(super) fn response(&mut self, file: &Path, period: Period) {
        self.responses.push((file.to_owned(), period));
    }

    /// Keeps until when a list of revoked certificates is current.
    pub(super) fn revocation(&mut self, file: &Path, nth: usize, until: ASN1Time) {
        self.revocations.push((file.to_owned(), nth, until));
    }

    /// Keeps a warning that does not depend on the time.
    pub(super) fn remark(&mut self, text: String) {
        // A name of a certificate makes no line of its own.
        self.remarks.push(text.replace(char::is_control, " "));
    }

    /// The certificates, in the order in which they were read.
    pub(super) fn certificates(&self) -> &[Dated] {
        &self.dated
    }

    /// What is wrong at this time, each in one line that names the file.
    pub(super) fn warnings(&self, now: UnixSeconds) -> Vec<String> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let dated = self.dated.iter().filter_map(|dated| dated.warning(now));
        let responses = self.responses.iter().filter(|(_, period)| !period.has(now)).map(|(file, period)| {
            let file = file.display();
            format!(
                "{file}: is not stapled: it is not current (nextUpdate is {}); fetch another",
                period.until
            )
        });
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let lists = self.revocations.iter();
        let lists = lists.filter(|(.., until)| until.timestamp() <= seconds).map(|(file, nth, until)| {
            format!(
                "{}: list {nth} is out of date (nextUpdate was {until}): clients of its issuer are refused; \
                 fetch another",
                file.display()
            )
        });
        let mut all: Vec<String> =
            self.remarks.iter().cloned().chain(dated).chain(responses).chain(lists).collect();
        if all.len() > WARNINGS_MAX {
            let rest = all.len() - WARNINGS_MAX;
            all.truncate(WARNINGS_MAX);
            all.push(format!("and {rest} more warnings of certificates"));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn names_are_those_of_the_subject_or_its_common_name() {
        let found = |alternative: &[&str], common: &str| {
            let alternative: Vec<String> = alternative.iter().map(|name| (*name).to_owned()).collect();
            let mut parameters = rcgen::CertificateParams::new(alternative).expect("names");
            parameters.distinguished_name.push(rcgen::DnType::CommonName, common);
            let key = rcgen::KeyPair::generate().expect("a key");
            let certificate = parameters.self_signed(&key).expect("a certificate");
            names(&X509Certificate::from_der(certificate.der()).expect("DER").1)
        };
        let all = ["a.example", "*.b.example", "192.0.2.1", "2001:db8::1"];
        assert_eq!(found(&all, "ignored"), all);
        assert_eq!(found(&[], "Example CA"), ["Example CA"]);
        let many: Vec<String> = (0..40).map(|nth| format!("{nth}.example")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(found(&many, "ignored").len(), NAMES_MAX);
    }
}
