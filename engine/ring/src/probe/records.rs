//! Which records the kernel would carry: the protocol, every cipher in both directions, a second set of keys;
//! each tried with `setsockopt` on a loopback TCP connection of its own. No record is sent.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::{Check, Verdict};
use crate::errno;
use offramp_proto::{Aead, Cipher, CipherSet, Direction, Version};

use crate::ktls::{Material, attach, install};
use crate::socket;

const GROUP: &str = "ktls";

/// What kernel TLS can do here.
#[derive(Clone, Debug)]
pub struct Ktls {
    /// What it seals.
    pub tx: CipherSet,
    /// What it opens.
    pub rx: CipherSet,
    /// Why `tx` lacks something; the first reason met.
    pub tx_reason: Option<Refusal>,
    /// Why `rx` lacks something; the first reason met.
    pub rx_reason: Option<Refusal>,
    /// Whether a TLS 1.3 connection may change its keys (Linux 6.14 and later, or a backport).
    pub rekey: Rekey,
}

/// Whether the keys of a direction can be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rekey {
    /// They can.
    Supported,
    /// They cannot, by this error: EBUSY on kernels before 6.14.
    Refused(String),
    /// Nothing to replace: TLS 1.3 cannot be carried at all.
    Untried,
}

/// What the kernel would not do, the error by name, and the command to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is missing.
    pub what: &'static str,
    /// The error's name.
    pub errno: String,
    /// What would help; empty if nothing is known to.
    pub remedy: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.errno)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; try: {}", self.remedy) }
    }
}

/// Tries what kernel TLS can do here.
#[must_use]
pub fn ktls() -> Ktls {
    let (tx, tx_reason) = direction(Direction::Tx);
    let (rx, rx_reason) = direction(Direction::Rx);
    Ktls { tx, rx, tx_reason, rx_reason, rekey: rekey(tx) }
}

impl Ktls {
    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![protocol()];
        for (direction, set, reason) in [("tx", self.tx, &self.tx_reason), ("rx", self.rx, &self.rx_reason)] {
            let attached = !set.is_empty() || checks[0].verdict == Verdict::Ok;
            for cipher in Cipher::all() {
                let name = format!("{direction} TLS {} {}", cipher.version, cipher.aead);
                checks.push(match reason {
                    _ if set.contains(cipher) => Check::ok(GROUP, name, "kernel"),
                    _ if !attached => Check::bad(Verdict::Untried, (GROUP, name), "userspace", ""),
                    Some(why) => Check::bad(Verdict::Degraded, (GROUP, name), &why.errno, why.remedy),
                    None => Check::bad(Verdict::Degraded, (GROUP, name), "userspace", ""),
                });
            }
        }
        checks.push(match &self.rekey {
            Rekey::Supported => Check::ok(GROUP, "rekey TLS 1.3", "kernel"),
            Rekey::Refused(errno) => {
                let remedy = "a kernel of 6.14 or later; until then a KeyUpdate closes the connection";
                Check::bad(Verdict::Degraded, (GROUP, "rekey TLS 1.3".into()), errno, remedy)
            }
            Rekey::Untried => Check::bad(Verdict::Untried, (GROUP, "rekey TLS 1.3".into()), "userspace", ""),
        });
        checks
    }
}

fn protocol() -> Check {
    let name = "protocol \"tls\"".to_owned();
    match connected().and_then(|pair| attach(pair.ours.as_fd())) {
        Ok(()) => Check::ok(GROUP, name, "attached"),
        Err(error) => {
            let why = why_not_attached(&error);
            Check::bad(Verdict::Degraded, (GROUP, name), why.errno, why.remedy)
        }
    }
}

fn direction(direction: Direction) -> (CipherSet, Option<Refusal>) {
    let mut set = CipherSet::NONE;
    let mut reason = None;
    for cipher in Cipher::all() {
        match try_cipher(direction, cipher) {
            Ok(_) => set = set.with(cipher),
            Err(why) => reason = reason.or(Some(why)),
        }
    }
    (set, reason)
}

