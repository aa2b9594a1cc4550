//! Session tickets (RFC 5077, RFC 8446 §4.6.1) without a session on the server: one key ring for all workers
//! and all listeners, and for all hosts that share its file (A3c).
//!
//! A ticket is sealed as RFC 5077 §4 recommends: key name (16 bytes), iv (16), AES-128-CBC ciphertext,
//! HMAC-SHA-256 (32) over all that goes before. CBC with a random iv has no counter to share and, unlike GCM
//! with a random nonce, is not spent at 2^32 tickets under one key. The key ring is immutable and swapped
//! whole: sealing and opening take no lock.
//!
//! Inside, before the session that rustls wraps, stand the class of authentication that the session was made
//! under and the time of its first full handshake. The class says who vouches for clients and by what names
//! clients know the listener; a ticket of another class does not resume; neither does a
//! session that is older than it may be, however often it was wrapped anew. What is wrong with a ticket is
//! told to nobody: the handshake is a full one then, and offers a fresh ticket (A4b).
//!
//! The session is bound to the peer's certificate too, without a hash of it beside the class: rustls writes
//! the client's whole chain into the session, which the ticket's tag covers like all the rest, and a session
//! that resumes shows that chain as its peer's, to be judged like one that was just sent (E1, E2).

mod handover;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use rustls::crypto::SecureRandom;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::ticket_file::KeyFileError;
use super::ticket_keys::{KeyRing, KeyState, NAME_BYTES, NoRandomness, TicketKey, UnixSeconds};

/// Most bytes of a ticket (a TLS 1.2 session or TLS 1.3 PSK is a few hundred; with a client's certificate
/// some KiB).
const MAX_TICKET_BYTES: usize = 16 * 1024;
/// How far the clock of the host that sealed a ticket may be ahead of ours.
const SKEW_SECONDS: u64 = 300;

const IV_BYTES: usize = 16;
const TAG_BYTES: usize = 32;
const BLOCK_BYTES: usize = 16;

/// Of what stands before the session.
const FORM: u8 = 1;
const CLASS_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + CLASS_BYTES + 8;

/// Under which authentication a session was made, of the client and of us: sessions do not cross from one to
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TicketScope(pub(super) [u8; CLASS_BYTES]);

impl TicketScope {
    /// Of a listener that clients know by these names. One that is known by others would not hold in a full
    /// handshake; in a resumed one it shows no certificate that could tell. The names and not the keys, for a
    /// renewed certificate to keep its sessions.
    pub(super) fn known_by(self, names: &BTreeSet<Vec<u8>>) -> Self {
        let mut made_of = self.0.to_vec();
        for name in names {
            made_of.extend_from_slice(&(name.len() as u64).to_be_bytes());
            made_of.extend_from_slice(name);
        }
        let mut class = [0; CLASS_BYTES];
        class.copy_from_slice(&digest(&SHA256, &made_of).as_ref()[..CLASS_BYTES]);
        Self(class)
    }
}

/// When the session of a handshake in progress had its first full handshake; `None` if that is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SessionBirth(Option<UnixSeconds>);

impl SessionBirth {
    /// Of the handshake that this call into rustls is for.
    pub(super) fn of_this_call(now: UnixSeconds) -> UnixSeconds {
        ORIGIN.get().0.unwrap_or(now)
    }

    /// The handshake that this call is for resumes a session of this origin, if the peer agrees.
    pub(super) fn found(origin: UnixSeconds) {
        ORIGIN.set(Self(Some(origin)));
    }
}

thread_local! {
    /// Of the handshake that this thread is in, for the time of one call into rustls, which knows nothing of
    /// it and calls us back in between.
    static ORIGIN: Cell<SessionBirth> = const { Cell::new(SessionBirth(None)) };
}

