use rcgen::KeyPair;

use super::*;

const LABELS: [&str; 2] = ["CERTIFICATE", "X509 CERTIFICATE"];

/// A section with three bytes in it.
fn section(label: &str) -> String {
    format!("-----BEGIN {label}-----\nMAMC\n-----END {label}-----\n")
}

fn count(text: &str) -> Result<usize, String> {
    certificates(text.as_bytes()).map(|all| all.len()).map_err(|error| error.to_string())
}

#[test]
fn certificates_are_found_among_other_pem_and_text() {
    let one = section(LABELS[0]);
    for text in [
        format!("{one}{}", section(LABELS[1])),
        format!("\u{feff}{one}{one}"),
        format!("rubbish\n  {one}# -----BEGIN CERTIFICATE----- of last year\n{one}more"),
        format!("{one}{one}").replace('\n', "\r\n"),
        format!("{one}{one}").replace('\n', "\r"),
        format!("{one}{}{}{one}", section("PRIVATE KEY"), section("EC PARAMETERS")),
        format!("{}{}", one.replace("MAMC", "MA\n\n M\tC"), one.trim_end()),
        format!("{one}-----BEGIN X-----\nno base64\n-----END X-----\n{one}"),
    ] {
        assert_eq!(count(&text), Ok(2), "{text}");
    }
}

#[test]
fn certificates_without_newline_between_are_refused() {
    let one = section("CERTIFICATE");
    let glued = format!("{}{one}", one.trim_end());
    let said = count(&glued).unwrap_err();
    assert!(said.starts_with("line 3: ") && said.contains("is a newline missing"), "{said}");
    let both = format!("{}{}", one.trim_end(), section("PRIVATE KEY"));
    assert!(private_key(both.as_bytes()).unwrap_err().to_string().starts_with("line 3: "), "in every reader");
}

#[test]
fn each_line_that_would_lose_a_section_is_named() {
    let one = section("CERTIFICATE");
    for (text, start) in [
        (one.replace("-----END", "----END"), "line 1: the section that begins here has no line with its END"),
        (one.replace("-----BEGIN", "----BEGIN"), "line 3: a section ends here and none has begun"),
        (one.replace("END CERT", "END X509 CERT"), "line 3: END has another label"),
        (one.replacen("E-----", "E----", 1), "line 1: BEGIN and END stand on lines of their own"),
        (format!("{one}{}", &one[..30]), "line 4: the section that begins here"),
        (format!("{}\n{one}", &one[..32]), "line 1: the section that begins here"),
        (format!("x {one}"), "line 1: BEGIN and END stand"),
        (one.replace("MAMC", "M!MC"), "line 1: the section that begins here is not base64"),
        (one.replace("MAMC", "MAMCM"), "line 1: the section that begins here is not base64"),
        (one.replace("MAMC", "#"), "line 1: the section that begins here is not base64"),
    ] {
        let said = count(&text).unwrap_err();
        assert!(said.starts_with(start), "{text}{said}");
    }
    assert!(certificates(b"\xff\xfe-\0").unwrap_err().to_string().contains("UTF-16"));
}

#[test]
fn what_is_missing_is_named_and_der_is_recognised() {
    let said = count("").unwrap_err();
    assert_eq!(said, "has no certificate; expected PEM with a line \"-----BEGIN CERTIFICATE-----\"");
    let said = certificates(&[0x30, 0x82, 1]).unwrap_err().to_string();
    assert!(said.contains("looks like DER") && said.contains("openssl x509"), "{said}");
    let said = private_key(section("CERTIFICATE").as_bytes()).unwrap_err().to_string();
    assert!(said.contains("has no private key") && said.contains("BEGIN PRIVATE KEY"), "{said}");
}

#[test]
fn forms_that_are_not_read_are_named_with_a_remedy() {
    for (label, parts) in [
        ("TRUSTED CERTIFICATE", ["line 4: a TRUSTED CERTIFICATE", "openssl x509 -in FILE -out NEW"]),
        ("PKCS7", ["line 4: certificates in PKCS #7", "openssl pkcs7 -print_certs"]),
        ("CERTIFICATE REQUEST", ["line 4: a request for a certificate", "have an authority sign it"]),
    ] {
        let said = count(&format!("{}{}", section("CERTIFICATE"), section(label))).unwrap_err();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    let old =
        section("EC PRIVATE KEY").replace("MAMC", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMAMC");
    for (text, parts) in [
        (section("ENCRYPTED PRIVATE KEY"), ["line 1: the private key is encrypted", "openssl pkey -in"]),
        (old, ["line 1: the private key is encrypted", "openssl pkey -in"]),
        (section("DSA PRIVATE KEY"), ["line 1: a DSA key", "openssl genpkey -algorithm EC"]),
        (section("OPENSSH PRIVATE KEY"), ["line 1: a key in the form of OpenSSH", "openssl genpkey"]),
    ] {
        let said = private_key(text.as_bytes()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

#[test]
fn a_key_is_decoded_as_it_was_written_and_never_shown() {
    let made = KeyPair::generate().unwrap();
    let text = format!("{}{}", section("EC PARAMETERS"), made.serialize_pem());
    let key = private_key(text.as_bytes()).unwrap();
    assert_eq!(key.der().secret_der(), made.serialize_der());
    assert_eq!(format!("{key:?}"), "PrivateKey");
    let forms = ["RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY"].map(|label| {
        let key = private_key(section(label).as_bytes()).unwrap();
        assert_eq!(key.der().secret_der(), [0x30, 3, 2]);
        match key.der() {
            PrivateKeyDer::Pkcs1(_) => "pkcs1",
            PrivateKeyDer::Sec1(_) => "sec1",
            _ => "pkcs8",
        }
    });
    assert_eq!(forms, ["pkcs1", "sec1", "pkcs8"]);
}

#[test]
fn whatever_the_bytes_are_nothing_panics() {
    let good = format!("{}{}", section("CERTIFICATE"), section("PRIVATE KEY"));
    for at in 0..good.len() {
        for byte in [0, b'-', b'\n', b'=', b':', 0xff] {
            let mut text = good.clone().into_bytes();
            text[at] = byte;
            let _ = (certificates(&text), private_key(&text));
            let _ = (certificates(&text[..at]), private_key(&text[..at]));
        }
    }
}
