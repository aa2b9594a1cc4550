//! An answer of HTTP/1.1.

use crate::config::limits::ADMIN_BODY_BYTES_MAX;
use crate::worker::ConnectionName;

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: &'static str,
    /// RFC 9110 §15.5.6: a 405 names the methods there are.
    allow: &'static str,
    kind: &'static str,
    /// What a browser may do with it.
    policy: &'static str,
    body: String,
}

impl Answer {
    pub(super) fn new(status: &'static str, body: &str) -> Self {
        let (allow, kind) = ("", "text/plain; charset=utf-8");
        Self { status, allow, kind, policy: "default-src 'none'", body: body.to_owned() }
    }

    pub(super) fn ok(body: &str) -> Self {
        Self::new("200 OK", body)
    }

    pub(super) fn unavailable(body: &str) -> Self {
        Self::new("503 Service Unavailable", body)
    }

    pub(super) fn metrics(body: String) -> Self {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        Self { kind, body, ..Self::ok("") }
    }

    pub(super) fn json(body: String) -> Self {
        Self { kind: "application/json", body, ..Self::ok("") }
    }

    /// A file of the status page.
    pub(super) fn file(kind: &'static str, policy: &'static str, body: &str) -> Self {
        Self { kind, policy, ..Self::ok(body) }
    }

    pub(super) fn bad_request() -> Self {
        Self::new("400 Bad Request", "bad request\n")
    }

    pub(super) fn misdirected() -> Self {
        Self::new(
            "421 Misdirected Request",
            "Host is neither an IP address nor localhost: ask by the address, or set the header Host to it\n",
        )
    }

    pub(super) fn foreign() -> Self {
        Self::new("403 Forbidden", "nothing is changed for a web page\n")
    }

    pub(super) fn wrong_method(allow: &'static str) -> Self {
        Self { allow, ..Self::new("405 Method Not Allowed", "another method is wanted: see Allow\n") }
    }

    pub(super) fn nowhere() -> Self {
        let there_are = "there are /, /metrics, /healthz, /v1/state, /v1/config, /v1/upgrade, \
                         /v1/connections, /offload, /offload/on, /offload/off\n";
        Self::new("404 Not Found", there_are)
    }

    pub(super) fn no_connection(name: ConnectionName) -> Self {
        Self::new("404 Not Found", &format!("there is no connection {name}, or not any more\n"))
    }

    pub(super) fn no_length() -> Self {
        Self::new(
            "411 Length Required",
            "the configuration must come with its Content-Length, not chunked; try: curl -T FILE\n",
        )
    }

    pub(super) fn too_long() -> Self {
        let body = format!("a configuration has at most {ADMIN_BODY_BYTES_MAX} bytes\n");
        Self::new("413 Content Too Large", &body)
    }

    pub(super) fn refused(body: &str) -> Self {
        Self::new("422 Unprocessable Content", body)
    }

    /// Where a client may only read.
    pub(super) fn read_only() -> Self {
        Self::new(
            "403 Forbidden",
            "admin is read-only; this is for admin_socket; try: admin_socket = \"/run/offramp/admin.sock\" \
             and curl --unix-socket /run/offramp/admin.sock http://localhost/...\n",
        )
    }

    /// A stranger may only read too.
    pub(super) fn stranger() -> Self {
        Self::new(
            "403 Forbidden",
            "this is for processes of root and of the user that Offramp runs as, and for no client of a \
             listener; try: sudo\n",
        )
    }

    pub(super) fn flags_alone() -> Self {
        Self::new("404 Not Found", "there is no configuration file: the flags of the command line hold\n")
    }

    /// The answer, or its head alone.
    pub(super) fn into_bytes(self, is_head: bool) -> Vec<u8> {
        let Self { status, allow, kind, policy, body } = self;
        let allow = if allow.is_empty() { String::new() } else { format!("Allow: {allow}\r\n") };
        let length = body.len();
        let body = if is_head { "" } else { &body };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}\
             Content-Security-Policy: {policy}\r\nX-Content-Type-Options: nosniff\r\n\
             Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}