/// Calls into rustls for a handshake whose session has this origin. Opening its ticket, or in the client's
/// role offering it, finds the origin; sealing or keeping the next one, in this call or a later one, carries
/// it on.
pub(super) fn with_origin<T>(origin: &mut SessionBirth, call: impl FnOnce() -> T) -> T {
    ORIGIN.set(*origin);
    let result = call();
    *origin = ORIGIN.take();
    result
}

/// The keys in force, the clock that they go by, and how long a session may live.
pub struct Tickets {
    ring: ArcSwap<KeyRing>,
    file: Mutex<Option<PathBuf>>,
    /// The control plane's clock: whole seconds are enough, and reading it takes no system call.
    now: AtomicU64,
    session_lifetime_seconds: AtomicU64,
    /// Two that read the file at once must not leave the older of what they read.
    rereading: Mutex<()>,
}

/// Keys that were read or made, to replace those in force.
#[derive(Debug)]
pub struct NextKeys {
    ring: KeyRing,
    file: Option<PathBuf>,
}

impl NextKeys {
    /// The keys of a file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn read(file: &Path) -> Result<Self, KeyFileError> {
        Ok(Self { ring: KeyRing::read(file)?, file: Some(file.to_owned()) })
    }

    /// Keys of this process alone.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate(now: UnixSeconds) -> Result<Self, NoRandomness> {
        Ok(Self { ring: KeyRing::generate(now)?, file: None })
    }
}

/// RFC 8446 §4.6.1 allows no more for a ticket.
const WEEK_SECONDS: u64 = 7 * 24 * 3600;

impl Tickets {
    /// Keys of this process alone, which [`Tickets::tick`] changes.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate(session_lifetime_seconds: u64, now: UnixSeconds) -> Result<Self, NoRandomness> {
        Ok(Self::new(NextKeys::generate(now)?, session_lifetime_seconds, now))
    }

    /// The keys of a file, which [`Tickets::reread`] reads again.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn from_file(
        path: &Path,
        session_lifetime_seconds: u64,
        now: UnixSeconds,
    ) -> Result<Self, KeyFileError> {
        Ok(Self::new(NextKeys::read(path)?, session_lifetime_seconds, now))
    }

    fn new(NextKeys { ring, file }: NextKeys, session_lifetime_seconds: u64, now: UnixSeconds) -> Self {
        Self {
            ring: ArcSwap::from_pointee(ring),
            file: Mutex::new(file),
            now: now.into(),
            session_lifetime_seconds: session_lifetime_seconds.into(),
            rereading: Mutex::new(()),
        }
    }

    /// Puts other keys in force: what was sealed with those before does not open any more, unless they are
    /// among these too.
    pub fn replace(&self, NextKeys { ring, file }: NextKeys) {
        let _alone = self.rereading.lock().unwrap_or_else(PoisonError::into_inner);
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        self.ring.store(ring.into());
    }

    /// How long a session may be resumed from now on, those included that were made before.
    pub fn set_session_lifetime(&self, seconds: u64) {
        self.session_lifetime_seconds.store(seconds, Ordering::Relaxed);
    }

    /// The file that the keys come from.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn session_lifetime(&self) -> u64 {
        self.session_lifetime_seconds.load(Ordering::Relaxed)
    }

    /// Tells the time, as often as every second: expired keys are wiped, and where there is no file a fresh
    /// key takes over from one that has sealed for long enough.
    ///
    /// # Errors
    /// [`NoRandomness`]; the keys in force stay.
    pub fn tick(&self, now: UnixSeconds) -> Result<(), NoRandomness> {
        self.now.store(now, Ordering::Relaxed);
        let is_due = self.file().is_none() && self.ring.load().is_due(now);
        let fresh = is_due.then(|| TicketKey::fresh(now)).transpose()?;
        self.change(|ring| match &fresh {
            // Keys of a process alone are never so many that one would be refused.
            Some(key) => ring.with(key.clone(), now).ok(),
            None => ring.without_expired(now),
        });
        Ok(())
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// [`KeyFileError`]; the keys in force stay.
    pub fn reread(&self) -> Result<(), KeyFileError> {
        let _alone = self.rereading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = self.file() {
            self.ring.store(KeyRing::read(&file)?.into());
        }
        Ok(())
    }

    /// Puts in force what `next` makes of the keys in force. If another thread has put in others meanwhile,
    /// `next` is asked again, of those: they are not lost.
    fn change(&self, mut next: impl FnMut(&KeyRing) -> Option<KeyRing>) {
        let mut seen = self.ring.load_full();
        while let Some(ring) = next(&seen) {
            let before = Guard::into_inner(self.ring.compare_and_swap(&seen, Arc::new(ring)));
            if Arc::ptr_eq(&before, &seen) {
                return;
            }
            seen = before;
        }
    }

    /// Every key, what it is for now, and when.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyState> {
        self.ring.load().states(self.now())
    }

    /// The next time in which no key seals until another does, if there is one.
    #[must_use]
    pub fn gap(&self) -> Option<(String, String)> {
        self.ring.load().gap(self.now())
    }

    /// The time by the control plane's clock.
    pub fn now(&self) -> UnixSeconds {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether a session whose first full handshake was then may not be resumed any more.
    pub(super) fn is_too_old(&self, origin: UnixSeconds) -> bool {
        let now = self.now();
        origin > now + SKEW_SECONDS || now >= origin.saturating_add(self.session_lifetime())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("file", &self.file()).field("ring", &*self.ring.load()).finish()
    }
}

