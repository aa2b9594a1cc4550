//! Attackers of a TLS terminator, and the victim that shows what they do.
//!
//! An attacker has canned bytes and no cryptography, so one thread costs the terminator far more than itself.
//! [`flood`] makes handshakes and ends each when the server's flight has come, [`stall`] opens connections
//! that go no further, [`victim`] sends small messages on an established connection and notes how long each
//! takes, [`resident`] reads what a process has in memory. All targets are loopback addresses.
#![expect(clippy::disallowed_methods, reason = "an attacker and a victim have clocks of their own")]

pub mod flood;
pub mod hello;
pub mod resident;
pub mod stall;
pub mod victim;

/// Lowers the calling thread's priority by ten steps, so that an attacker on the victim's CPU has a ninth of
/// it beside the victim, and does not delay the victim by itself.
///
/// # Errors
/// The kernel refused; a thread may always lower its own priority.
pub fn yield_to_others() -> std::io::Result<()> {
    const STEPS: i32 = 10;
    const LOWEST: i32 = 19;
    // On Linux the priority is a thread's, and a thread's number is taken where a process's is asked for
    // (setpriority(2), "C library/kernel differences").
    let thread = Some(rustix::thread::gettid());
    let now = rustix::process::getpriority_process(thread)?;
    Ok(rustix::process::setpriority_process(thread, (now + STEPS).min(LOWEST))?)
}
