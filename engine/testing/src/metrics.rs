//! One scrape of `/metrics`, whatever the order of its labels.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::tools::PATIENCE;

/// Every sample of a scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
    /// As received, for the report of a failure.
    pub raw: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// What the admin address answers to a request: its first line and its header fields, without the empty line
/// behind them.
///
/// # Errors
/// What the system says.
pub fn ask(admin: SocketAddr, request: &str) -> io::Result<String> {
    let tcp = TcpStream::connect_timeout(&admin, PATIENCE)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    exchange(tcp, &format!("{request}\r\nConnection: close\r\n\r\n"))
}

/// What admin answers to these bytes at its Unix socket.
///
/// # Errors
/// What the system says.
pub fn ask_socket(admin: &Path, request: &str) -> io::Result<String> {
    let unix = UnixStream::connect(admin)?;
    unix.set_read_timeout(Some(PATIENCE))?;
    exchange(unix, request)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Metrics {
    pub fn scrape(admin: SocketAddr) -> io::Result<Self> {
        let answer = ask(admin, "GET /metrics HTTP/1.1\r\nHost: localhost")?;
        if answer.split(' ').nth(1) != Some("200") {
            return Err(io::Error::other(format!("/metrics answered: {answer}")));
        }
        Ok(Self::parse(&answer))
    }

    fn parse(raw: &str) -> Self {
        Self { samples: raw.lines().filter_map(parse_line).collect(), raw: raw.to_owned() }
    }

    /// The sum of all samples of this name that carry these labels; 0 if there is none (a counter not yet
    /// touched).
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|has| has == value))
        };
        let sum: f64 = self.samples.iter().filter(fits).map(|sample| sample.value).sum();
        assert!(sum >= 0.0 && sum.fract() == 0.0, "{name}{labels:?} is {sum}");
        format!("{}", sum.abs()).parse().expect("a whole number that is not negative")
    }

    /// As `sum`, for a name that must be there: a renamed metric must not read as zero.
    pub fn required(&self, name: &str) -> u64 {
        assert!(self.samples.iter().any(|s| s.name == name), "no metric {name} in:\n{}", self.raw);
        self.sum(name, &[])
    }

    pub fn open(&self) -> u64 {
        self.required("offramp_connections_open")
    }

    pub fn accepted(&self) -> u64 {
        self.required("offramp_connections_accepted_total")
    }

    pub fn buffers_lent(&self) -> u64 {
        self.required("offramp_buffers_lent")
    }

    pub fn operations(&self) -> u64 {
        self.required("offramp_operations_in_flight")
    }

    pub fn handshakes(&self, kind: &str) -> u64 {
        self.sum("offramp_handshakes_total", &[("kind", kind)])
    }

    pub fn offload(&self, direction: &str, path: &str) -> u64 {
        self.sum("offramp_offload_total", &[("direction", direction), ("path", path)])
    }

    /// Counted faults by label, without those that are zero.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        let mut faults = BTreeMap::new();
        for sample in self.samples.iter().filter(|s| s.name == "offramp_faults_total" && s.value > 0.0) {
            let label = sample.labels.get("fault").cloned().unwrap_or_default();
            faults.insert(label.clone(), self.sum("offramp_faults_total", &[("fault", &label)]));
        }
        faults
    }
}

/// `name{label="value",…} number`, or `name number`. Comments and what is not a sample give nothing.
fn parse_line(line: &str) -> Option<Sample> {
    if !line.starts_with("offramp_") {
        return None;
    }
    let (head, value) = line.trim_end().rsplit_once(' ')?;
    let (name, labels) = match head.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (head, ""),
    };
    let labels = labels
        .split(',')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            pair.split_once('=').map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        })
        .collect::<Option<_>>()?;
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

#[test]
fn samples_parse_in_any_label_order_without_comments() {
    let metrics = Metrics::parse(
        "HTTP/1.1 200 OK\r\n\r\n# TYPE offramp_offload counter\n\
         offramp_offload_total{path=\"kernel\",direction=\"tx\"} 3\n\
         offramp_offload_total{direction=\"tx\",path=\"userspace\"} 4\n\
         offramp_faults_total{fault=\"not_tls\"} 2\nofframp_faults_total{fault=\"quiet\"} 0\n\
         offramp_connections_open 5\n# EOF\n",
    );
    assert_eq!(metrics.offload("tx", "kernel"), 3);
    assert_eq!(metrics.offload("rx", "kernel"), 0);
    assert_eq!(metrics.sum("offramp_offload_total", &[]), 7);
    assert_eq!(metrics.open(), 5);
    assert_eq!(metrics.faults(), BTreeMap::from([("not_tls".to_owned(), 2)]));
    assert!(std::panic::catch_unwind(|| metrics.buffers_lent()).is_err(), "an absent metric is not zero");
}
