//! Who will carry the records: what the policy asks for and what the kernel was found to do.

use std::fmt;

use super::StartError;
use crate::config::{KeyUpdatePolicy, Listener, Mode, OffloadPolicy, OffloadRules};
use crate::conn::record_path::Offer;
use crate::sys::probe::{Ktls, Refusal, Rekey};
use offramp_proto::{Aead, Cipher, CipherSet, Version};

/// Bytes after which `auto` gives the kernel what goes to the peer. The hand-over costs a connection one to
/// five in a hundred of its instructions (`bench/results`, kernel records): short ones are spared it.
const AUTO_AFTER_BYTES: u64 = 64 * 1024;

/// Who will carry the records of connections whose cipher allows it, per direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPaths {
    /// From the plain leg to the TLS leg.
    pub tx: RecordPath,
    /// From the TLS leg to the plain leg.
    pub rx: RecordPath,
    /// Bytes of plaintext that a direction carries in userspace first.
    after_bytes: u64,
    /// The kernel takes the key that follows a KeyUpdate.
    rekeys: bool,
    /// Peers are expected not to pad.
    expect_no_pad: bool,
}

/// Who will carry the records of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordPath {
    /// The kernel, with these ciphers.
    Kernel(CipherSet),
    /// Userspace, for this reason.
    Userspace(String),
}

impl RecordPaths {
    /// Those of a listener, of which the kernel was `found` to carry what it can.
    pub(super) fn of(listener: &Listener, found: &Ktls) -> Result<Self, StartError> {
        let policy = listener.offload.policy;
        match listener.mode {
            Mode::Plain | Mode::Passthrough => Ok(Self::userspace("no TLS")),
            _ if !listener.has_tls_over_unix() => Self::choose(&listener.offload, found),
            _ if policy == OffloadPolicy::Always => {
                Err(StartError::NoOffloadOverUnix { address: listener.listen.clone() })
            }
            // With TLS on both legs, those to the backend stay in userspace too: one policy holds for both.
            _ => Ok(Self::userspace("a Unix socket")),
        }
    }

    fn userspace(reason: &str) -> Self {
        let tx = RecordPath::Userspace(reason.to_owned());
        Self { rx: tx.clone(), tx, after_bytes: 0, rekeys: false, expect_no_pad: false }
    }

    /// What the kernel may be asked for under `rules`, of what was `found` that it can do.
    fn choose(rules: &OffloadRules, found: &Ktls) -> Result<Self, StartError> {
        if rules.policy == OffloadPolicy::Never {
            return Ok(Self::userspace("offload = never"));
        }
        let (wants_tx, wants_rx) = (rules.directions.has_tx(), rules.directions.has_rx());
        if rules.policy == OffloadPolicy::Always && wants_tx {
            require(("tx", found.tx), found.tx_reason.as_ref())?;
        }
        if rules.policy == OffloadPolicy::Always && wants_rx {
            require(("rx", found.rx), found.rx_reason.as_ref())?;
        }
        let rekeys = found.rekey == Rekey::Supported;
        let without_13 = rules.key_update == KeyUpdatePolicy::Userspace && !rekeys;
        let is_auto = rules.policy == OffloadPolicy::Auto;
        let path = |set: CipherSet, reason: Option<&Refusal>, wanted: bool| match (wanted, without_13) {
            (false, _) => RecordPath::Userspace("offload_directions".to_owned()),
            (true, false) => RecordPath::found(set, reason),
            (true, true) => RecordPath::found(set, reason).without_13(),
        };
        let after_bytes = match rules.policy {
            OffloadPolicy::AfterBytes(bytes) => bytes,
            OffloadPolicy::Auto => AUTO_AFTER_BYTES,
            OffloadPolicy::Always | OffloadPolicy::Never => 0,
        };
        let mut rx = path(found.rx, found.rx_reason.as_ref(), wants_rx);
        if is_auto && matches!(rx, RecordPath::Kernel(_)) {
            rx = RecordPath::Userspace("offload = auto: it costs less there".to_owned());
        }
        let tx = path(found.tx, found.tx_reason.as_ref(), wants_tx);
        Ok(Self { tx, rx, after_bytes, rekeys, expect_no_pad: rules.expect_no_pad })
    }

