//! The status page: three files, which ask for nothing but each other and `/v1/state`.

use super::answer::Answer;

/// What a browser may do for the page: nothing from elsewhere, no script or style in the text, no frame
/// around it (Content Security Policy Level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                 img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Page,
    Style,
    Script,
}

impl File {
    /// The one that is served there.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Page),
            "/status.css" => Some(Self::Style),
            "/status.js" => Some(Self::Script),
            _ => None,
        }
    }

    pub(super) fn answer(self) -> Answer {
        let (kind, text) = match self {
            Self::Page => ("text/html; charset=utf-8", include_str!("page/status.html")),
            Self::Style => ("text/css; charset=utf-8", include_str!("page/status.css")),
            Self::Script => ("text/javascript; charset=utf-8", include_str!("page/status.js")),
        };
        Answer::file(kind, POLICY, text)
    }
}
