//! Responses to SENDs, as any server may word them (RFC 4975 §7.2 and §9).

use super::{CHANGED, CLIENT, SERVER};
use crate::failure::Failure;

/// The most bytes of a response: it has two paths and no body.
pub const RESPONSE_BYTES_MAX: usize = 4096;

/// The methods of requests that a peer may send (RFC 4975, 4976 and 7701).
const METHODS: [&str; 4] = ["SEND", "REPORT", "AUTH", "NICKNAME"];

/// A response to a SEND: its paths are those of the SEND, exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The transaction's identifier.
    pub id: String,
    /// Of three digits; 200 is success.
    pub status: u16,
    /// Whether our own backend says with it that bytes were changed.
    pub is_of_integrity: bool,
}

/// Puts responses together, wherever they are cut; keeps [`RESPONSE_BYTES_MAX`] bytes at most.
#[derive(Debug, Default)]
pub struct ResponseReader {
    bytes: Vec<u8>,
}

impl ResponseReader {
    /// Takes from the front of `bytes` until a response is whole, or all.
    ///
    /// # Errors
    /// [`Failure::NotMsrp`], [`Failure::MsrpRequest`], [`Failure::MsrpMismatch`].
    pub fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Response>, Failure> {
        // Line by line: only at the end of one can a response end.
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(at + 1);
            *bytes = rest;
            self.keep(line)?;
            if let Some(response) = self.whole()? {
                self.bytes.clear();
                return Ok(Some(response));
            }
        }
        self.keep(std::mem::take(bytes))?;
        Ok(None)
    }

    /// Whether nothing of a response has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.bytes.len() + bytes.len() > RESPONSE_BYTES_MAX {
            return Err(Failure::NotMsrp("longer than 4096 bytes"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The response, if the line that has just ended is its end line: seven hyphens, the identifier, and a
    /// flag. Headers may stand in any order, and there may be others than the two paths.
    fn whole(&self) -> Result<Option<Response>, Failure> {
        let text = std::str::from_utf8(&self.bytes).map_err(|_| Failure::NotMsrp("not UTF-8"))?;
        let mut lines = text.split_inclusive('\n').map(|line| line.strip_suffix("\r\n"));
        let first = lines.next().flatten().ok_or(NO_CRLF)?;
        let Start { id, status, comment } = Start::read(first)?;
        let Some(last) = lines.next_back() else { return Ok(None) };
        let last = last.ok_or(NO_CRLF)?;
        let Some(ended) = last.strip_prefix("-------") else {
            header(last).ok_or(Failure::NotMsrp("a header without a colon"))?;
            return Ok(None);
        };
        let is_its_own = ended.strip_prefix(id).is_some_and(|flag| ["$", "+", "#"].contains(&flag));
        if !is_its_own {
            return Err(Failure::NotMsrp("an end line of another transaction or without a flag"));
        }
        check_paths(lines.flatten())?;
        let is_of_integrity = status == 400 && comment == Some(CHANGED);
        Ok(Some(Response { id: id.to_owned(), status, is_of_integrity }))
    }
}

const NO_CRLF: Failure = Failure::NotMsrp("a line that does not end in CRLF");

/// `MSRP ID STATUS`, and a comment or none.
struct Start<'a> {
    id: &'a str,
    status: u16,
    comment: Option<&'a str>,
}

impl<'a> Start<'a> {
    fn read(line: &'a str) -> Result<Self, Failure> {
        const NO_START: Failure = Failure::NotMsrp("no line MSRP ID STATUS");
        let words = line.strip_prefix("MSRP ").and_then(|rest| rest.split_once(' '));
        let (id, rest) = words.filter(|(id, _)| !id.is_empty()).ok_or(NO_START)?;
        let (word, comment) = match rest.split_once(' ') {
            Some((word, comment)) => (word, Some(comment)),
            None => (rest, None),
        };
        if comment.is_none() && !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase()) {
            let known = METHODS.into_iter().find(|method| *method == word);
            return Err(Failure::MsrpRequest(known.unwrap_or("of another method")));
        }
        let is_status = word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        let status = word.parse().ok().filter(|_| is_status).ok_or(NO_START)?;
        Ok(Self { id, status, comment })
    }
}

