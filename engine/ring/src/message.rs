//! A message of one buffer with room for one control message: how record types go to kernel TLS and come
//! back.
//!
//! `Documentation/networking/tls.rst`: a record that is not application data is sent with a control message
//! of level SOL_TLS, type TLS_SET_RECORD_TYPE, one byte; it is received with TLS_GET_RECORD_TYPE.

use offramp_proto::buf::Buf;

const SOL_TLS: libc::c_int = 282;
const TLS_SET_RECORD_TYPE: libc::c_int = 1;
const TLS_GET_RECORD_TYPE: libc::c_int = 2;

/// One control message with one byte of payload, as cmsg(3) lays it out: header, payload, padding to a word.
#[repr(C)]
struct RecordType {
    header: libc::cmsghdr,
    payload: [u8; size_of::<usize>()],
}

impl RecordType {
    const BYTES_USED: usize = size_of::<libc::cmsghdr>() + 1;

    fn to_set(record_type: u8) -> Self {
        let mut control = Self::vacant();
        control.header.cmsg_len = Self::BYTES_USED;
        control.header.cmsg_level = SOL_TLS;
        control.header.cmsg_type = TLS_SET_RECORD_TYPE;
        control.payload[0] = record_type;
        control
    }

    fn vacant() -> Self {
        Self {
            header: libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 },
            payload: [0; size_of::<usize>()],
        }
    }
}

/// A msghdr with all that it points to, in one allocation that the kernel may use until the operation is
/// complete.
pub(super) struct Message {
    header: libc::msghdr,
    vector: libc::iovec,
    control: RecordType,
    buf: Buf,
}

impl Message {
    /// The bytes in `buf`'s window as one record of `record_type`.
    pub(super) fn to_send(buf: Buf, record_type: u8) -> Box<Self> {
        let mut message = Self::boxed(buf, RecordType::to_set(record_type));
        message.header.msg_controllen = RecordType::BYTES_USED;
        let window = message.buf.filled_mut();
        message.vector = libc::iovec { iov_base: window.as_mut_ptr().cast(), iov_len: window.len() };
        message
    }

    /// Room behind `buf`'s window for one record's payload and its type.
    pub(super) fn to_receive(buf: Buf) -> Box<Self> {
        let mut message = Self::boxed(buf, RecordType::vacant());
        message.header.msg_controllen = size_of::<RecordType>();
        let room = message.buf.spare_mut();
        message.vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        message
    }

    /// What the operation is given. Valid as long as the box is not dropped.
    pub(super) fn header(&mut self) -> *mut libc::msghdr {
        self.header.msg_iov = &raw mut self.vector;
        self.header.msg_control = (&raw mut self.control).cast();
        &raw mut self.header
    }

    /// The type of the record that was received, from the control message; none without one: the kernel puts
    /// one to every record, and none to the end of file.
    pub(super) fn record_type(&self) -> Option<u8> {
        let header = &self.control.header;
        let is_ours = self.header.msg_controllen >= RecordType::BYTES_USED
            && header.cmsg_level == SOL_TLS
            && header.cmsg_type == TLS_GET_RECORD_TYPE;
        is_ours.then_some(self.control.payload[0])
    }

    /// The buffer back.
    pub(super) fn into_buf(self) -> Buf {
        self.buf
    }

    fn boxed(buf: Buf, control: RecordType) -> Box<Self> {
        // SAFETY: a msghdr is plain integers and pointers; all zeros is a valid one (no name, no vector, no
        // control).
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        let mut message = Box::new(Self {
            header,
            vector: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            control,
            buf,
        });
        message.header.msg_iovlen = 1;
        message
    }
}
