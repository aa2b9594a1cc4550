//! PEM (RFC 7468): certificates and private keys out of the text of a file.
//!
//! A reader that passes over what it does not understand loses a certificate without a word, where for
//! instance no newline stands between two. So each line with BEGIN must come to a section, and a section that
//! cannot be used is named together with what to do. Text between sections is passed over, and so are
//! sections of another kind, as in a file with a certificate and its key.
//!
//! Base64 and DER of a key are decoded in constant time into buffers of their full size, which are wiped.
//! No error quotes a line: it may be a key's.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use base64ct::{Base64, Encoding};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use zeroize::Zeroizing;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// Why a text has not what was looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// There is no such section.
    #[error("has no {what}; expected PEM with a line \"-----BEGIN {label}-----\"{}", hint(.is_binary))]
    Missing {
        /// What was looked for.
        what: &'static str,
        /// The label of such a section.
        label: &'static str,
        /// Whether it looks like DER.
        is_binary: bool,
    },
    /// It is not PEM.
    #[error("line {line}: {problem}")]
    Malformed {
        /// 1-based.
        line: usize,
        /// What is wrong, and what would be right.
        problem: Cow<'static, str>,
    },
    /// A section that has what was looked for, in a form that is not read.
    #[error("line {line}: {what}; {remedy}")]
    Unusable {
        /// Where the section begins, 1-based.
        line: usize,
        /// What it is.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
}

fn hint(is_binary: &bool) -> &'static str {
    if *is_binary {
        "; the file looks like DER, and `openssl x509` or `openssl pkey` with -inform DER makes PEM of that, \
         `openssl pkcs12 -nodes` of PKCS #12"
    } else {
        ""
    }
}

/// A private key, wiped when dropped.
pub struct PrivateKey {
    form: Form,
    der: Zeroizing<Vec<u8>>,
}

#[derive(Clone, Copy)]
enum Form {
    Pkcs1,
    Sec1,
    Pkcs8,
}

impl PrivateKey {
    /// For whoever parses it; borrowed, so that no copy is left behind.
    #[must_use]
    pub fn der(&self) -> PrivateKeyDer<'_> {
        let der = self.der.as_slice();
        match self.form {
            Form::Pkcs1 => PrivatePkcs1KeyDer::from(der).into(),
            Form::Sec1 => PrivateSec1KeyDer::from(der).into(),
            Form::Pkcs8 => PrivatePkcs8KeyDer::from(der).into(),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

/// All certificates, in their order; at least one.
///
/// # Errors
/// [`PemError`].
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut certificates = Vec::new();
    for section in sections(text)? {
        let (what, remedy) = match section.label {
            b"CERTIFICATE" | b"X509 CERTIFICATE" => {
                certificates.push(CertificateDer::from(section.decode()?.to_vec()));
                continue;
            }
            b"TRUSTED CERTIFICATE" => (
                "a TRUSTED CERTIFICATE is OpenSSL's own form, with settings behind the certificate",
                "take them off: openssl x509 -in FILE -out NEW",
            ),
            b"PKCS7" | b"CMS" => (
                "certificates in PKCS #7 are not read",
                "take them out: openssl pkcs7 -print_certs -in FILE -out NEW",
            ),
            b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => (
                "a request for a certificate is not a certificate",
                "have an authority sign it, and give what the authority returns",
            ),
            _ => continue,
        };
        return Err(PemError::Unusable { line: section.line, what, remedy });
    }
    if certificates.is_empty() {
        return Err(missing(text, "certificate", "CERTIFICATE"));
    }
    Ok(certificates)
}

/// The first private key.
///
/// # Errors
/// [`PemError`].
pub fn private_key(text: &[u8]) -> Result<PrivateKey, PemError> {
    const ENCRYPTED: (&str, &str) = (
        "the private key is encrypted, and nobody is asked for a passphrase",
        "decrypt it into a file that its owner alone reads: (umask 077; openssl pkey -in FILE -out NEW)",
    );
    const NEW_KEY: &str = "make a key and have its certificate issued: openssl genpkey -algorithm EC \
                           -pkeyopt ec_paramgen_curve:P-256 -out NEW";
    for section in sections(text)? {
        let form = match section.label {
            b"PRIVATE KEY" => Ok(Form::Pkcs8),
            b"RSA PRIVATE KEY" => Ok(Form::Pkcs1),
            b"EC PRIVATE KEY" => Ok(Form::Sec1),
            b"ENCRYPTED PRIVATE KEY" => Err(ENCRYPTED),
            b"DSA PRIVATE KEY" => Err(("a DSA key cannot serve in TLS", NEW_KEY)),
            b"OPENSSH PRIVATE KEY" => Err(("a key in the form of OpenSSH is not read", NEW_KEY)),
            _ => continue,
        };
        let form = if section.is_encrypted() { Err(ENCRYPTED) } else { form };
        let form = form.map_err(|(what, remedy)| PemError::Unusable { line: section.line, what, remedy })?;
        return Ok(PrivateKey { form, der: section.decode()? });
    }
    Err(missing(text, "private key", "PRIVATE KEY"))
}

fn missing(text: &[u8], what: &'static str, label: &'static str) -> PemError {
    // The tag of a SEQUENCE, which DER and PKCS #12 begin with.
    PemError::Missing { what, label, is_binary: text.first() == Some(&0x30) }
}

/// What stands between BEGIN and END.
struct Section<'a> {
    label: &'a [u8],
    /// That of BEGIN, 1-based.
    line: usize,
    body: &'a [u8],
}