/// A header's name and value.
fn header(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    (!name.is_empty() && !name.contains(' ')).then(|| (name, value.trim_matches(' ')))
}

/// A response to a SEND goes one hop back: each of its paths is one URI.
fn check_paths<'a>(lines: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    let (mut to, mut from) = (None, None);
    for (name, value) in lines.filter_map(header) {
        let path = match name {
            _ if name.eq_ignore_ascii_case("To-Path") => &mut to,
            _ if name.eq_ignore_ascii_case("From-Path") => &mut from,
            _ => continue,
        };
        if path.replace(value).is_some() {
            return Err(Failure::NotMsrp("To-Path or From-Path twice"));
        }
    }
    let to = to.ok_or(Failure::NotMsrp("no To-Path"))?;
    let from = from.ok_or(Failure::NotMsrp("no From-Path"))?;
    if !is_same_uri(to, CLIENT) {
        return Err(Failure::MsrpMismatch("To-Path is not the From-Path that was sent"));
    }
    if !is_same_uri(from, SERVER) {
        return Err(Failure::MsrpMismatch("From-Path is not the To-Path that was sent"));
    }
    Ok(())
}

fn is_same_uri(a: &str, b: &str) -> bool {
    let (a, b) = (Uri::read(a), Uri::read(b));
    a.is_some() && a == b
}

/// What counts when URIs are compared (RFC 4975 §6.1): neither userinfo nor parameters but the transport.
#[derive(PartialEq, Eq)]
struct Uri<'a> {
    /// Scheme, authority and transport, in lower case.
    folded: [String; 3],
    /// In any case as it stands.
    session: Option<&'a str>,
}

