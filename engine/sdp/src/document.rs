//! The document: lines that keep their bytes.

use crate::error::{Problem, SdpError};
use crate::line::{Ending, Line};
use crate::media::MediaLine;
use crate::{MAX_BYTES, MAX_MEDIA};

/// What follows an m= line until the next one, and that line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The first one is the m= line.
    pub(crate) lines: Vec<Line>,
    pub(crate) media: MediaLine,
}

impl Section {
    /// What the m= line says.
    #[must_use]
    pub fn media(&self) -> &MediaLine {
        &self.media
    }

    /// The lines of the section, the m= line first.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub(crate) fn fault(&self, problem: Problem) -> SdpError {
        self.lines[0].fault(problem)
    }

    /// Inserts a line that ends as the line in front of it. Behind a last line without an end the new line
    /// is the one that has none.
    pub(crate) fn insert(&mut self, at: usize, text: String, document_ending: Ending) {
        let line = self.lines[at - 1].followed_by(text, document_ending);
        self.lines.insert(at, line);
    }

    /// Where attributes end: behind the last line that is not empty.
    pub(crate) fn end(&self) -> usize {
        self.lines.iter().rposition(|line| !line.text().is_empty()).map_or(1, |at| at + 1)
    }

    /// Removes lines other than the m= line. The others keep their ends.
    pub(crate) fn remove(&mut self, mut is_removed: impl FnMut(&Line) -> bool) {
        let mut is_first = true;
        self.lines.retain(|line| std::mem::take(&mut is_first) || !is_removed(line));
    }
}

/// An SDP document: what was not rewritten is written as it was read, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub(crate) session: Vec<Line>,
    pub(crate) sections: Vec<Section>,
}

impl Document {
    /// Reads a document.
    ///
    /// Lines of a type or with an attribute that is not known are kept. Empty lines are kept at the end.
    ///
    /// # Errors
    /// The first line that is no line of SDP, a malformed m= line of any media, or a bound that is exceeded.
    pub fn parse(bytes: &[u8]) -> Result<Self, SdpError> {
        if bytes.len() > MAX_BYTES {
            let line = 1 + bytes[..MAX_BYTES].iter().filter(|byte| **byte == b'\n').count();
            return Err(Problem::TooLong(bytes.len()).at(line));
        }
        let mut document = Self { session: Vec::new(), sections: Vec::new() };
        let mut empty = None;
        for (index, raw) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let line = Line::read(index + 1, raw)?;
            if line.text().is_empty() {
                empty.get_or_insert(line.number());
            } else if let Some(number) = empty {
                return Err(Problem::NotALine.at(number));
            }
            document.push(line)?;
        }
        match document.session.first() {
            Some(line) if line.text() == b"v=0" => Ok(document),
            _ => Err(Problem::Version.at(1)),
        }
    }

    fn push(&mut self, line: Line) -> Result<(), SdpError> {
        if line.value_of(b'm').is_some() {
            if self.sections.len() == MAX_MEDIA {
                return Err(line.fault(Problem::TooManyMedia));
            }
            let media = MediaLine::read(&line)?;
            self.sections.push(Section { lines: vec![line], media });
        } else {
            self.sections.last_mut().map_or(&mut self.session, |section| &mut section.lines).push(line);
        }
        Ok(())
    }

    /// The document as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let of_media = self.sections.iter().flat_map(|section| &section.lines);
        for line in self.session.iter().chain(of_media) {
            bytes.extend_from_slice(line.text());
            bytes.extend_from_slice(line.ending().bytes());
        }
        bytes
    }

    /// The lines in front of the first m= line.
    #[must_use]
    pub fn session(&self) -> &[Line] {
        &self.session
    }

    /// The media sections, in order.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// How the first line ends.
    pub(crate) fn ending(&self) -> Ending {
        self.session.first().map_or(Ending::CrLf, Line::ending)
    }
}
