//! `/v1/config` and `/v1/upgrade`: a configuration that is shown or sent, and a process that is to take
//! over. Another thread does what is asked for.

use std::sync::atomic::Ordering;

use super::answer::Answer;
use super::connections::{Client, TICKS};
use super::http::{self, Body};
use super::request::{ConfigRequest, ConfigTask, Refusal};
use super::{Shared, file, next};
use crate::config::limits::{ADMIN_CHANGE_DEADLINE, ADMIN_DEADLINE, UPGRADE_DEADLINE};

const BODY_CHUNK_BYTES: usize = 16 * 1024;

/// Ticks that a request may take until who has asked is no longer answered.
pub(super) const REQUEST_TICKS: u32 =
    (ADMIN_CHANGE_DEADLINE.as_secs() / ADMIN_DEADLINE.as_secs()) as u32 * TICKS;

/// The same of who has asked for an upgrade, and of what is done around it.
const UPGRADE_TICKS: u32 =
    REQUEST_TICKS + (UPGRADE_DEADLINE.as_secs() / ADMIN_DEADLINE.as_secs()) as u32 * TICKS;

/// Reads a configuration and has it put in force; none if the client is gone.
pub(super) async fn change(
    client: &Client,
    shared: &Shared,
    mut text: Vec<u8>,
    body: Body,
) -> Option<Answer> {
    if let Some(refusal) = refused(shared) {
        return Some(refusal);
    }
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
    let Ok(text) = String::from_utf8(text) else { return Some(Answer::refused("the body is not UTF-8\n")) };
    if shared.service.draining.load(Ordering::Relaxed) {
        return Some(Answer::unavailable("draining: no configuration is put in force any more\n"));
    }
    ask(client, shared, ConfigTask::Change(text)).await
}

/// The configuration in force; none if the client is gone.
pub(super) async fn show(client: &Client, shared: &Shared) -> Option<Answer> {
    match refused(shared) {
        Some(refusal) => Some(refusal),
        None => ask(client, shared, ConfigTask::Show).await,
    }
}

/// Has another process take over, and waits until it does; none if the client is gone.
pub(super) async fn upgrade(client: &Client, shared: &Shared) -> Option<Answer> {
    match refused(shared) {
        Some(refusal) => Some(refusal),
        None => ask(client, shared, ConfigTask::Upgrade).await,
    }
}

async fn ask(client: &Client, shared: &Shared, task: ConfigTask) -> Option<Answer> {
    client.has_asked.set(true);
    client.ticks_left.set(if matches!(task, ConfigTask::Upgrade) { UPGRADE_TICKS } else { REQUEST_TICKS });
    let is_change = !matches!(task, ConfigTask::Show);
    let (request, waiting) = ConfigRequest::new(task).ok()?;
    let done = file(waiting.event().ok()?);
    if !shared.service.submit.as_ref().is_some_and(|submit| (submit.0)(request)) {
        return Some(Answer::unavailable("others are asking for a change: try again\n"));
    }
    next(&done).await.ok()?;
    Some(match waiting.take() {
        Some(Ok(said)) if is_change => Answer::ok(&format!("{said}\n")),
        Some(Ok(text)) => Answer::ok(&text),
        Some(Err(Refusal::Wrong(why))) => Answer::refused(&format!("{why}\n")),
        Some(Err(Refusal::FlagsAlone)) => Answer::flags_alone(),
        None => Answer::unavailable("nothing was done: the process ends\n"),
    })
}

/// An engine that is embedded has no file of its own.
fn refused(shared: &Shared) -> Option<Answer> {
    shared.service.submit.is_none().then(Answer::nowhere)
}
