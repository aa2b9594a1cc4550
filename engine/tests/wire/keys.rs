//! Certificates and private keys of a running server: renewed without a signal, and nowhere in its memory but
//! in the object that signs.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::peer::Peer;
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, scratch, signal, skip};

const PAGE: usize = 4096;

/// What of a key must not be in memory, as it is in its file: in base64 and in DER.
fn needles(key: &str) -> Vec<Vec<u8>> {
    let lines = key.lines().filter(|line| !line.starts_with('-') && line.len() >= 32);
    let mut needles: Vec<Vec<u8>> = lines.map(|line| line.as_bytes()[..32].to_vec()).collect();
    needles.extend(secrets(key));
    needles
}

/// Pieces of the secret numbers, big-endian as DER has them.
fn secrets(key: &str) -> Vec<Vec<u8>> {
    let der = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM").secret_der().to_vec();
    if der.len() > 1000 {
        // RSA-2048 in PKCS #8: d, then p, then q.
        return [400, 700, 850].map(|at| der[at..at + 24].to_vec()).to_vec();
    }
    let mark = [2, 1, 1, 4, 0x20];
    let at = der.windows(mark.len()).position(|bytes| bytes == mark).expect("RFC 5915") + mark.len();
    vec![der[at..at + 24].to_vec()]
}

/// As aws-lc keeps a number: in words, the lowest first.
fn reversed(secrets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let reversed = |secret: &Vec<u8>| secret.iter().rev().copied().collect();
    secrets.iter().map(reversed).collect()
}

/// How many of the needles are somewhere in the memory of the process that it has touched and may write.
fn found(pid: u32, needles: &[Vec<u8>]) -> usize {
    let open = |name: &str| File::open(format!("/proc/{pid}/{name}")).expect("root may read it");
    let (memory, pagemap) = (open("mem"), open("pagemap"));
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the server runs");
    let mut seen = vec![false; needles.len()];
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw")))
    {
        let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let number = |text| usize::from_str_radix(text, 16).expect("hexadecimal");
        let (from, to) = (number(from), number(to));
        // With the end of the page in front, since a needle may lie across.
        let mut text = Vec::new();
        for page in (from..to).step_by(PAGE) {
            let mut entry = [0; 8];
            let known = pagemap.read_exact_at(&mut entry, (page / PAGE * 8) as u64).is_ok();
            let mut bytes = [0; PAGE];
            if !known || entry[7] >> 6 == 0 || memory.read_exact_at(&mut bytes, page as u64).is_err() {
                text.clear();
                continue;
            }
            text.drain(..text.len().saturating_sub(64));
            text.extend_from_slice(&bytes);
            for (seen, needle) in seen.iter_mut().zip(needles).filter(|(seen, _)| !**seen) {
                *seen = text.windows(needle.len()).any(|window| window == needle.as_slice());
            }
        }
    }
    seen.iter().filter(|seen| **seen).count()
}

/// A certificate for another key, in place of the files of a server.
struct Renewed {
    certificate: String,
    key: String,
}

impl Renewed {
    fn of(key: KeyPair) -> Self {
        let params = rcgen::CertificateParams::new(vec!["renewed.test".to_owned()]).unwrap();
        Self { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    fn ecdsa() -> Self {
        Self::of(KeyPair::generate().unwrap())
    }

    fn rsa() -> Self {
        Self::of(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap())
    }

    fn write(&self, directory: &Path) {
        put(&directory.join("c.pem"), &self.certificate);
        put(&directory.join("k.pem"), &self.key);
    }
}

/// As who renews certificates does: never half a file.
fn put(path: &Path, content: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// A server whose only identity is in this directory.
fn serve(directory: &Path, backend: &Backend) -> TestServer {
    let (certificate, key) = (directory.join("c.pem"), directory.join("k.pem"));
    let flags = format!("--cert {} --key {}", certificate.display(), key.display());
    Setup::new(backend.addr).identities(&[]).flags(&flags).start()
}

/// The certificate that is shown to a client that trusts these.
fn shown(server: &TestServer, trusted: &[&Renewed]) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|one| roots.add(der(&one.certificate).into()).unwrap());
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut peer = Peer::dial(server.addr, &Arc::new(config), "renewed.test");
    peer.handshake().expect("the handshake is complete");
    peer.ping(b"!");
    peer.tls.peer_certificates().expect("a full handshake")[0].to_vec()
}

fn der(pem: &str) -> Vec<u8> {
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn keys_are_in_memory_in_no_form_of_their_file() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return skip("only root may read the memory of a process that is not dumpable");
    }
    let (directory, backend) = (scratch(), Backend::start(BackendBehavior::Echo));
    let mut before: Option<Renewed> = None;
    let (first, rest) = (Renewed::ecdsa(), [Renewed::rsa(), Renewed::ecdsa()]);
    first.write(directory.path());
    let server = serve(directory.path(), &backend);
    for renewed in std::iter::once(first).chain(rest) {
        renewed.write(directory.path());
        if before.is_some() {
            server.reload("timeouts in force");
        }
        assert_eq!(shown(&server, &[&renewed]), der(&renewed.certificate));
        assert_eq!(found(server.pid(), &needles(&renewed.key)), 0, "as it is in the file");
        let live = reversed(&secrets(&renewed.key));
        assert_eq!(found(server.pid(), &live), live.len(), "the scan sees the key that signs");
        if let Some(old) = before.replace(renewed) {
            assert_eq!(found(server.pid(), &needles(&old.key)), 0, "the old one as it was in the file");
            let old = reversed(&secrets(&old.key));
            eventually("the old key is wiped", || found(server.pid(), &old) == 0);
        }
    }
    server.stop();
}

