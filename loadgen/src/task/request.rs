//! One request and the first byte of its answer.

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Nothing,
    Echo,
    Anything,
}

impl Exchange {
    pub(super) fn new(request: &Request, name: &str) -> Self {
        let (unsaid, expects) = match request {
            Request::None => (Vec::new(), Expects::Nothing),
            Request::Echo => (vec![ECHO], Expects::Echo),
            Request::Http(path) => {
                let text = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
                (text.into_bytes(), Expects::Anything)
            }
        };
        Self { unsaid, expects }
    }

    pub(super) fn fill(&mut self, session: &mut Session) {
        let count = session.send(&self.unsaid);
        self.unsaid.drain(..count);
    }

    pub(super) fn take(&mut self, plaintext: &[u8]) -> Result<(), Failure> {
        match (self.expects, plaintext) {
            (_, []) => {}
            (Expects::Anything, _) | (Expects::Echo, [ECHO]) => self.expects = Expects::Nothing,
            (Expects::Echo, _) => return Err(Failure::Changed("the first byte came back changed")),
            (Expects::Nothing, _) => return Err(Failure::Changed("more came back than was sent")),
        }
        Ok(())
    }

    pub(super) fn rests(&self) -> bool {
        self.expects == Expects::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_with_its_first_byte() {
        let mut echo = Exchange::new(&Request::Echo, "a.test");
        assert!(!echo.rests());
        assert!(Exchange::new(&Request::Echo, "").take(b"x").is_err(), "another byte than was sent");
        echo.take(&[ECHO]).unwrap();
        assert!(echo.rests() && echo.take(b"x").is_err(), "nothing more is due");
        let mut http = Exchange::new(&Request::Http("/a".to_owned()), "a.test");
        assert!(http.unsaid.starts_with(b"GET /a HTTP/1.1\r\nHost: a.test\r\n"));
        http.take(b"HTTP").unwrap();
        assert!(http.rests());
        assert!(Exchange::new(&Request::None, "").rests());
    }
}
