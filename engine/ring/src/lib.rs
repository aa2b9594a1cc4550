//! The kernel: the only `unsafe` of the project, safe functions out.
#![allow(unsafe_code)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod account;
mod address;
pub mod affinity;
pub mod attempt;
pub mod clock;
pub mod errno;
pub mod heap;
pub mod ktls;
pub mod landlock;
mod message;
pub mod operations;
pub mod passed;
pub mod poll;
mod pool;
pub mod probe;
pub mod process;
pub mod ring;
pub mod seccomp;
pub mod socket;
pub mod tcp;
pub mod unix;