#[test]
fn keys_and_certificates_are_renewed_without_a_signal() {
    let (directory, backend) = (scratch(), Backend::start(BackendBehavior::Echo));
    let at = |name: &str| directory.path().join(name);
    let pairs = [Renewed::ecdsa(), Renewed::ecdsa(), Renewed::rsa()];
    let shown = |server: &TestServer| shown(server, &[&pairs[0], &pairs[1], &pairs[2]]);
    pairs[0].write(directory.path());
    let server = serve(directory.path(), &backend);
    assert_eq!(shown(&server), der(&pairs[0].certificate));
    // Half of a renewal changes nothing, and is named.
    put(&at("c.pem"), &pairs[1].certificate);
    eventually("a line that names the file", || server.stderr().contains("k.pem: is not the key of"));
    assert_eq!(shown(&server), der(&pairs[0].certificate), "{}", server.stderr());
    put(&at("k.pem"), &pairs[1].key);
    eventually("the pair is whole", || shown(&server) == der(&pairs[1].certificate));
    // As Kubernetes renews a secret.
    fs::create_dir(at("next")).unwrap();
    pairs[2].write(&at("next"));
    for name in ["c.pem", "k.pem"] {
        symlink(format!("next/{name}"), at("link")).unwrap();
        fs::rename(at("link"), at(name)).unwrap();
    }
    eventually("the links are followed", || shown(&server) == der(&pairs[2].certificate));
    server.stop();
}

/// Whoever cuts a key's file off or puts a device in its place, for instance.
#[test]
fn special_key_file_blocks_neither_start_nor_signals() {
    let (directory, backend) = (scratch(), Backend::start(BackendBehavior::Echo));
    let pair = Renewed::ecdsa();
    pair.write(directory.path());
    let key = directory.path().join("k.pem");
    for (file, problem) in
        [("/dev/zero", "it is a device"), (directory.path().to_str().unwrap(), "it is a dir")]
    {
        let flags = ["--backend", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--key", key.to_str().unwrap()];
        let mut arguments: Vec<String> = flags.map(str::to_owned).to_vec();
        arguments.extend(["--cert".to_owned(), file.to_owned()]);
        let refusal = offramp_testing::server::refused(&arguments);
        assert_eq!(refusal.status.code(), Some(1));
        assert!(refusal.stderr.contains(problem), "{}", refusal.stderr);
    }
    let server = serve(directory.path(), &backend);
    fs::remove_file(&key).unwrap();
    assert!(Command::new("mkfifo").arg(&key).status().unwrap().success());
    signal(server.pid(), "HUP");
    eventually("a line", || server.stderr().contains("k.pem: cannot be read: it is a pipe"));
    assert_eq!(shown(&server, &[&pair]), der(&pair.certificate));
    server.stop();
}

/// A process whose /proc belongs to root is not dumpable (proc(5)).
#[test]
fn keys_are_kept_out_of_core_dumps() {
    let (directory, backend) = (scratch(), Backend::start(BackendBehavior::Echo));
    Renewed::ecdsa().write(directory.path());
    let mut server = serve(directory.path(), &backend);
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let (user, owner) = (
        fs::metadata("/proc/self").unwrap().uid(),
        fs::metadata(format!("/proc/{}", server.pid())).unwrap().uid(),
    );
    assert!(owner == 0, "the owner of /proc/PID is {owner}, that of the process {user}");
    signal(server.pid(), "ABRT");
    let status = server.await_exit();
    assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&status), "{status}");
}

#[test]
fn keys_that_everybody_may_read_are_warned_of() {
    let (directory, backend) = (scratch(), Backend::start(BackendBehavior::Echo));
    Renewed::ecdsa().write(directory.path());
    let server = serve(directory.path(), &backend);
    assert!(!server.stderr().contains("every user of this host"), "{}", server.stderr());
    server.stop();
    let key = directory.path().join("k.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let server = serve(directory.path(), &backend);
    let line = "k.pem: its mode is 0644, and every user of this host has access to the private key";
    assert!(server.stderr().contains(line), "{}", server.stderr());
    server.stop();
}
