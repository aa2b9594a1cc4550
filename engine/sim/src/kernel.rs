//! A model of kernel TLS: given exactly what `InstallKeys` gives the kernel, it opens and seals real records.
//!
//! Written from `Documentation/networking/tls.rst` and the behaviour of Linux 6.1 and 6.12, on the AEADs
//! directly, so that it shares no code with what it is compared with: explicit nonces of TLS 1.2 AES-GCM
//! start at the iv that was given and count up; a receive that meets a record other than application
//! data fails with EIO until a receive with room for the record type takes it; keys are taken once, unless
//! the model is of a generation that can replace them, which then opens nothing behind a KeyUpdate until it
//! has (EKEYEXPIRED).

use offramp_proto::handshake::KEY_UPDATE;
use offramp_proto::record::{APPLICATION_DATA, HANDSHAKE};
use std::collections::{HashSet, VecDeque};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use offramp_core::tls::secrets::{Aead, Direction, TrafficKeys, Version};

/// The kernels that there are, by what differs for us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// No kernel TLS, or no module: the protocol cannot be attached.
    None,
    /// Seals and does not open: Linux before 4.17, or an RX that a policy of the host forbids.
    TxOnly,
    /// Linux 6.1 to 6.13: both directions, each key once.
    ///
    /// They are one generation because nothing that the core can see tells them apart. The functions of
    /// `net/tls` that answer it (`tls_sw_recvmsg`, `process_rx_list`, `tls_record_content_type`) are the same
    /// in 6.1 and 6.12 as maintained, save for ciphers that finish later: EIO until the record is taken with
    /// its type, an empty record that reads as the end of file, EBADMSG. Both refuse a second key with EBUSY
    /// and hand out a KeyUpdate without a pause, and both know the three AEADs in both versions. What does
    /// differ is below the core: flags of io_uring's completions and defects of splice, neither of which is
    /// used on kernel records. An AEAD whose module a build lacks is ENOENT, in either: see
    /// [`KernelProfile::refuse_tx`].
    #[default]
    SingleKey,
    /// Linux 6.14 and later: keys of TLS 1.3 can be replaced.
    Rekeying,
}

impl Generation {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::None, Self::TxOnly, Self::SingleKey, Self::Rekeying];
}

/// What the model takes and refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelProfile {
    /// Which kernel it is.
    pub generation: Generation,
    /// The errno with which `TLS_TX` is refused.
    pub refuse_tx: Option<i32>,
    /// The errno with which `TLS_RX` is refused.
    pub refuse_rx: Option<i32>,
    /// `getsockopt` does not tell the sequence number.
    pub hides_sequence: bool,
    /// What is done wrong with the keys of what we send, so that it is seen to be noticed.
    pub slip: Option<KernelBug>,
}

/// A mistake that no peer of TLS 1.2 notices, and its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelBug {
    /// The kernel is given the iv as the key schedule made it, without the nonce rule.
    SameIv,
    /// The sequence number of the last record before is given for the next.
    LastSequence,
}

impl KernelProfile {
    /// Those of a generation in good health.
    #[must_use]
    pub fn of(generation: Generation) -> Self {
        Self { generation, ..Self::default() }
    }
}

/// Both directions of one socket.
#[derive(Debug, Default)]
pub struct Kernel {
    habits: KernelProfile,
    tx: Option<Side>,
    rx: Option<Side>,
    /// Opened application data that was not yet taken.
    opened: VecDeque<u8>,
    /// What it has sealed with, whether that was sent or not: key and nonce.
    spent: HashSet<(Vec<u8>, [u8; 12])>,
    /// Sealed, and said to be sent, but not yet with TCP.
    pub(super) unsent: VecDeque<u8>,
    /// Application data of no bytes was opened, and nothing was told since.
    passed_empty: bool,
    /// An opened record of another type that was not yet taken.
    control: Option<(u8, Vec<u8>)>,
    /// A record could not be opened: nothing behind it can.
    broken: Option<i32>,
    /// A KeyUpdate was taken, and the next key has not come.
    key_expired: bool,
    /// That no record comes next was told, and is not told again.
    is_stopped: bool,
}

#[derive(Debug)]
pub(super) struct Side {
    version: Version,
    key: Vec<u8>,
    cipher: LessSafeKey,
    has_explicit_nonce: bool,
    iv: [u8; 12],
    sequence: u64,
    next_explicit: u64,
}

/// What a receive comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Not yet a whole record.
    Nothing,
    /// Application data.
    Data(Vec<u8>),
    /// A record of another type (only where the receive had room for the type).
    Record(u8, Vec<u8>),
    /// This errno.
    Error(i32),
}

impl Kernel {
    /// A socket without keys.
    #[must_use]
    pub fn new(habits: KernelProfile) -> Self {
        Self { habits, ..Self::default() }
    }

