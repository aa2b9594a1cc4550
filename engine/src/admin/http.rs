//! As much of HTTP/1.1 as the admin address needs: a request's head in, an answer out.

use std::net::IpAddr;

use crate::config::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_REQUEST_BYTES_MAX};

/// What a client waits for that has announced a body (RFC 9110 §10.1.1).
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

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
    /// Behind these the body begins.
    pub(super) head_bytes: usize,
}

/// A body that is to come, or has begun to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) bytes: usize,
    pub(super) awaits_continue: bool,
}

#[derive(Debug)]
pub(super) enum Route {
    Metrics,
    Health,
    Offload,
    AllowOffload(bool),
    Config,
    Configure(Body),
    Upgrade,
    Refused(Answer),
}

pub(super) fn parse(request: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut headers);
    let head_bytes = match parsed.parse(request) {
        Ok(httparse::Status::Complete(length)) if length <= ADMIN_REQUEST_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if request.len() < ADMIN_REQUEST_BYTES_MAX => return Parsed::Partial,
        _ => return Parsed::Bad,
    };
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
        "/v1/config" if reads => Route::Config,
        "/v1/config" if method == "PUT" => body(parsed.headers).map_or_else(Route::Refused, Route::Configure),
        "/v1/config" => Route::Refused(Answer::wrong_method("GET, HEAD, PUT")),
        "/v1/upgrade" if method == "POST" => Route::Upgrade,
        "/metrics" | "/healthz" | "/offload" => Route::Refused(Answer::wrong_method("GET, HEAD")),
        "/offload/on" | "/offload/off" | "/v1/upgrade" => Route::Refused(Answer::wrong_method("POST")),
        _ => Route::Refused(Answer::nowhere()),
    };
    Parsed::Whole(Request { route, is_head, head_bytes })
}

/// How long the body is: only Content-Length may say so.
fn body(headers: &[httparse::Header<'_>]) -> Result<Body, Answer> {
    let named = |name: &'static str| headers.iter().filter(move |it| it.name.eq_ignore_ascii_case(name));
    if named("transfer-encoding").next().is_some() {
        return Err(Answer::no_length());
    }
    let mut lengths = named("content-length").map(|header| header.value);
    let length = lengths.next().ok_or_else(Answer::no_length)?;
    if lengths.next().is_some() || length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
        return Err(Answer::bad_request());
    }
    let bytes = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok());
    let bytes = bytes.filter(|bytes| *bytes <= ADMIN_BODY_BYTES_MAX).ok_or_else(Answer::too_long)?;
    let mut expects = named("expect");
    let awaits_continue = expects.any(|header| header.value.eq_ignore_ascii_case(b"100-continue"));
    Ok(Body { bytes, awaits_continue })
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

    pub(super) fn nowhere() -> Self {
        let there_are = "there are /metrics, /healthz, /offload, /offload/on, /offload/off, /v1/config, \
                         /v1/upgrade\n";
        Self::new("404 Not Found", there_are)
    }

    fn no_length() -> Self {
        Self::new(
            "411 Length Required",
            "the configuration must come with its Content-Length, not chunked; try: curl -T FILE\n",
        )
    }

    fn too_long() -> Self {
        let body = format!("a configuration has at most {ADMIN_BODY_BYTES_MAX} bytes\n");
        Self::new("413 Content Too Large", &body)
    }

    pub(super) fn refused(body: &str) -> Self {
        Self::new("422 Unprocessable Content", body)
    }

    pub(super) fn forbidden(body: &str) -> Self {
        Self::new("403 Forbidden", body)
    }

    pub(super) fn not_local() -> Self {
        Self::forbidden(
            "/v1/config and /v1/upgrade are served only where admin is a loopback address, such as \
             127.0.0.1:9100\n",
        )
    }

    pub(super) fn flags_alone() -> Self {
        Self::new("404 Not Found", "there is no configuration file: the flags of the command line hold\n")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The body that a PUT announces by these headers, or the status of the refusal.
    fn announced(headers: &str) -> Result<Body, &'static str> {
        match parse(format!("PUT /v1/config HTTP/1.1\r\n{headers}\r\n").as_bytes()) {
            Parsed::Whole(Request { route: Route::Configure(body), .. }) => Ok(body),
            Parsed::Whole(Request { route: Route::Refused(answer), .. }) => Err(&answer.status[..3]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn body_has_a_length_or_is_refused() {
        let max = ADMIN_BODY_BYTES_MAX;
        let body = |bytes, awaits_continue| Ok(Body { bytes, awaits_continue });
        assert_eq!(announced("content-length: 12\r\n"), body(12, false));
        assert_eq!(announced("Content-Length: 0\r\nExpect: 100-Continue\r\n"), body(0, true));
        assert_eq!(announced(&format!("Content-Length: {max}\r\n")), body(max, false));
        for (headers, status) in [
            (String::new(), "411"),
            ("Transfer-Encoding: chunked\r\n".to_owned(), "411"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n".to_owned(), "411"),
            (format!("Content-Length: {}\r\n", max + 1), "413"),
            ("Content-Length: 99999999999999999999999\r\n".to_owned(), "413"),
            ("Content-Length: 1\r\nContent-Length: 2\r\n".to_owned(), "400"),
            ("Content-Length: -1\r\n".to_owned(), "400"),
            ("Content-Length: +1\r\n".to_owned(), "400"),
            ("Content-Length: \r\n".to_owned(), "400"),
            ("Content-Length: 1\r\nOrigin: http://a.example\r\n".to_owned(), "403"),
            ("Content-Length: 1\r\nHost: a.example\r\n".to_owned(), "421"),
        ] {
            assert_eq!(announced(&headers), Err(status), "{headers}");
        }
    }

    #[test]
    fn body_begins_behind_the_head() {
        let head = "PUT /v1/config HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
        let Parsed::Whole(request) = parse(format!("{head}abc").as_bytes()) else { panic!("it is whole") };
        assert_eq!(request.head_bytes, head.len());
    }
}
