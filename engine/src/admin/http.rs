//! As much of HTTP/1.1 as the admin address needs: a request's head in, an answer out.

use std::net::IpAddr;

use super::answer::Answer;
use super::page;
use super::query::Page;
use crate::config::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_REQUEST_BYTES_MAX};
use crate::worker::{ConnectionName, NoName};

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
    State,
    Page(page::File),
    Offload,
    AllowOffload(bool),
    Config,
    Configure(Body),
    Connections(Page),
    EndConnection(ConnectionName),
    Upgrade,
    Refused(Answer),
}

impl Route {
    /// Whether it changes something, or shows what is nobody else's business.
    pub(super) fn needs_full_access(&self) -> bool {
        match self {
            Self::AllowOffload(_) | Self::Config | Self::Configure(_) | Self::Upgrade => true,
            Self::Connections(_) | Self::EndConnection(_) => true,
            Self::Metrics | Self::Health | Self::State | Self::Page(_) | Self::Offload | Self::Refused(_) => {
                false
            }
        }
    }
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
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
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
        "/v1/state" if reads => Route::State,
        "/offload" if reads => Route::Offload,
        "/offload/on" if method == "POST" => Route::AllowOffload(true),
        "/offload/off" if method == "POST" => Route::AllowOffload(false),
        "/v1/config" if reads => Route::Config,
        "/v1/config" if method == "PUT" => body(parsed.headers).map_or_else(Route::Refused, Route::Configure),
        "/v1/config" => Route::Refused(Answer::wrong_method("GET, HEAD, PUT")),
        "/v1/upgrade" if method == "POST" => Route::Upgrade,
        "/v1/connections" if reads => match Page::parse(query) {
            Ok(page) => Route::Connections(page),
            Err(why) => Route::Refused(Answer::new("400 Bad Request", &format!("{why}\n"))),
        },
        "/v1/connections" => Route::Refused(Answer::wrong_method("GET, HEAD")),
        _ if path.starts_with(ONE_CONNECTION) => connection(&path[ONE_CONNECTION.len()..], method),
        "/metrics" | "/healthz" | "/v1/state" | "/offload" => {
            Route::Refused(Answer::wrong_method("GET, HEAD"))
        }
        "/offload/on" | "/offload/off" | "/v1/upgrade" => Route::Refused(Answer::wrong_method("POST")),
        _ => match page::File::at(path) {
            Some(file) if reads => Route::Page(file),
            Some(_) => Route::Refused(Answer::wrong_method("GET, HEAD")),
            None => Route::Refused(Answer::nowhere()),
        },
    };
    Parsed::Whole(Request { route, is_head, head_bytes })
}

/// In front of the id of a connection.
const ONE_CONNECTION: &str = "/v1/connections/";

/// One connection: there is nothing to do but to end it.
fn connection(id: &str, method: &str) -> Route {
    match id.parse() {
        Err(error @ NoName) => Route::Refused(Answer::new("404 Not Found", &format!("{error}\n"))),
        Ok(_) if method != "DELETE" => Route::Refused(Answer::wrong_method("DELETE")),
        Ok(name) => Route::EndConnection(name),
    }
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
