//! Kernel TLS: attach the upper-layer protocol, give the keys of a direction, read the live sequence number.
//!
//! Sources: Linux `Documentation/networking/tls.rst`, `include/uapi/linux/tls.h`. The layouts of what the
//! kernel is given are those of the packages `ktls` and `ktls-sys`; which nonce it is given is the caller's
//! duty (`tls::secrets`).

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use ktls::CryptoInfo;
use ktls_sys::bindings as layout;
use offramp_proto::{Aead, Cipher, Direction};
use zeroize::Zeroize;

/// Socket option level of kernel TLS, and the level of its control messages (`SOL_TLS`).
pub const SOL_TLS: i32 = 282;

/// Control message type that sets the content type of the record a `sendmsg` makes (`TLS_SET_RECORD_TYPE`).
pub const RECORD_TYPE_SET: i32 = 1;

/// Control message type that tells the content type of the record a `recvmsg` took (`TLS_GET_RECORD_TYPE`).
pub const RECORD_TYPE_GET: i32 = 2;

/// What the kernel is given for one direction. `iv` is given to it as it is: the caller has applied the nonce
/// rule.
///
/// It has no `Debug`: it holds a key.
pub struct Material<'a> {
    /// Cipher and version.
    pub cipher: Cipher,
    /// 16 or 32 bytes.
    pub key: &'a [u8],
    /// 12 bytes: salt (4) and iv (8) for AES-GCM, iv (12) for ChaCha20-Poly1305.
    pub iv: &'a [u8; 12],
    /// Sequence number of the next record.
    pub sequence: u64,
}

/// Attaches the "tls" upper-layer protocol; must happen before `install`, once.
///
/// # Errors
/// ENOENT: the kernel has no such protocol or the module is not loaded. ENOTCONN: the connection is no longer
/// (or not yet) ESTABLISHED. EEXIST: it is attached already.
pub fn attach(socket: BorrowedFd<'_>) -> io::Result<()> {
    const NAME: &[u8; 3] = b"tls";
    set_option(socket, libc::SOL_TCP, libc::TCP_ULP, NAME)
}

/// Gives the kernel the keys of one direction (a second time: a rekey, which kernels before 6.14 refuse with
/// EBUSY).
///
/// # Errors
/// EINVAL: the kernel does not know the cipher or version, or the key has the wrong length for the cipher.
/// ENOENT: its crypto API lacks the algorithm. EBUSY: keys are in place and cannot be replaced.
pub fn install(socket: BorrowedFd<'_>, direction: Direction, material: &Material<'_>) -> io::Result<()> {
    let mut info = crypto_info(material)?;
    // SAFETY: `as_ptr` points at the variant's own structure inside `info`, which is alive and not changed
    // while `bytes` is; `size` is that structure's size; it is `repr(C, packed)` or made of byte arrays
    // behind two u16, so it has no padding and every byte is initialised.
    let bytes = unsafe { std::slice::from_raw_parts(info.as_ptr().cast::<u8>(), info.size()) };
    let result = set_option(socket, SOL_TLS, option(direction), bytes);
    wipe(&mut info);
    result
}

/// Has the kernel open records of TLS 1.3 where they are wanted, and not first where it can look for padding;
/// one that is padded, or is not application data, it opens a second time (`TLS_RX_EXPECT_NO_PAD`). After the
/// keys of the receive direction.
///
/// # Errors
/// EINVAL: these are not keys of TLS 1.3 for the receive direction. ENOPROTOOPT: a kernel before 6.0.
pub fn expect_no_pad(socket: BorrowedFd<'_>) -> io::Result<()> {
    const TLS_RX_EXPECT_NO_PAD: i32 = 4;
    set_option(socket, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &1_u32.to_ne_bytes())
}

