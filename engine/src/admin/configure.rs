//! `/v1/config`: who may ask for it, and a configuration that is sent.

use std::sync::atomic::Ordering;

use super::change::{Change, Configuration};
use super::connections::{Client, TICKS};
use super::http::{self, Answer, Body};
use super::{Shared, file, next};
use crate::config::limits::{ADMIN_CHANGE_DEADLINE, ADMIN_DEADLINE};

const BODY_CHUNK_BYTES: usize = 16 * 1024;

/// Ticks that a change of the configuration may take until who sent it is no longer answered.
const CHANGE_TICKS: u32 = (ADMIN_CHANGE_DEADLINE.as_secs() / ADMIN_DEADLINE.as_secs()) as u32 * TICKS;

/// Reads a configuration and has it put in force by the thread that reads files; others are served meanwhile.
pub(super) async fn configure(
    client: &Client,
    shared: &Shared,
    mut text: Vec<u8>,
    body: Body,
) -> Option<Answer> {
    let configuration = match permitted(shared) {
        Ok(configuration) => configuration,
        Err(answer) => return Some(answer),
    };
    if body.awaits_continue && text.len() < body.bytes {
        client.stream.write_all(http::CONTINUE.to_vec()).await.0.ok()?;
    }
    while text.len() < body.bytes {
        match client.stream.read(Vec::with_capacity(BODY_CHUNK_BYTES)).await {
            (Ok(1..), chunk) => text.extend_from_slice(&chunk),
            (Ok(_) | Err(_), _) => return None,
        }
    }
    text.truncate(body.bytes);
    client.has_asked.set(true);
    client.ticks_left.set(CHANGE_TICKS);
    let Ok(text) = String::from_utf8(text) else { return Some(Answer::refused("the body is not UTF-8\n")) };
    if shared.service.draining.load(Ordering::Relaxed) {
        return Some(Answer::unavailable("draining: no configuration is put in force any more\n"));
    }
    let (change, waiting) = Change::new(text).ok()?;
    let done = file(waiting.event().ok()?);
    if !(configuration.submit)(change) {
        return Some(Answer::unavailable("others are changing the configuration: try again\n"));
    }
    next(&done).await.ok()?;
    Some(match waiting.take() {
        Some(Ok(said)) => Answer::ok(&format!("{said}\n")),
        Some(Err(why)) => Answer::refused(&format!("{why}\n")),
        None => Answer::unavailable("the configuration was not put in force: the process ends\n"),
    })
}

/// Whoever may change everything that this process can do with its rights must at least be on its host.
pub(super) fn permitted(shared: &Shared) -> Result<&Configuration, Answer> {
    match &shared.service.configuration {
        Some(_) if !shared.is_local => Err(Answer::not_local()),
        Some(configuration) => Ok(configuration),
        None => Err(Answer::nowhere()),
    }
}
