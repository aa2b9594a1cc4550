//! As much of HTTP/1.1 as the admin address needs: a request's head in, an answer out.

use std::net::IpAddr;

use crate::config::limits::ADMIN_REQUEST_BYTES_MAX;

#[derive(Debug)]
pub(super) enum Parsed {
    Partial,
    Bad,
    Whole(Request),
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) route: Route,
    /// Only the head of the answer is wanted (RFC 9110 §9.3.2).
    pub(super) is_head: bool,
}

#[derive(Debug)]
pub(super) enum Route {
    Metrics,
    Health,
    Offload,
    AllowOffload(bool),
    Refused(Answer),
}

pub(super) fn parse(request: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Complete(length)) if length <= ADMIN_REQUEST_BYTES_MAX => {}
        Ok(httparse::Status::Partial) if request.len() < ADMIN_REQUEST_BYTES_MAX => return Parsed::Partial,
        _ => return Parsed::Bad,
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Parsed::Bad };
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let is_head = method == "HEAD";
    let reads = is_head || method == "GET";
    let mut hosts = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let is_foreign = parsed.headers.iter().any(|header| header.name.eq_ignore_ascii_case("origin"));
    let route = match path {
        _ if !hosts.all(|host| is_ours(host.value)) => Route::Refused(Answer::misdirected()),
        // A web page asks, by way of somebody's browser.
        _ if is_foreign && !reads => Route::Refused(Answer::foreign()),
        "/metrics" if reads => Route::Metrics,
        "/healthz" if reads => Route::Health,
        "/offload" if reads => Route::Offload,
        "/offload/on" if method == "POST" => Route::AllowOffload(true),
        "/offload/off" if method == "POST" => Route::AllowOffload(false),
        "/metrics" | "/healthz" | "/offload" => Route::Refused(Answer::wrong_method("GET, HEAD")),
        "/offload/on" | "/offload/off" => Route::Refused(Answer::wrong_method("POST")),
        _ => Route::Refused(Answer::nowhere()),
    };
    Parsed::Whole(Request { route, is_head })
}

/// Whether a Host names an address or `localhost` and no other name. A web page can have a name of its own
/// resolve to our address (DNS rebinding) and read what it then gets from its own origin; an address it
/// cannot take on. A request without Host comes from no browser.
fn is_ours(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((address, behind)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let address = address.parse::<std::net::Ipv6Addr>();
        return address.is_ok() && behind.strip_prefix(':').map_or(behind.is_empty(), port);
    }
    let (name, has_port) = host.split_once(':').map_or((host, true), |(name, behind)| (name, port(behind)));
    has_port && (name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok())
}

#[derive(Debug)]
pub(super) struct Answer {
    status: &'static str,
    /// RFC 9110 §15.5.6: a 405 names the methods there are.
    allow: &'static str,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn new(status: &'static str, body: &str) -> Self {
        Self { status, allow: "", kind: "text/plain; charset=utf-8", body: body.to_owned() }
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

    pub(super) fn bad_request() -> Self {
        Self::new("400 Bad Request", "bad request\n")
    }

    fn misdirected() -> Self {
        Self::new(
            "421 Misdirected Request",
            "Host is neither an IP address nor localhost: ask by the address, or set the header Host to it\n",
        )
    }

    fn foreign() -> Self {
        Self::new("403 Forbidden", "nothing is changed for a web page\n")
    }

    fn wrong_method(allow: &'static str) -> Self {
        Self { allow, ..Self::new("405 Method Not Allowed", "another method is wanted: see Allow\n") }
    }

    fn nowhere() -> Self {
        Self::new("404 Not Found", "there are /metrics, /healthz, /offload, /offload/on, /offload/off\n")
    }

    /// The answer, or its head alone.
    pub(super) fn into_bytes(self, is_head: bool) -> Vec<u8> {
        let Self { status, allow, kind, body } = self;
        let allow = if allow.is_empty() { String::new() } else { format!("Allow: {allow}\r\n") };
        let length = body.len();
        let body = if is_head { "" } else { &body };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}\
             Connection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}
