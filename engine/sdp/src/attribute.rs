//! Attributes with a value of their own grammar.

use std::fmt;

use crate::error::Problem;

/// a=setup: who connects (RFC 4145 §4), and with TLS who is the client (RFC 8122 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Whoever says so connects.
    Active,
    /// Whoever says so accepts.
    Passive,
    /// Either; the answer decides.
    Actpass,
    /// No connection for now.
    Holdconn,
}

impl Setup {
    pub(crate) const NAME: &'static str = "setup";

    /// As an attribute writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::Actpass => "actpass",
            Self::Holdconn => "holdconn",
        }
    }

    pub(crate) fn read(value: &str) -> Result<Self, Problem> {
        let all = [Self::Active, Self::Passive, Self::Actpass, Self::Holdconn];
        let found = all.into_iter().find(|setup| setup.name().eq_ignore_ascii_case(value));
        found.ok_or_else(|| Problem::value(Self::NAME, value, "active, passive, actpass or holdconn"))
    }
}

/// a=connection: whether a new TCP connection is wanted (RFC 4145 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionUse {
    /// A new connection.
    New,
    /// The existing connection.
    Existing,
}

impl ConnectionUse {
    pub(crate) const NAME: &'static str = "connection";

    /// As an attribute writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Existing => "existing",
        }
    }

    pub(crate) fn read(value: &str) -> Result<Self, Problem> {
        let found = [Self::New, Self::Existing].into_iter().find(|it| it.name().eq_ignore_ascii_case(value));
        found.ok_or_else(|| Problem::value(Self::NAME, value, "new or existing"))
    }
}

/// a=tls-id: names a TLS association (RFC 8842 §4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsId(String);

impl TlsId {
    pub(crate) const NAME: &'static str = "tls-id";

    /// Reads a value.
    ///
    /// # Errors
    /// It has less than 20 or more than 255 characters, or others than letters, digits, `+`, `/`, `-`, `_`.
    pub fn read(value: &str) -> Result<Self, Problem> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte);
        if (20..=255).contains(&value.len()) && value.bytes().all(is_allowed) {
            return Ok(Self(value.to_owned()));
        }
        let allowed = "20 to 255 letters, digits, +, /, - and _";
        Err(Problem::value(Self::NAME, value, allowed))
    }
}

impl fmt::Display for TlsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// a=3ge2ae: security between phone and access edge (TS 24.229 clause 7.5.2). Other values are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum E2ae {
    /// The phone asks for it.
    Requested,
    /// The gateway applies it.
    Applied,
}

impl E2ae {
    pub(crate) const NAME: &'static str = "3ge2ae";

    /// As an attribute writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Applied => "applied",
        }
    }

    pub(crate) fn read(value: &str) -> Option<Self> {
        [Self::Requested, Self::Applied].into_iter().find(|e2ae| e2ae.name().eq_ignore_ascii_case(value))
    }
}