/// The sequence number of the next record of a direction whose keys were installed, as the kernel counts it
/// now.
///
/// # Errors
/// EBUSY or EINVAL: no keys were installed for the direction, or the kernel cannot tell. ENOPROTOOPT: no ULP
/// attached.
pub fn sequence(socket: BorrowedFd<'_>, direction: Direction) -> io::Result<u64> {
    // With room for the head alone the kernel tells version and cipher; for more it wants the exact size.
    let mut head = [0; 4];
    get_option(socket, SOL_TLS, option(direction), &mut head)?;
    let size = match u32::from(u16::from_ne_bytes([head[2], head[3]])) {
        layout::TLS_CIPHER_AES_GCM_128 => size_of::<layout::tls12_crypto_info_aes_gcm_128>(),
        layout::TLS_CIPHER_AES_GCM_256 => size_of::<layout::tls12_crypto_info_aes_gcm_256>(),
        layout::TLS_CIPHER_CHACHA20_POLY1305 => size_of::<layout::tls12_crypto_info_chacha20_poly1305>(),
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    let mut whole = [0; 64];
    let result = get_option(socket, SOL_TLS, option(direction), &mut whole[..size]);
    // rec_seq is the last member of each of the structures.
    let mut rec_seq = [0; 8];
    rec_seq.copy_from_slice(&whole[size - 8..size]);
    whole.zeroize();
    result.map(|()| u64::from_be_bytes(rec_seq))
}

fn option(direction: Direction) -> i32 {
    match direction {
        Direction::Tx => 1,
        Direction::Rx => 2,
    }
}

fn crypto_info(material: &Material<'_>) -> io::Result<CryptoInfo> {
    let (salt, iv) = halves(material.iv);
    let rec_seq = material.sequence.to_be_bytes();
    let version = material.cipher.version.number();
    let head = |cipher: u32| layout::tls_crypto_info {
        version,
        cipher_type: u16::try_from(cipher).expect("the kernel's cipher numbers are below 2^16"),
    };
    Ok(match material.cipher.aead {
        Aead::Aes128Gcm => CryptoInfo::AesGcm128(layout::tls12_crypto_info_aes_gcm_128 {
            info: head(layout::TLS_CIPHER_AES_GCM_128),
            iv,
            key: sized(material.key)?,
            salt,
            rec_seq,
        }),
        Aead::Aes256Gcm => CryptoInfo::AesGcm256(layout::tls12_crypto_info_aes_gcm_256 {
            info: head(layout::TLS_CIPHER_AES_GCM_256),
            iv,
            key: sized(material.key)?,
            salt,
            rec_seq,
        }),
        Aead::ChaCha20Poly1305 => CryptoInfo::Chacha20Poly1305(layout::tls12_crypto_info_chacha20_poly1305 {
            info: head(layout::TLS_CIPHER_CHACHA20_POLY1305),
            iv: *material.iv,
            key: sized(material.key)?,
            salt: layout::__IncompleteArrayField::new(),
            rec_seq,
        }),
    })
}

fn halves(iv: &[u8; 12]) -> ([u8; 4], [u8; 8]) {
    let (mut salt, mut explicit) = ([0; 4], [0; 8]);
    salt.copy_from_slice(&iv[..4]);
    explicit.copy_from_slice(&iv[4..]);
    (salt, explicit)
}

fn sized<const N: usize>(key: &[u8]) -> io::Result<[u8; N]> {
    key.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn wipe(info: &mut CryptoInfo) {
    match info {
        CryptoInfo::AesGcm128(info) => (info.key.zeroize(), info.iv.zeroize(), info.salt.zeroize()),
        CryptoInfo::AesGcm256(info) => (info.key.zeroize(), info.iv.zeroize(), info.salt.zeroize()),
        CryptoInfo::Chacha20Poly1305(info) => (info.key.zeroize(), info.iv.zeroize(), ()),
        // Never made by `crypto_info`.
        CryptoInfo::AesCcm128(_) | CryptoInfo::Sm4Gcm(_) | CryptoInfo::Sm4Ccm(_) => ((), (), ()),
    };
}

fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).expect("an option's value is a few dozen bytes");
    // SAFETY: the descriptor is open for as long as it is borrowed; `value` is readable for `len` bytes for
    // the whole call, and setsockopt keeps no pointer to it.
    let status =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast::<c_void>(), len) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(value.len()).expect("an option's value is a few dozen bytes");
    let room = value.as_mut_ptr().cast::<c_void>();
    // SAFETY: the descriptor is open for as long as it is borrowed; `room` is writable for `len` bytes and
    // `len` is writable for the whole call; getsockopt writes at most `len` bytes and keeps neither pointer.
    let status = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, room, &raw mut len) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use offramp_proto::Version;

    use super::*;

    /// The bytes that `install` would hand to the kernel.
    fn bytes_of(material: &Material<'_>) -> Vec<u8> {
        let info = crypto_info(material).unwrap();
        // SAFETY: as in `install`.
        unsafe { std::slice::from_raw_parts(info.as_ptr().cast::<u8>(), info.size()) }.to_vec()
    }

    #[test]
    fn the_layout_is_the_kernels_for_each_cipher() {
        let iv = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        for cipher in Cipher::all() {
            let key = vec![0xaa; cipher.aead.key_bytes()];
            let bytes = bytes_of(&Material { cipher, key: &key, iv: &iv, sequence: 0x0102_0304_0506_0708 });
            let version = cipher.version.number();
            assert_eq!(bytes[..2], version.to_ne_bytes(), "{cipher:?}");
            assert_eq!(bytes[bytes.len() - 8..], [1, 2, 3, 4, 5, 6, 7, 8], "{cipher:?}: rec_seq is last");
            if cipher.aead == Aead::ChaCha20Poly1305 {
                assert_eq!(bytes[4..16], iv, "{cipher:?}: the whole iv, no salt");
            } else {
                assert_eq!(bytes[4..12], iv[4..], "{cipher:?}: iv is the last eight bytes");
                let salt_at = 12 + cipher.aead.key_bytes();
                assert_eq!(bytes[salt_at..salt_at + 4], iv[..4], "{cipher:?}: salt is the first four");
            }
        }
    }

    #[test]
    fn wiping_leaves_no_key_byte() {
        for cipher in Cipher::all() {
            let key = vec![0xaa; cipher.aead.key_bytes()];
            let mut info =
                crypto_info(&Material { cipher, key: &key, iv: &[0xaa; 12], sequence: 0 }).unwrap();
            wipe(&mut info);
            // SAFETY: as in `install`.
            let bytes = unsafe { std::slice::from_raw_parts(info.as_ptr().cast::<u8>(), info.size()) };
            assert!(!bytes.contains(&0xaa), "{cipher:?}");
        }
    }

    #[test]
    fn key_of_wrong_length_never_reaches_the_kernel() {
        let (ours, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let material = Material {
            cipher: Cipher::new(Version::Tls12, Aead::Aes256Gcm),
            key: &[0; 16],
            iv: &[0; 12],
            sequence: 0,
        };
        let error = install(ours.as_fd(), Direction::Tx, &material).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_socket_without_the_protocol_has_no_sequence() {
        let (ours, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(sequence(ours.as_fd(), Direction::Tx).is_err());
    }
}