/// The tickets of a listener: those of the process, bound to its class of authentication.
#[derive(Debug)]
pub(super) struct ListenerTickets {
    pub(super) tickets: Arc<Tickets>,
    pub(super) class: TicketScope,
    /// That of the handshakes.
    pub(super) random: &'static dyn SecureRandom,
}

impl ProducesTickets for ListenerTickets {
    fn enabled(&self) -> bool {
        true
    }

    /// Of the ticket that was just sealed, in the same call into rustls: until its session is too old or its
    /// key expires, whichever is sooner, for longer it does not open (RFC 5077 §5.6, RFC 8446 §4.6.1).
    fn lifetime(&self) -> u32 {
        let (tickets, now) = (&self.tickets, self.tickets.now());
        let lifetime = tickets.session_lifetime();
        let origin = SessionBirth::of_this_call(now);
        let session = origin.saturating_add(lifetime).saturating_sub(now);
        let key = tickets.ring.load().sealing(now).map_or(0, |key| key.until.saturating_sub(now));
        // To a client of TLS 1.2 zero says nothing, and not that it is over.
        let seconds = session.min(key).min(lifetime).clamp(1, WEEK_SECONDS);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let now = self.tickets.now();
        let origin = SessionBirth::of_this_call(now);
        let ring = self.tickets.ring.load();
        let head = [&[FORM][..], &self.class.0, &origin.to_be_bytes()];
        ring.sealing(now)?.seal(self.random, &head, session)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let name = ticket.first_chunk::<NAME_BYTES>()?;
        let ring = self.tickets.ring.load();
        let plain = ring.opening(name, self.tickets.now())?.open(ticket)?;
        let (head, session) = plain.split_at_checked(HEAD_BYTES)?;
        let (form, rest) = head.split_first()?;
        let (class, origin) = rest.split_first_chunk::<CLASS_BYTES>()?;
        let origin = UnixSeconds::from_be_bytes(origin.try_into().ok()?);
        if *form != FORM || TicketScope(*class) != self.class || self.tickets.is_too_old(origin) {
            return None;
        }
        SessionBirth::found(origin);
        // Of this copy rustls disposes; ours is wiped.
        Some(session.to_vec())
    }
}

