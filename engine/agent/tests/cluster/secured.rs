//! etcd with TLS, client certificates and users, and endpoints that are none.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use offramp_testing::tools::eventually;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};

use crate::lab::{Etcd, Host, TIMES, agreed, kek};

/// An authority, etcd's certificate and a client's, as files.
fn certificates(directory: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
    for name in ["server", "client"] {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        // With users, etcd's gateway refuses a certificate that has a common name.
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        let path = directory.join(format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
}

#[test]
fn etcd_with_client_certificates_and_users_works() {
    let etcd = Etcd::start_with("https", |files| {
        certificates(files);
        let at = |name: &str| files.join(name).to_str().unwrap().to_owned();
        let server =
            [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
        let mut extra = vec!["--client-cert-auth".to_owned()];
        extra.extend(server.into_iter().flat_map(|(option, name)| [option.to_owned(), at(name)]));
        let client = [("--cert", "client.pem"), ("--key", "client.key"), ("--cacert", "ca.pem")];
        (extra, client.into_iter().flat_map(|(option, name)| [option.to_owned(), at(name)]).collect())
    });
    let Some(etcd) = etcd else { return };
    let files = etcd.files.path().to_owned();
    let at = |name: &str| files.join(name).to_str().unwrap().to_owned();
    etcd.must(&["user", "add", "root:secret of root"]);
    etcd.must(&["role", "add", "keys"]);
    etcd.must(&["role", "grant-permission", "keys", "--prefix=true", "readwrite", "/offramp/ticket-keys/"]);
    etcd.must(&["user", "add", "agent:secret of agent"]);
    etcd.must(&["user", "grant-role", "agent", "keys"]);
    etcd.must(&["auth", "enable"]);
    std::fs::write(files.join("password"), "secret of agent\n").unwrap();
    std::fs::write(files.join("wrong"), "another\n").unwrap();
    for name in ["password", "wrong"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(files.join(name), mode).unwrap();
    }
    let kek = kek(&files, "kek");
    let (ca, certificate, key) = (at("ca.pem"), at("client.pem"), at("client.key"));
    let (password, wrong) = (at("password"), at("wrong"));
    let tls = ["--etcd-ca", &ca, "--etcd-cert", &certificate, "--etcd-key", &key, "--etcd-user", "agent"];
    let with = |password| [&TIMES[..], &tls[..], &["--etcd-password-file", password]].concat();
    let good = ["one", "two"].map(|name| Host::start_with(&etcd, name, &[&kek], &with(&password)));
    agreed(&good.each_ref());
    let bad = Host::start_with(&etcd, "bad", &[&kek], &with(&wrong));
    bad.says("authentication failed, invalid user ID or password");
    let stranger = [&TIMES[..], &["--etcd-ca", &ca]].concat();
    let stranger = Host::start_with(&etcd, "stranger", &[&kek], &stranger);
    eventually("an alarm", || stranger.alarm("etcd"));
    assert!(!bad.file().exists() && !stranger.file().exists());
    for host in [&bad, &stranger] {
        assert!(!host.log().contains("secret of") && !host.log().contains("another"), "{}", host.log());
    }
}

/// What answers instead of etcd: each is one endpoint, and the agent's keys come from the last, which is
/// etcd.
#[test]
fn endpoint_with_invalid_answer_is_named_and_skipped() {
    let Some(etcd) = Etcd::start() else { return };
    let kek = kek(etcd.files.path(), "kek");
    let rubbish: [&[u8]; 5] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\n\x1b[31m",
        b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ];
    for answer in rubbish {
        let endpoint = server(answer);
        let alone = ["--etcd", &endpoint];
        let host = Host::start_with(&etcd, "alone", &[&kek], &[&TIMES[..], &alone].concat());
        host.says(&format!("etcd: {endpoint}: "));
        assert!(!host.log().contains('\x1b') && !host.file().exists(), "{}", host.log());
    }
    let endpoints = format!("{},{}", server(rubbish[0]), etcd.endpoint());
    let host = Host::start_with(&etcd, "both", &[&kek], &[&TIMES[..], &["--etcd", &endpoints]].concat());
    agreed(&[&host]);
}

/// Answers everything with the same bytes.
fn server(answer: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer: Arc<[u8]> = answer.into();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                while let Ok(1..) = socket.read(&mut request) {
                    if socket.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    endpoint
}