impl Section<'_> {
    /// By the headers of RFC 1421 §4.6.1.1, which OpenSSL writes in front of a key in an older form.
    fn is_encrypted(&self) -> bool {
        let is_so =
            |line: Line<'_>| line.text.starts_with(b"Proc-Type:") && line.text.ends_with(b"ENCRYPTED");
        lines(self.body).any(is_so)
    }

    fn decode(&self) -> Result<Zeroizing<Vec<u8>>, PemError> {
        let mut base64 = Zeroizing::new(Vec::with_capacity(self.body.len()));
        for line in lines(self.body).filter(|line| !line.text.contains(&b':')) {
            base64.extend(line.text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()));
        }
        let mut der = Zeroizing::new(vec![0; base64.len().div_ceil(4) * 3]);
        let decoded = Base64::decode(&base64[..], &mut der).map(<[u8]>::len);
        let count =
            decoded.map_err(|_| malformed(self.line, "the section that begins here is not base64"))?;
        der.truncate(count);
        Ok(der)
    }
}

fn malformed(line: usize, problem: impl Into<Cow<'static, str>>) -> PemError {
    PemError::Malformed { line, problem: problem.into() }
}

/// A line without the white space around it.
struct Line<'a> {
    /// 1-based.
    number: usize,
    /// In front of its first byte, and behind its last.
    place: Range<usize>,
    text: &'a [u8],
}

/// Lines end with LF or CR LF; in a text without any LF, with CR.
fn lines(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let end = if text.contains(&b'\n') { b'\n' } else { b'\r' };
    let mut start = 0;
    (1..).zip(text.split(move |byte| *byte == end)).map(move |(number, line)| {
        let place = start..start + line.len();
        start = place.end + 1;
        Line { number, place, text: line.trim_ascii() }
    })
}

/// All sections, whatever is in them.
fn sections(text: &[u8]) -> Result<Vec<Section<'_>>, PemError> {
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err(malformed(1, "the text is in UTF-16; save it as UTF-8"));
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut sections = Vec::new();
    // The label of the section that has begun, and its line.
    let mut begun: Option<(&[u8], Line<'_>)> = None;
    for line in lines(text) {
        begun = match (begun, boundary(&line)?) {
            (None, Boundary::Begin(label)) => Some((label, line)),
            (Some((_, begin)), Boundary::Begin(_)) => return Err(unended(&begin)),
            (Some((label, begin)), Boundary::End(end)) if label == end => {
                let body = &text[begin.place.end..line.place.start];
                sections.push(Section { label, line: begin.number, body });
                None
            }
            (Some(_), Boundary::End(_)) => {
                return Err(malformed(line.number, "END has another label than the BEGIN above it"));
            }
            (None, Boundary::End(_)) => {
                return Err(malformed(line.number, "a section ends here and none has begun"));
            }
            (begun, Boundary::Neither) => begun,
        };
    }
    begun.map_or(Ok(sections), |(_, begin)| Err(unended(&begin)))
}

fn unended(begin: &Line<'_>) -> PemError {
    malformed(begin.number, "the section that begins here has no line with its END")
}

enum Boundary<'a> {
    Begin(&'a [u8]),
    End(&'a [u8]),
    Neither,
}

/// What a line begins or ends. One that contains BEGIN or END and does neither would lose a section; a
/// comment may contain them.
fn boundary<'a>(line: &Line<'a>) -> Result<Boundary<'a>, PemError> {
    let label = |mark| {
        let label = line.text.strip_prefix(mark)?.strip_suffix(DASHES)?;
        (!contains(label, DASHES)).then_some(label)
    };
    if let Some(label) = label(BEGIN) {
        return Ok(Boundary::Begin(label));
    }
    if let Some(label) = label(END) {
        return Ok(Boundary::End(label));
    }
    let is_comment = line.text.starts_with(b"#");
    if is_comment || !(contains(line.text, BEGIN) || contains(line.text, END)) {
        return Ok(Boundary::Neither);
    }
    let problem = "BEGIN and END stand on lines of their own, as -----BEGIN CERTIFICATE-----; is a newline \
                   missing between two sections?";
    Err(malformed(line.number, problem))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests;