    pub(super) fn offer(&self) -> Offer {
        Offer {
            tx: self.tx.ciphers(),
            rx: self.rx.ciphers(),
            after_bytes: self.after_bytes,
            rekeys: self.rekeys,
        }
    }

    /// Whether the kernel may expect records without padding.
    pub(super) fn expects_no_pad(&self) -> bool {
        self.expect_no_pad
    }
}

/// "Always" can be kept only if the cipher that every peer has is carried, in either version.
fn require(found: (&'static str, CipherSet), reason: Option<&Refusal>) -> Result<(), StartError> {
    let (direction, set) = found;
    if set.contains(Cipher::new(Version::Tls12, Aead::Aes128Gcm))
        && set.contains(Cipher::new(Version::Tls13, Aead::Aes128Gcm))
    {
        return Ok(());
    }
    Err(StartError::NoOffload { direction, reason: reason_text(reason) })
}

fn reason_text(reason: Option<&Refusal>) -> String {
    reason.map_or_else(|| "the kernel gave no reason".to_owned(), ToString::to_string)
}

impl RecordPath {
    fn found(set: CipherSet, reason: Option<&Refusal>) -> Self {
        if set.is_empty() { Self::Userspace(reason_text(reason)) } else { Self::Kernel(set) }
    }

    /// For a kernel that cannot replace keys, where peers are expected to.
    fn without_13(self) -> Self {
        let Self::Kernel(set) = self else { return self };
        let is_12 = |cipher: &Cipher| cipher.version == Version::Tls12;
        let rest = set.iter().filter(is_12).fold(CipherSet::NONE, CipherSet::with);
        if rest.is_empty() { Self::Userspace("keyupdate = userspace".to_owned()) } else { Self::Kernel(rest) }
    }

    fn ciphers(&self) -> CipherSet {
        match self {
            Self::Kernel(set) => *set,
            Self::Userspace(_) => CipherSet::NONE,
        }
    }
}

impl fmt::Display for RecordPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "records tx: {}, rx: {}", self.tx, self.rx)?;
        let kernel = [&self.tx, &self.rx].into_iter().any(|path| matches!(path, RecordPath::Kernel(_)));
        if kernel && self.after_bytes > 0 {
            write!(f, "; the kernel after {} bytes", self.after_bytes)?;
        }
        Ok(())
    }
}

