//! The subcommands that have a file of their own.

pub(crate) mod serve;
pub(crate) mod ticket_key;
pub(crate) mod upgrade;