impl<'a> Uri<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (place, parameters) = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest).split_once(';')?;
        let (authority, session) = match place.split_once('/') {
            Some((authority, session)) => (authority, Some(session)),
            None => (place, None),
        };
        let transport = parameters.split(';').next()?;
        let folded = [scheme, authority, transport].map(str::to_ascii_lowercase);
        (!text.contains(' ')).then_some(Self { folded, session })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::msrp::write_answer;

    /// What a reader makes of bytes that come in these pieces, up to the first failure, and whether it then
    /// holds the beginning of another response.
    fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Response>, Result<bool, Failure>) {
        let (mut reader, mut found) = (ResponseReader::default(), Vec::new());
        for mut piece in pieces {
            loop {
                match reader.take(&mut piece) {
                    Ok(Some(response)) => found.push(response),
                    Ok(None) => break,
                    Err(failure) => return (found, Err(failure)),
                }
            }
        }
        (found, Ok(!reader.is_empty()))
    }

    fn response(id: &str, status: u16) -> Response {
        Response { id: id.to_owned(), status, is_of_integrity: false }
    }

    /// With these headers between the first and the end line.
    fn text(start: &str, headers: &[&str], end: &str) -> String {
        format!("MSRP {start}\r\n{}-------{end}\r\n", headers.concat())
    }

    const TO: &str = "To-Path: msrps://client.invalid:2855/c1;tcp\r\n";
    const FROM: &str = "From-Path: msrps://terminator.test:2855/s1;tcp\r\n";

    #[test]
    fn rfc_4975_responses_are_read_in_one_segment() {
        let bytes = [
            // As Kamailio 5.6 words it.
            text("a786hjs2 200 OK", &[TO, FROM, "Message-ID: 0000000000000001\r\n"], "a786hjs2$"),
            text("0001 200", &["X-Own:\r\n", FROM, "Byte-Range: 1-3/3\r\n", TO], "0001$"),
            text("0002 413 Genug, für heute", &[TO, FROM], "0002#"),
            text("0003 200 ", &[TO, FROM], "0003+"),
        ]
        .concat();
        let expected =
            [response("a786hjs2", 200), response("0001", 200), response("0002", 413), response("0003", 200)];
        assert_eq!(read([bytes.as_bytes()].into_iter()), (expected.to_vec(), Ok(false)));
        let half = &bytes.as_bytes()[..bytes.len() - 1];
        assert_eq!(read([half].into_iter()), (expected[..3].to_vec(), Ok(true)));
    }

    #[test]
    fn our_backend_reports_changed_bytes() {
        let mut ours = Vec::new();
        write_answer(&mut ours, "0003", false);
        write_answer(&mut ours, "0004", true);
        let changed = Response { is_of_integrity: true, ..response("0003", 400) };
        assert_eq!(read([&*ours].into_iter()), (vec![changed, response("0004", 200)], Ok(false)));
    }

    fn failure(bytes: &[u8]) -> String {
        let (found, failed) = read([bytes].into_iter());
        assert_eq!(found, []);
        failed.expect_err("it is no response to a SEND").to_string()
    }

    #[test]
    fn malformed_msrp_response_is_named() {
        let id = "MSRP 1 200 OK\r\n";
        for (bytes, name) in [
            ("HTTP/1.1 200 OK\r\n".to_owned(), "no line MSRP ID STATUS"),
            ("MSRP 1 20 OK\r\n".to_owned(), "no line MSRP ID STATUS"),
            ("MSRP 1 2000 OK\r\n".to_owned(), "no line MSRP ID STATUS"),
            ("MSRP 1 +20\r\n".to_owned(), "no line MSRP ID STATUS"),
            ("MSRP 1\r\n".to_owned(), "no line MSRP ID STATUS"),
            ("MSRP  200 OK\r\n".to_owned(), "no line MSRP ID STATUS"),
            ("MSRP 1 send\r\n".to_owned(), "no line MSRP ID STATUS"),
            ("MSRP 1 200 OK\n".to_owned(), "a line that does not end in CRLF"),
            (format!("{id}{}", TO.replace('\r', "")), "a line that does not end in CRLF"),
            (format!("{id}no header\r\n"), "a header without a colon"),
            (format!("{id}a body: it has none\r\n"), "a header without a colon"),
            (format!("{id}\r\n"), "a header without a colon"),
            (text("1 200", &[TO, FROM], "2$"), "an end line of another transaction or without a flag"),
            (text("1 200", &[TO, FROM], "1!"), "an end line of another transaction or without a flag"),
            (text("1 200", &[TO, FROM], "1"), "an end line of another transaction or without a flag"),
            (text("1 200", &[FROM], "1$"), "no To-Path"),
            (text("1 200", &[TO], "1$"), "no From-Path"),
            (text("1 200", &[TO, FROM, TO], "1$"), "To-Path or From-Path twice"),
        ] {
            assert_eq!(failure(bytes.as_bytes()), format!("not an MSRP response: {name}"), "{bytes}");
        }
        assert_eq!(failure(b"MSRP 1 200 \xff\r\n"), "not an MSRP response: not UTF-8");
    }

    #[test]
    fn msrp_response_is_read_up_to_its_bound() {
        let of = |len: usize| {
            let empty = text("1 200", &[TO, FROM, "X: \r\n"], "1$");
            let value = format!("X: {}\r\n", "x".repeat(len - empty.len()));
            text("1 200", &[TO, FROM, &value], "1$")
        };
        let (found, _) = read([of(RESPONSE_BYTES_MAX).as_bytes()].into_iter());
        assert_eq!(found, [response("1", 200)]);
        let name = format!("not an MSRP response: longer than {RESPONSE_BYTES_MAX} bytes");
        assert_eq!(failure(of(RESPONSE_BYTES_MAX + 1).as_bytes()), name);
        assert_eq!(failure(&[b'x'; RESPONSE_BYTES_MAX + 1]), name, "not one line");
    }

    #[test]
    fn msrp_request_of_the_peer_is_named_by_method() {
        for (word, name) in [
            ("SEND", "SEND"),
            ("REPORT", "REPORT"),
            ("AUTH", "AUTH"),
            ("NICKNAME", "NICKNAME"),
            ("PING", "of another method"),
        ] {
            let request = text(&format!("dkei38sd {word}"), &[TO, FROM], "dkei38sd$");
            assert_eq!(failure(request.as_bytes()), format!("msrp request from the peer: {name}"));
        }
    }

    #[test]
    fn paths_must_be_those_that_were_sent_exchanged() {
        let outcome = |to: &str, from: &str| {
            let (to, from) = (format!("To-Path: {to}\r\n"), format!("FROM-PATH:  {from} \r\n"));
            read([text("1 200", &[&to, &from], "1$").as_bytes()].into_iter())
        };
        for same in [
            "msrps://terminator.test:2855/s1;tcp",
            "MSRPS://TERMINATOR.test:2855/s1;TCP",
            "msrps://a;b/c@terminator.test:2855/s1;tcp;x=1",
        ] {
            assert_eq!(outcome(CLIENT, same), (vec![response("1", 200)], Ok(false)), "{same}");
        }
        for other in [
            CLIENT,
            "",
            "*",
            "msrp://terminator.test:2855/s1;tcp",
            "msrps://terminator.test/s1;tcp",
            "msrps://terminator.test:2856/s1;tcp",
            "msrps://terminator.test:2855/S1;tcp",
            "msrps://terminator.test:2855;tcp",
            "msrps://terminator.test:2855/s1",
            "msrps://terminator.test:2855/s1;sctp",
            "msrps://terminator.test:2855/s1;tcp msrps://relay.test:2855/s2;tcp",
            "msrps://relay.test:2855/s2;tcp;a=@ msrps://terminator.test:2855/s1;tcp",
        ] {
            let failed = Failure::MsrpMismatch("From-Path is not the To-Path that was sent");
            assert_eq!(outcome(CLIENT, other), (Vec::new(), Err(failed)), "{other}");
        }
        let failed = Failure::MsrpMismatch("To-Path is not the From-Path that was sent");
        assert_eq!(outcome(SERVER, CLIENT), (Vec::new(), Err(failed)), "not exchanged");
    }

    /// One response in any wording, and what is to be read.
    fn worded() -> impl Strategy<Value = (String, Response)> {
        let others = prop::collection::vec("[A-Z][A-Za-z-]{0,9}: ?[ -~äß€]{0,30}\r\n", 0..4);
        let comment = prop_oneof![Just(String::new()), " [ -~äß€]{0,20}"];
        ("[A-Za-z0-9][A-Za-z0-9.+%=-]{3,31}", 0_u16..1000, comment, others, "[$+#]").prop_flat_map(
            |(id, status, comment, others, flag)| {
                let headers = others.into_iter().chain([TO.to_owned(), FROM.to_owned()]).collect::<Vec<_>>();
                Just(headers).prop_shuffle().prop_map(move |headers| {
                    let start = format!("{id} {status:03}{comment}");
                    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
                    (text(&start, &headers, &format!("{id}{flag}")), response(&id, status))
                })
            },
        )
    }

    /// `bytes`, cut behind each of these shares of them.
    fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> impl Iterator<Item = &'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let ends: Vec<_> = cuts.windows(2).map(|ends| ends[0]..ends[1]).collect();
        ends.into_iter().map(|ends| &bytes[ends])
    }

    fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
        prop::collection::vec(any::<prop::sample::Index>(), 0..12)
    }

    proptest! {
        #[test]
        fn any_wording_is_read_at_any_cut(worded in prop::collection::vec(worded(), 1..4), cuts in cuts()) {
            let (texts, expected): (Vec<String>, Vec<Response>) = worded.into_iter().unzip();
            let bytes = texts.concat();
            prop_assert_eq!(&read(pieces(bytes.as_bytes(), &cuts)), &(expected.clone(), Ok(false)));
            prop_assert_eq!(read(bytes.as_bytes().chunks(1)), (expected, Ok(false)));
        }

        #[test]
        fn cuts_do_not_change_what_damage_does(
            worded in prop::collection::vec(worded(), 1..4),
            damage in any::<(prop::sample::Index, u8)>(),
            cuts in cuts(),
        ) {
            let mut bytes: Vec<u8> = worded.into_iter().flat_map(|(text, _)| text.into_bytes()).collect();
            let at = damage.0.index(bytes.len());
            bytes[at] = damage.1;
            prop_assert_eq!(read(pieces(&bytes, &cuts)), read([&*bytes].into_iter()));
        }
    }
}
