//! What the sending side of a leg with TLS is doing.

/// What occupies the sending side of the leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SendState {
    #[default]
    Idle,
    /// Application data is being sent, or a record after which nothing changes.
    Data,
    /// A KeyUpdate that the kernel seals is being sent: our next key follows it.
    KeyUpdate,
    /// Our close_notify is being sent.
    CloseNotify,
    /// The kernel was asked something of this direction.
    Asking,
    /// Our close_notify is sealed, and FIN waits until it is with TCP.
    Flushing,
}