    /// `TLS_TX` or `TLS_RX`.
    ///
    /// # Errors
    /// An errno.
    pub fn install(&mut self, direction: Direction, keys: &TrafficKeys) -> Result<(), i32> {
        let (slot, refused) = match direction {
            Direction::Tx => (&mut self.tx, self.habits.refuse_tx),
            Direction::Rx => (&mut self.rx, self.habits.refuse_rx),
        };
        match self.habits.generation {
            Generation::None => return Err(libc::ENOENT),
            Generation::TxOnly if direction == Direction::Rx => return Err(libc::ENOPROTOOPT),
            _ => {}
        }
        if let Some(errno) = refused {
            return Err(errno);
        }
        let may_replace = self.habits.generation == Generation::Rekeying && keys.version() == Version::Tls13;
        if slot.is_some() && !may_replace {
            return Err(libc::EBUSY);
        }
        let mut side = Side::new(keys, keys.kernel_iv(direction));
        match self.habits.slip.filter(|_| direction == Direction::Tx) {
            Some(KernelBug::SameIv) => side = Side::new(keys, *keys.iv()),
            Some(KernelBug::LastSequence) => side.go_to(keys.sequence().saturating_sub(1)),
            None => {}
        }
        *slot = Some(side);
        if direction == Direction::Rx {
            self.key_expired = false;
        }
        Ok(())
    }

    /// Takes no keys from here on.
    pub(super) fn refuse(&mut self, errno: i32) {
        (self.habits.refuse_tx, self.habits.refuse_rx) = (Some(errno), Some(errno));
    }

    /// What `getsockopt` says of a direction.
    #[must_use]
    pub fn sequence(&self, direction: Direction) -> Option<u64> {
        let side = match direction {
            Direction::Tx => &self.tx,
            Direction::Rx => &self.rx,
        };
        side.as_ref().filter(|_| !self.habits.hides_sequence).map(|side| side.sequence)
    }

    /// Whether it seals what is sent.
    #[must_use]
    pub fn has_tx(&self) -> bool {
        self.tx.is_some()
    }

    /// Whether it opens what is received.
    #[must_use]
    pub fn has_rx(&self) -> bool {
        self.rx.is_some()
    }

    /// `bytes` as one record.
    pub fn seal(&mut self, record_type: u8, bytes: &[u8]) -> Vec<u8> {
        let Some(side) = &mut self.tx else { return Vec::new() };
        let nonce = side.nonce_bytes(&side.next_explicit.to_be_bytes());
        assert!(self.spent.insert((side.key.clone(), nonce)), "a nonce is used twice under one key");
        side.seal_padded(record_type, bytes, 0)
    }

    /// The errno of what comes next, if it is plainly no record and everything before it was taken.
    pub(super) fn finds_no_record(&self, wire: &VecDeque<u8>) -> Option<i32> {
        let is_next = self.opened.is_empty() && self.control.is_none() && !self.key_expired;
        if self.rx.is_none() || !is_next || self.is_stopped || self.broken.is_some() || wire.len() < 5 {
            return None;
        }
        let bytes = 5 + usize::from(u16::from_be_bytes([wire[3], wire[4]]));
        if bytes > 5 + 16_384 + 256 {
            return Some(libc::EMSGSIZE);
        }
        (wire[1] != 3 || wire[2] != 3).then_some(libc::EINVAL)
    }

    /// It was told that no record comes next: a receive waits from here on.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Whether a receive would be answered with `wire` in the socket.
    #[must_use]
    pub fn would_answer(&self, wire: &VecDeque<u8>) -> bool {
        let is_whole = wire.len() >= 5 && !self.is_stopped && {
            let bytes = 5 + usize::from(u16::from_be_bytes([wire[3], wire[4]]));
            bytes > 5 + 16_384 + 256 || wire[1] != 3 || wire[2] != 3 || wire.len() >= bytes
        };
        !self.opened.is_empty()
            || self.control.is_some()
            || self.key_expired
            || self.broken.is_some()
            || is_whole
    }

    /// What a receive of at most `max` bytes finds, with `wire` in the socket.
    pub fn receive(&mut self, wire: &mut VecDeque<u8>, max: usize, with_record_type: bool) -> Received {
        while self.control.is_none() && !self.key_expired && self.broken.is_none() && !self.is_stopped {
            match self.open_next(wire) {
                Ok(true) => {}
                Ok(false) => break,
                Err(errno) => self.broken = Some(errno),
            }
        }
        if !self.opened.is_empty() {
            self.passed_empty = false;
            let count = max.min(self.opened.len());
            return Received::Data(self.opened.drain(..count).collect());
        }
        if self.control.is_some() && std::mem::take(&mut self.passed_empty) {
            // Types never mix in one answer: this one has no bytes, and only the type tells it from the end.
            let empty = Vec::new();
            let (told, untold) = (Received::Record(APPLICATION_DATA, Vec::new()), Received::Data(empty));
            return if with_record_type { told } else { untold };
        }
        match self.control.take() {
            None if self.broken.is_some() => Received::Error(self.broken.unwrap_or_default()),
            None if self.key_expired => Received::Error(libc::EKEYEXPIRED),
            None => Received::Nothing,
            Some((record_type, payload)) if with_record_type => {
                self.key_expired = self.habits.generation == Generation::Rekeying
                    && record_type == HANDSHAKE
                    && payload.first() == Some(&KEY_UPDATE)
                    && self.rx.as_ref().is_some_and(|side| side.version == Version::Tls13);
                Received::Record(record_type, payload)
            }
            waiting => {
                self.control = waiting;
                Received::Error(libc::EIO)
            }
        }
    }