impl fmt::Display for RecordPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = match self {
            Self::Userspace(reason) => return write!(f, "userspace ({reason})"),
            Self::Kernel(set) => *set,
        };
        let mut names = Vec::new();
        for aead in Aead::ALL {
            let with = |version| set.contains(Cipher::new(version, aead));
            match (with(Version::Tls12), with(Version::Tls13)) {
                (true, true) => names.push(aead.to_string()),
                (true, false) => names.push(format!("{aead} with TLS 1.2 only")),
                (false, true) => names.push(format!("{aead} with TLS 1.3 only")),
                (false, false) => {}
            }
        }
        write!(f, "kernel ({})", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OffloadDirections;

    fn found(rekey: Rekey) -> Ktls {
        let set = CipherSet::ALL;
        Ktls { tx: set, rx: set, tx_reason: None, rx_reason: None, rekey }
    }

    fn rules(policy: OffloadPolicy) -> OffloadRules {
        OffloadRules { policy, ..OffloadRules::default() }
    }

    #[test]
    fn never_asks_the_kernel_nothing() {
        let paths = RecordPaths::choose(&rules(OffloadPolicy::Never), &found(Rekey::Supported)).unwrap();
        assert_eq!(
            paths.to_string(),
            "records tx: userspace (offload = never), rx: userspace (offload = never)"
        );
        assert_eq!(paths.offer(), Offer::default());
    }

    #[test]
    fn offload_is_limited_to_a_direction_and_after_bytes() {
        let rules =
            OffloadRules { directions: OffloadDirections::Tx, ..rules(OffloadPolicy::AfterBytes(9000)) };
        let paths = RecordPaths::choose(&rules, &found(Rekey::Supported)).unwrap();
        assert_eq!(
            paths.to_string(),
            "records tx: kernel (aes-128-gcm, aes-256-gcm, chacha20-poly1305), rx: userspace \
             (offload_directions); the kernel after 9000 bytes"
        );
        let offer = paths.offer();
        assert!(offer.rx.is_empty() && !offer.tx.is_empty() && offer.rekeys && offer.after_bytes == 9000);
    }

    #[test]
    fn without_rekey_keyupdate_userspace_excludes_tls_1_3() {
        let rules = OffloadRules { key_update: KeyUpdatePolicy::Userspace, ..rules(OffloadPolicy::Always) };
        let refused = Rekey::Refused("EBUSY".to_owned());
        let offer = RecordPaths::choose(&rules, &found(refused.clone())).unwrap().offer();
        assert!(
            offer.tx.contains(Cipher::new(Version::Tls12, Aead::Aes128Gcm))
                && !offer.tx.contains(Cipher::new(Version::Tls13, Aead::Aes128Gcm))
        );
        assert!(
            offer.rx.contains(Cipher::new(Version::Tls12, Aead::Aes256Gcm))
                && !offer.rx.contains(Cipher::new(Version::Tls13, Aead::Aes256Gcm))
        );
        let offer = RecordPaths::choose(&rules, &found(Rekey::Supported)).unwrap().offer();
        assert!(offer.tx.contains(Cipher::new(Version::Tls13, Aead::Aes128Gcm)) && offer.rekeys);
        let offer = RecordPaths::choose(&OffloadRules::default(), &found(refused)).unwrap().offer();
        assert!(offer.tx.contains(Cipher::new(Version::Tls13, Aead::Aes128Gcm)) && !offer.rekeys);
    }

    #[test]
    fn auto_offloads_tx_after_its_byte_threshold() {
        let paths = RecordPaths::choose(&OffloadRules::default(), &found(Rekey::Supported)).unwrap();
        assert!(paths.offer().rx.is_empty() && paths.offer().after_bytes == AUTO_AFTER_BYTES);
        assert_eq!(
            paths.to_string(),
            "records tx: kernel (aes-128-gcm, aes-256-gcm, chacha20-poly1305), rx: userspace (offload = \
             auto: it costs less there); the kernel after 65536 bytes"
        );
    }

    #[test]
    fn what_the_kernel_carries_is_named() {
        let mut set = CipherSet::NONE;
        for cipher in [
            Cipher::new(Version::Tls12, Aead::Aes128Gcm),
            Cipher::new(Version::Tls13, Aead::Aes128Gcm),
            Cipher::new(Version::Tls13, Aead::Aes256Gcm),
        ] {
            set = set.with(cipher);
        }
        let named = RecordPath::found(set, None).to_string();
        assert_eq!(named, "kernel (aes-128-gcm, aes-256-gcm with TLS 1.3 only)");
    }

    #[test]
    fn tls_over_a_unix_socket_stays_in_userspace() {
        use crate::config::Routes;
        use crate::sys::socket::Address;

        let address = Address::Unix("/s".into());
        let mut listener = Listener::new(address.clone(), Routes::to(address), Vec::new());
        let found = found(Rekey::Supported);
        for policy in [OffloadPolicy::Auto, OffloadPolicy::AfterBytes(1), OffloadPolicy::Never] {
            listener.offload.policy = policy;
            let paths = RecordPaths::of(&listener, &found).unwrap();
            assert_eq!((paths.offer(), &paths.tx), (Offer::default(), &paths.rx), "{policy}");
        }
        listener.offload.policy = OffloadPolicy::Always;
        let error = RecordPaths::of(&listener, &found).unwrap_err().to_string();
        assert!(error.contains("clients on unix:/s: kernel TLS is a part of TCP; try: offload"), "{error}");
        listener.mode = Mode::Plain;
        assert_eq!(RecordPaths::of(&listener, &found).unwrap(), RecordPaths::userspace("no TLS"));
    }

    #[test]
    fn always_needs_aes_128_gcm_in_both_versions() {
        let mut set = CipherSet::NONE;
        set = set.with(Cipher::new(Version::Tls12, Aead::Aes128Gcm));
        let error = require(("tx", set), None).unwrap_err().to_string();
        assert!(error.starts_with("offload = always, but the kernel cannot carry tx records: "), "{error}");
        set = set.with(Cipher::new(Version::Tls13, Aead::Aes128Gcm));
        require(("tx", set), None).unwrap();
    }
}
