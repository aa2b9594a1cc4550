//! Documents and the gateway's side of them.

use std::fmt::Write;

use offramp_sdp::{Document, Fingerprint, FingerprintHash, Learnt, Local, LocalTls, PathRule, Remote, TlsId};

/// A fingerprint of one byte repeated, as SDP writes it.
pub(crate) fn fingerprint(hash: FingerprintHash, byte: u8) -> Fingerprint {
    Fingerprint { hash, digest: vec![byte; hash.digest_bytes()] }
}

pub(crate) fn sha256(byte: u8) -> Fingerprint {
    fingerprint(FingerprintHash::Sha256, byte)
}

pub(crate) const TLS_ID: &str = "phone-association-0001";

/// Audio that is not ours, and MSRP over TLS.
pub(crate) fn phone() -> String {
    format!(
        "v=0\r\no=alice 2890844526 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\n\
         a=x-session:kept\r\nm=audio 49170 RTP/AVP 0 8\r\nb=AS:64\r\na=rtpmap:0 PCMU/8000\r\n\
         m=message 7654 TCP/TLS/MSRP *\r\ni=chat\r\na=accept-types:text/plain message/cpim\r\n\
         a=path:msrps://192.0.2.7:7654/s4f6a;tcp\r\na=setup:actpass\r\na=connection:new\r\n\
         a=fingerprint:{}\r\na=tls-id:{TLS_ID}\r\na=3ge2ae:requested\r\nx=kept\r\n",
        sha256(0xAB)
    )
}

/// MSRP without TLS, as the core has it; lines end with LF, the last one not at all.
pub(crate) const CORE: &str = "v=0\no=bob 1 1 IN IP4 203.0.113.5\ns=-\nt=0 0\n\
     m=message 2855 TCP/MSRP *\nc=IN IP4 203.0.113.5\na=accept-types:*\n\
     a=path:msrp://203.0.113.5:2855/9di4ea;tcp";

pub(crate) fn plain() -> Local {
    Local {
        address: "198.51.100.1:20000".parse().unwrap(),
        tls: None,
        setup: None,
        connection: None,
        path: PathRule::Auto,
    }
}

pub(crate) fn tls() -> Local {
    let tls_id = Some(TlsId::read("gateway-association-77").unwrap());
    Local { tls: Some(LocalTls { fingerprints: vec![sha256(1)], tls_id, e2ae: true }), ..plain() }
}

/// What the only stream of ours in a document says.
pub(crate) fn stream(text: &str) -> Remote {
    let document = Document::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    let learnt = (0..document.sections().len()).map(|index| document.learn(index));
    let streams: Vec<Remote> = learnt
        .filter_map(|learnt| match learnt.unwrap_or_else(|error| panic!("{error}: {text}")) {
            Learnt::Stream(remote) => Some(*remote),
            _ => None,
        })
        .collect();
    let [stream] = streams.try_into().unwrap_or_else(|found| panic!("{found:?}"));
    stream
}

/// A document with one MSRP stream over TLS that has these lines behind its m= line.
pub(crate) fn with_lines(lines: &[&str]) -> String {
    let head = "v=0\r\no=- 1 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\n\
                m=message 7654 TCP/TLS/MSRP *\r\n";
    lines.iter().fold(head.to_owned(), |mut text, line| {
        write!(text, "{line}\r\n").unwrap();
        text
    })
}

/// Rewrites the stream at `index` and returns the lines that went (`-`) and came (`+`), ends included.
pub(crate) fn changes(text: &str, index: usize, local: &Local) -> Vec<String> {
    let mut document = Document::parse(text.as_bytes()).unwrap();
    document.rewrite(index, local).unwrap();
    diff(text, &String::from_utf8(document.to_bytes()).unwrap())
}

/// The shortest difference of two texts, line by line.
fn diff(before: &str, after: &str) -> Vec<String> {
    let lines = |text: &str| text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (lines(before), lines(after));
    // The lengths of the longest common subsequences of what is left.
    let mut common = vec![vec![0; after.len() + 1]; before.len() + 1];
    for (i, old) in before.iter().enumerate().rev() {
        for (j, new) in after.iter().enumerate().rev() {
            let skipped = common[i + 1][j].max(common[i][j + 1]);
            common[i][j] = if old == new { common[i + 1][j + 1] + 1 } else { skipped };
        }
    }
    let (mut i, mut j, mut changes) = (0, 0, Vec::new());
    while i < before.len() || j < after.len() {
        if i < before.len() && j < after.len() && before[i] == after[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == after.len() || (i < before.len() && common[i + 1][j] >= common[i][j + 1]) {
            changes.push(format!("-{}", before[i]));
            i += 1;
        } else {
            changes.push(format!("+{}", after[j]));
            j += 1;
        }
    }
    changes
}