    /// Opens the record at the front of the wire; false if it is not whole.
    fn open_next(&mut self, wire: &mut VecDeque<u8>) -> Result<bool, i32> {
        let Some(side) = &mut self.rx else { return Err(libc::ENOTCONN) };
        if wire.len() < 5 {
            return Ok(false);
        }
        let bytes = 5 + usize::from(u16::from_be_bytes([wire[3], wire[4]]));
        if bytes > 5 + 16_384 + 256 {
            return Err(libc::EMSGSIZE);
        }
        if wire[1] != 3 || wire[2] != 3 {
            return Err(libc::EINVAL);
        }
        if wire.len() < bytes {
            return Ok(false);
        }
        let record: Vec<u8> = wire.drain(..bytes).collect();
        let (record_type, payload) = side.open(&record).ok_or(libc::EBADMSG)?;
        if record_type == APPLICATION_DATA {
            self.passed_empty |= payload.is_empty();
            self.opened.extend(payload);
        } else {
            self.control = Some((record_type, payload));
        }
        Ok(true)
    }
}

impl Side {
    pub(super) fn new(keys: &TrafficKeys, iv: [u8; 12]) -> Self {
        let algorithm = match keys.aead() {
            Aead::Aes128Gcm => &AES_128_GCM,
            Aead::Aes256Gcm => &AES_256_GCM,
            Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let mut explicit = [0; 8];
        explicit.copy_from_slice(&iv[4..]);
        Self {
            version: keys.version(),
            key: keys.key().to_vec(),
            cipher: LessSafeKey::new(UnboundKey::new(algorithm, keys.key()).expect("the AEAD's key length")),
            has_explicit_nonce: keys.version() == Version::Tls12 && keys.aead() != Aead::ChaCha20Poly1305,
            iv,
            sequence: keys.sequence(),
            next_explicit: u64::from_be_bytes(explicit),
        }
    }

    /// That of the next record.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn go_to(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// One record, in TLS 1.3 with so many zeros behind its type.
    pub(super) fn seal_padded(&mut self, record_type: u8, bytes: &[u8], padding: usize) -> Vec<u8> {
        let mut body = bytes.to_vec();
        let (outer, explicit) = match self.version {
            Version::Tls13 => {
                body.push(record_type);
                body.resize(body.len() + padding, 0);
                (APPLICATION_DATA, Vec::new())
            }
            Version::Tls12 if self.has_explicit_nonce => {
                (record_type, self.next_explicit.to_be_bytes().to_vec())
            }
            Version::Tls12 => (record_type, Vec::new()),
        };
        self.next_explicit = self.next_explicit.wrapping_add(1);
        let length = explicit.len() + body.len() + 16;
        let mut record = vec![outer, 3, 3, (length >> 8) as u8, length as u8];
        let aad = self.aad(record_type, bytes.len(), &record);
        let nonce = self.nonce(&explicit);
        let cipher = &self.cipher;
        cipher.seal_in_place_append_tag(nonce, Aad::from(aad), &mut body).expect("the model seals");
        self.sequence += 1;
        record.extend(explicit);
        record.extend(body);
        record
    }

    pub(super) fn open(&mut self, record: &[u8]) -> Option<(u8, Vec<u8>)> {
        let (header, payload) = record.split_at(5);
        let (explicit, body) = payload.split_at_checked(if self.has_explicit_nonce { 8 } else { 0 })?;
        let aad = self.aad(header[0], body.len().checked_sub(16)?, header);
        let mut body = body.to_vec();
        let nonce = self.nonce(explicit);
        let mut plain = self.cipher.open_in_place(nonce, Aad::from(aad), &mut body).ok()?.to_vec();
        self.sequence += 1;
        if self.version == Version::Tls12 {
            return Some((header[0], plain));
        }
        while plain.last() == Some(&0) {
            plain.pop();
        }
        let record_type = plain.pop()?;
        Some((record_type, plain))
    }

    fn aad(&self, record_type: u8, plain_bytes: usize, header: &[u8]) -> Vec<u8> {
        if self.version == Version::Tls13 {
            return header.to_vec();
        }
        let mut aad = self.sequence.to_be_bytes().to_vec();
        aad.extend([record_type, 3, 3, (plain_bytes >> 8) as u8, plain_bytes as u8]);
        aad
    }

    fn nonce(&self, explicit: &[u8]) -> Nonce {
        Nonce::assume_unique_for_key(self.nonce_bytes(explicit))
    }

    fn nonce_bytes(&self, explicit: &[u8]) -> [u8; 12] {
        let mut nonce = self.iv;
        if self.has_explicit_nonce {
            nonce[4..].copy_from_slice(explicit);
        } else {
            for (byte, part) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
                *byte ^= part;
            }
        }
        nonce
    }
}
