//! A line, which keeps its bytes.

use std::str;

use crate::error::{Problem, SdpError};

/// How a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    CrLf,
    Lf,
    /// The last line of a document without a final line end.
    None,
}

impl Ending {
    pub(crate) fn bytes(self) -> &'static [u8] {
        match self {
            Self::CrLf => b"\r\n",
            Self::Lf => b"\n",
            Self::None => b"",
        }
    }
}

/// A line as it was received or written by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1; a line that we wrote has the number of the line in whose place or behind which it is.
    number: usize,
    text: Vec<u8>,
    ending: Ending,
}

impl Line {
    pub(crate) fn read(number: usize, raw: &[u8]) -> Result<Self, SdpError> {
        let (text, ending) = match raw {
            [text @ .., b'\r', b'\n'] => (text, Ending::CrLf),
            [text @ .., b'\n'] => (text, Ending::Lf),
            text => (text, Ending::None),
        };
        let line = Self { number, text: text.to_vec(), ending };
        if text.contains(&0) {
            return Err(line.fault(Problem::Nul));
        }
        if text.contains(&b'\r') {
            return Err(line.fault(Problem::LoneCr));
        }
        match text {
            [] => Ok(line),
            [letter, b'=', ..] if letter.is_ascii_alphabetic() => Ok(line),
            _ => Err(line.fault(Problem::NotALine)),
        }
    }

    /// The bytes without the line end.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The number of the line in the document as it was received, from 1.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// What stands behind "=", if the line is of this type.
    #[must_use]
    pub fn value_of(&self, letter: u8) -> Option<&[u8]> {
        self.text.strip_prefix(&[letter, b'='])
    }

    /// The value of the attribute of this name, empty for one that has none. Names are compared without
    /// regard to case, as the grammars of the RFCs do: a line that only the peer's parser understands would
    /// pass a rule by.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&[u8]> {
        let text = self.value_of(b'a')?;
        let (found, value) = match text.iter().position(|byte| *byte == b':') {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => (text, &[][..]),
        };
        found.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
    }

    pub(crate) fn fault(&self, problem: Problem) -> SdpError {
        problem.at(self.number)
    }

    /// A value of this line as text.
    pub(crate) fn utf8<'a>(&self, value: &'a [u8]) -> Result<&'a str, SdpError> {
        str::from_utf8(value).map_err(|_| self.fault(Problem::NotUtf8))
    }

    pub(crate) fn ending(&self) -> Ending {
        self.ending
    }

    /// A line to stand behind this one, which gets an end if it has none.
    pub(crate) fn followed_by(&mut self, text: String, ending: Ending) -> Self {
        let last = self.ending;
        if last == Ending::None {
            self.ending = ending;
        }
        Self { number: self.number, text: text.into_bytes(), ending: last }
    }

    pub(crate) fn set(&mut self, text: String) {
        self.text = text.into_bytes();
    }
}
