//! `offramp check`: judges a configuration file and what it names, as a start would.

use std::path::Path;
use std::process::ExitCode;

use crate::config::{Listener, Raw, file};
use crate::conn::policy::Legs;
use crate::supervisor::StartError;
use crate::tls::ticket_keys::KeyRing;
use crate::tls::{TlsPolicy, warnings};

use super::output::{print, refuse};
use super::ticket_key;

pub(super) fn check(path: &Path) -> ExitCode {
    let config = match file::read(path).and_then(Raw::check) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    let mut warning = match config.ticket_keys.as_deref().map(|file| (file, KeyRing::read(file))) {
        None => String::new(),
        Some((file, Ok(ring))) => ticket_key::warning(file, &ring, ticket_key::now()),
        // Whoever checks need not be the user that runs the service.
        Some((_, Err(error))) if error.depends_on_the_user() => format!("warning: ticket_keys: {error}\n"),
        Some((_, Err(error))) => {
            return refuse(&StartError::from(error).at(&config.origins));
        }
    };
    let mut all_legs = Vec::new();
    for listener in &config.listeners {
        match listener.load(None, None) {
            Ok(legs) => all_legs.push(legs),
            Err(error) => return refuse(&StartError::from(error).at(&config.origins)),
        }
    }
    for exposed in TlsPolicy::exposed_keys(
        config.listeners.iter().flat_map(Listener::all_identities).collect::<Vec<_>>().iter(),
    ) {
        warning.push_str(&format!("warning: {exposed}\n"));
    }
    let mut identities: Vec<_> = config.listeners.iter().flat_map(Listener::all_identities).collect();
    // Listeners may have the same.
    identities.sort_by(|one, other| (&one.certificate, &one.key).cmp(&(&other.certificate, &other.key)));
    identities.dedup();
    let identities = identities.len();
    let listeners = match config.listeners.len() {
        1 => String::new(),
        count => format!("{count} listeners, "),
    };
    let plural = if identities == 1 { "y" } else { "ies" };
    let good =
        format!("offramp check: {} is good: {listeners}{identities} identit{plural}\n", path.display());
    let found = config
        .collisions()
        .into_iter()
        .chain(warnings(all_legs.iter().flat_map(Legs::policies), ticket_key::now()));
    let found: String = found.map(|line| format!("warning: {line}\n")).collect();
    print(&format!("{good}{found}{warning}"))
}