fn try_cipher(direction: Direction, cipher: Cipher) -> Result<Pair, Refusal> {
    let pair = connected().map_err(|error| Refusal {
        what: "no loopback TCP connection to try on",
        errno: errno::name(&error),
        remedy: "ip link set lo up",
    })?;
    attach(pair.ours.as_fd()).map_err(|error| why_not_attached(&error))?;
    install_zeroes(&pair, direction, cipher).map_err(|error| why_not_installed(&error))?;
    Ok(pair)
}

fn rekey(tx: CipherSet) -> Rekey {
    let cipher = Cipher::new(Version::Tls13, Aead::Aes128Gcm);
    if !tx.contains(cipher) {
        return Rekey::Untried;
    }
    let Ok(pair) = try_cipher(Direction::Tx, cipher) else { return Rekey::Untried };
    match install_zeroes(&pair, Direction::Tx, cipher) {
        Ok(()) => Rekey::Supported,
        Err(error) => Rekey::Refused(errno::name(&error)),
    }
}

/// A connection that nothing is ever sent on: all-zero keys give nothing away.
fn install_zeroes(pair: &Pair, direction: Direction, cipher: Cipher) -> io::Result<()> {
    let key = vec![0; cipher.aead.key_bytes()];
    install(pair.ours.as_fd(), direction, &Material { cipher, key: &key, iv: &[0; 12], sequence: 0 })
}

/// A loopback connection with both its ends: were the other one closed, ours would not be ESTABLISHED any
/// more, and the protocol could not be attached.
struct Pair {
    ours: TcpStream,
    _theirs: TcpStream,
}

fn connected() -> io::Result<Pair> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    // No TIME_WAIT stays on a local port that somebody may want to listen on.
    socket::abort_on_close(ours.as_fd())?;
    Ok(Pair { ours, _theirs: listener.accept()?.0 })
}

fn why_not_attached(error: &io::Error) -> Refusal {
    let (what, remedy) = match error.raw_os_error() {
        Some(libc::ENOENT) => ("the kernel has no \"tls\" protocol", "modprobe tls"),
        Some(libc::EPERM | libc::EACCES) => (
            "attaching the \"tls\" protocol is forbidden",
            "a seccomp profile that allows setsockopt TCP_ULP",
        ),
        Some(libc::ENOPROTOOPT) => ("the kernel has no upper-layer protocols", "a kernel with CONFIG_TLS"),
        _ => ("the \"tls\" protocol cannot be attached", ""),
    };
    Refusal { what, errno: errno::name(error), remedy }
}

fn why_not_installed(error: &io::Error) -> Refusal {
    let (what, remedy) = match error.raw_os_error() {
        Some(libc::ENOENT) => {
            ("the kernel's crypto API lacks the algorithm", "modprobe -a gcm chacha20poly1305")
        }
        Some(libc::EINVAL) => ("kernel TLS does not know the cipher or version", "a newer kernel"),
        _ => ("the keys cannot be installed", ""),
    };
    Refusal { what, errno: errno::name(error), remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_carried_has_a_reason() {
        let found = ktls();
        assert_eq!(found.tx_reason.is_none(), found.tx.iter().count() == Cipher::all().count());
        assert_eq!(found.rx_reason.is_none(), found.rx.iter().count() == Cipher::all().count());
        assert_eq!(found.checks().len(), 2 + 2 * Cipher::all().count());
    }

    #[test]
    fn a_missing_protocol_is_told_with_the_command_to_try() {
        let why = why_not_attached(&io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(why.to_string(), "the kernel has no \"tls\" protocol: ENOENT; try: modprobe tls");
        let odd = why_not_installed(&io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(odd.to_string(), "the keys cannot be installed: EIO");
    }

    #[test]
    fn without_kernel_tls_the_ciphers_are_not_tried() {
        let why = why_not_attached(&io::Error::from_raw_os_error(libc::ENOENT));
        let reason = Some(why);
        let none = Ktls {
            tx: CipherSet::NONE,
            rx: CipherSet::NONE,
            tx_reason: reason.clone(),
            rx_reason: reason,
            rekey: rekey(CipherSet::NONE),
        };
        assert_eq!(none.rekey, Rekey::Untried);
        assert!(none.checks()[1..].iter().all(|check| check.verdict != Verdict::Ok));
    }
}