impl TicketKey {
    fn seal(&self, random: &dyn SecureRandom, head: &[&[u8]], session: &[u8]) -> Option<Vec<u8>> {
        let plain_bytes = HEAD_BYTES + session.len();
        let ticket_bytes = NAME_BYTES + IV_BYTES + (plain_bytes / BLOCK_BYTES + 1) * BLOCK_BYTES + TAG_BYTES;
        if ticket_bytes > MAX_TICKET_BYTES {
            return None;
        }
        let mut iv = [0; IV_BYTES];
        random.fill(&mut iv).ok()?;
        let mut body = Zeroizing::new(Vec::with_capacity(ticket_bytes));
        head.iter().for_each(|part| body.extend_from_slice(part));
        body.extend_from_slice(session);
        let key = UnboundCipherKey::new(&AES_128, &self.encryption[..]).ok()?;
        let context = aws_lc_rs::cipher::EncryptionContext::Iv128(FixedLength::from(iv));
        PaddedBlockEncryptingKey::cbc_pkcs7(key).ok()?.less_safe_encrypt(&mut *body, context).ok()?;
        let mut ticket = Vec::with_capacity(ticket_bytes);
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(&iv);
        ticket.append(&mut body);
        let tag = hmac::sign(&self.authentication_key(), &ticket);
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    /// The tag is verified, in constant time, before anything is decrypted.
    fn open(&self, ticket: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if ticket.len() > MAX_TICKET_BYTES {
            return None;
        }
        let (covered, tag) = ticket.split_at_checked(ticket.len().checked_sub(TAG_BYTES)?)?;
        hmac::verify(&self.authentication_key(), covered, tag).ok()?;
        let (iv, ciphertext) = covered.get(NAME_BYTES..)?.split_first_chunk::<IV_BYTES>()?;
        let key = UnboundCipherKey::new(&AES_128, &self.encryption[..]).ok()?;
        let mut body = Zeroizing::new(ciphertext.to_vec());
        let context = DecryptionContext::Iv128(FixedLength::from(*iv));
        let plain_bytes =
            PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?.decrypt(&mut body, context).ok()?.len();
        // In place: the plaintext stands in front.
        body.truncate(plain_bytes);
        Some(body)
    }

    fn authentication_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.authentication[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::ticket_keys::{OPENS_SECONDS, SEALS_SECONDS};

    const NOW: UnixSeconds = 1_790_000_000;
    const HOUR: u64 = 3600;

    fn of_process() -> Arc<Tickets> {
        Arc::new(Tickets::generate(24 * HOUR, NOW).expect("randomness"))
    }

    fn listener(tickets: &Arc<Tickets>, class: u8) -> ListenerTickets {
        let class = TicketScope([class; CLASS_BYTES]);
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        ListenerTickets { tickets: Arc::clone(tickets), class, random }
    }

    #[test]
    fn a_ticket_opens_until_its_key_expires() {
        let tickets = of_process();
        let ours = listener(&tickets, 0);
        let last = NOW + SEALS_SECONDS - 1;
        tickets.tick(last).expect("randomness");
        let ticket = with_origin(&mut SessionBirth::default(), || ours.encrypt(b"a session")).expect("seals");
        let open = || with_origin(&mut SessionBirth::default(), || ours.decrypt(&ticket));
        for now in [last, last + 1, NOW + SEALS_SECONDS + OPENS_SECONDS - 1] {
            tickets.tick(now).expect("randomness");
            assert_eq!(open().as_deref(), Some(&b"a session"[..]), "at {}", now - NOW);
        }
        tickets.tick(NOW + SEALS_SECONDS + OPENS_SECONDS).expect("randomness");
        assert_eq!(open(), None);
    }

    #[test]
    fn session_age_counts_from_the_first_full_handshake() {
        let tickets = Arc::new(Tickets::generate(10 * HOUR, NOW).expect("randomness"));
        let ours = listener(&tickets, 0);
        let mut ticket = with_origin(&mut SessionBirth::default(), || ours.encrypt(b"s")).expect("seals");
        for hour in 1..10 {
            tickets.tick(NOW + hour * HOUR).expect("randomness");
            // Resumed and wrapped anew, in one call as in TLS 1.2 or in two as in TLS 1.3.
            let mut origin = SessionBirth::default();
            assert!(with_origin(&mut origin, || ours.decrypt(&ticket)).is_some(), "hour {hour}");
            assert_eq!(origin, SessionBirth(Some(NOW)));
            ticket = with_origin(&mut origin, || ours.encrypt(b"s")).expect("seals");
        }
        tickets.tick(NOW + 10 * HOUR).expect("randomness");
        assert_eq!(with_origin(&mut SessionBirth::default(), || ours.decrypt(&ticket)), None);
    }

    #[test]
    fn future_ticket_beyond_clock_skew_does_not_resume() {
        let tickets = of_process();
        let ours = listener(&tickets, 0);
        let seal =
            |origin| with_origin(&mut SessionBirth(Some(origin)), || ours.encrypt(b"s")).expect("seals");
        let opens =
            |ticket: &[u8]| with_origin(&mut SessionBirth::default(), || ours.decrypt(ticket)).is_some();
        assert!(opens(&seal(NOW + SKEW_SECONDS)));
        assert!(!opens(&seal(NOW + SKEW_SECONDS + 1)));
    }

    #[test]
    fn a_ticket_does_not_cross_into_another_class() {
        let tickets = of_process();
        let ticket = listener(&tickets, 1).encrypt(b"s").expect("seals");
        assert!(listener(&tickets, 1).decrypt(&ticket).is_some());
        assert_eq!(listener(&tickets, 2).decrypt(&ticket), None);
    }

    #[test]
    fn a_foreign_ticket_opens_as_little_as_a_damaged_one() {
        let (ours, theirs) = (listener(&of_process(), 0), listener(&of_process(), 0));
        assert_eq!(ours.decrypt(&theirs.encrypt(&[7; 300]).expect("seals")), None);
        let own = ours.encrypt(&[7; 300]).expect("seals");
        for bit in 0..own.len() * 8 {
            let mut damaged = own.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ours.decrypt(&damaged), None, "bit {bit}");
        }
        for len in 0..own.len() {
            assert_eq!(ours.decrypt(&own[..len]), None, "cut to {len}");
        }
    }

    #[test]
    fn a_ticket_says_for_how_long_it_opens() {
        let tickets = Arc::new(Tickets::generate(10 * HOUR, NOW).expect("randomness"));
        let ours = listener(&tickets, 0);
        let says = |origin| with_origin(&mut SessionBirth(origin), || u64::from(ours.lifetime()));
        assert_eq!(says(None), 10 * HOUR);
        assert_eq!(says(Some(NOW - 7 * HOUR)), 3 * HOUR, "its session is some hours old");
        assert_eq!(says(Some(NOW + 9)), 10 * HOUR, "clocks differ");
        assert_eq!(says(Some(NOW - 11 * HOUR)), 1, "zero would say that nothing is known");
        let short = KeyRing { keys: vec![TicketKey::generate(NOW, NOW + HOUR).expect("randomness")] };
        tickets.ring.store(short.into());
        assert_eq!(says(None), HOUR, "its key dies sooner");
    }

    #[test]
    fn keys_that_were_read_meanwhile_are_not_lost() {
        let tickets = Tickets::generate(10 * HOUR, NOW).expect("randomness");
        let read = Arc::new(KeyRing::generate(NOW).expect("randomness"));
        let mut asked = 0;
        tickets.change(|ring| {
            asked += 1;
            if asked == 1 {
                tickets.ring.store(Arc::clone(&read));
            }
            // What has expired is left out; of what was read, nothing has.
            (asked == 1).then(|| ring.clone())
        });
        assert!(asked == 2 && Arc::ptr_eq(&tickets.ring.load_full(), &read));
    }

    #[test]
    fn sizes_are_bounded_both_ways() {
        let ours = listener(&of_process(), 0);
        assert_eq!(ours.encrypt(&vec![0; MAX_TICKET_BYTES]), None);
        assert_eq!(ours.decrypt(&vec![0; MAX_TICKET_BYTES + 1]), None);
        assert!(ours.encrypt(&[]).is_some());
    }
}
