//! One request and the beginning of its answer.

use crate::backend::ECHO;
use crate::failure::Failure;
use crate::plan::Request;
use crate::session::Session;

/// The conversation of a connection whose handshake is what counts.
#[derive(Debug)]
pub struct Exchange {
    /// What is not said yet.
    unsaid: Vec<u8>,
    expects: Expects,
    /// Of an HTTP answer, not yet asked for.
    status: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expects {
    Nothing,
    Echo,
    /// The status of an HTTP answer; so much of its status line has come, less than [`STATUS_BYTES`].
    Status(Vec<u8>),
    /// The rest of an HTTP answer, if it likes.
    Anything,
}

/// "HTTP/1.1 200" (RFC 9112 §4).
const STATUS_BYTES: usize = 12;

impl Exchange {
    pub(super) fn new(request: &Request, name: &str) -> Self {
        let (unsaid, expects) = match request {
            Request::None => (Vec::new(), Expects::Nothing),
            Request::Echo => (vec![ECHO], Expects::Echo),
            Request::Http(path) => {
                // An IPv6 address stands in brackets (RFC 9110 §7.2, RFC 3986 §3.2.2).
                let host = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
                let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                (text.into_bytes(), Expects::Status(Vec::with_capacity(STATUS_BYTES)))
            }
        };
        Self { unsaid, expects, status: None }
    }

    pub(super) fn fill(&mut self, session: &mut Session) {
        let count = session.send(&self.unsaid);
        self.unsaid.drain(..count);
    }

    pub(super) fn take(&mut self, plaintext: &[u8]) -> Result<(), Failure> {
        match (&mut self.expects, plaintext) {
            (Expects::Anything, _) | (_, []) => {}
            (Expects::Echo, [ECHO]) => self.expects = Expects::Nothing,
            (Expects::Echo, _) => return Err(Failure::Changed("the first byte came back changed")),
            (Expects::Nothing, _) => return Err(Failure::Changed("more came back than was sent")),
            (Expects::Status(line), more) => {
                line.extend_from_slice(&more[..more.len().min(STATUS_BYTES - line.len())]);
                if line.len() == STATUS_BYTES {
                    let status = status(line).ok_or(Failure::NotHttp)?;
                    self.expects = Expects::Anything;
                    self.status = Some(status);
                    if !(200..400).contains(&status) {
                        return Err(Failure::HttpStatus(status));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_status(&mut self) -> Option<u16> {
        self.status.take()
    }

    pub(super) fn rests(&self) -> bool {
        matches!(self.expects, Expects::Nothing | Expects::Anything)
    }
}

/// The three digits of a status line of HTTP/1.0 or 1.1.
fn status(line: &[u8]) -> Option<u16> {
    let digits = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().filter(|status| *status >= 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_over_with_its_byte() {
        let mut echo = Exchange::new(&Request::Echo, "a.test");
        assert!(!echo.rests());
        assert!(Exchange::new(&Request::Echo, "").take(b"x").is_err(), "another byte than was sent");
        echo.take(&[ECHO]).unwrap();
        assert!(echo.rests() && echo.take(b"x").is_err(), "nothing more is due");
        assert!(Exchange::new(&Request::None, "").rests());
    }

    fn http(answer: &[u8]) -> (Result<(), Failure>, Option<u16>, bool) {
        let mut http = Exchange::new(&Request::Http("/a".to_owned()), "a.test");
        assert!(http.unsaid.starts_with(b"GET /a HTTP/1.1\r\nHost: a.test\r\n"));
        // Cut wherever records may be.
        let result = answer.chunks(5).try_for_each(|bytes| http.take(bytes));
        (result, http.take_status(), http.rests())
    }

    #[test]
    fn http_status_decides_and_is_counted() {
        assert_eq!(http(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nbody"), (Ok(()), Some(200), true));
        assert_eq!(http(b"HTTP/1.0 301 \r\n"), (Ok(()), Some(301), true));
        assert_eq!(http(b"HTTP/1.1 20"), (Ok(()), None, false), "not all of it has come");
        for bad in [404, 503, 103] {
            let (result, status, _) = http(format!("HTTP/1.1 {bad} No\r\n").as_bytes());
            assert_eq!((result, status), (Err(Failure::HttpStatus(bad)), Some(bad)));
        }
        for junk in [&b"HTTP/1.1 2x0 OK"[..], b"HTTP/2.0 200 OK", b"SSH-2.0-OpenSSH_9", b"HTTP/1.1 020 x"] {
            assert_eq!(http(junk), (Err(Failure::NotHttp), None, false));
        }
    }
}
