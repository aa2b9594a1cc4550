//! `offramp upgrade`: asks the process that runs to have another one take over, and reports what came of it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use offramp::config::limits::{ADMIN_CHANGE_DEADLINE, UPGRADE_DEADLINE};
use offramp::config::{Raw, file};
use offramp::sys::socket::Address;

/// Where to ask.
#[derive(Args)]
pub(crate) struct Upgrade {
    /// The configuration file of the running process, which names its admin address
    #[arg(long, value_name = "FILE", required_unless_present = "admin")]
    config: Option<PathBuf>,
    /// The admin address, where the file does not name it
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    admin: Option<Address>,
}

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

impl Upgrade {
    /// Asks, and waits for the answer.
    pub(crate) fn run(self) -> Result<String, String> {
        let address = self.address()?;
        let answer = ask(&address).map_err(|error| {
            format!(
                "the admin address {address} does not answer: {error}; try: --admin ADDRESS, or kill -USR2 \
                 PID and the log"
            )
        })?;
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head.parse(&answer).ok().filter(httparse::Status::is_complete);
        let (Some(httparse::Status::Complete(length)), Some(code)) = (parsed, head.code) else {
            return Err(format!("{address} gave no answer of HTTP: is it an admin address?"));
        };
        let text = String::from_utf8_lossy(&answer[length..]).trim_end().to_owned();
        match code {
            200 => Ok(format!("{text}\n")),
            422 => Err(text),
            _ => Err(format!("{address}: {code}: {text}")),
        }
    }

    fn address(&self) -> Result<Address, String> {
        let Some(path) = self.config.as_deref().filter(|_| self.admin.is_none()) else {
            return self.admin.clone().ok_or_else(|| "neither --config nor --admin was given".to_owned());
        };
        // What does not pass here would not start either.
        let config = file::read(path).and_then(Raw::check).map_err(|error| error.to_string())?;
        config.admin.map(Address::Tcp).ok_or_else(|| {
            format!(
                "{}: there is no admin = ADDRESS; try: --admin ADDRESS, or kill -USR2 PID",
                path.display()
            )
        })
    }
}

fn ask(address: &Address) -> io::Result<Vec<u8>> {
    let patience = Some(UPGRADE_DEADLINE + ADMIN_CHANGE_DEADLINE);
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, Duration::from_secs(5))?;
            stream.set_read_timeout(patience)?;
            converse(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(patience)?;
            converse(stream)
        }
    }
}

fn converse(mut stream: impl Read + Write) -> io::Result<Vec<u8>> {
    stream.write_all(b"POST /v1/upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// `unix:PATH`, or an IP address and a port.
fn address(text: &str) -> Result<Address, String> {
    match text.strip_prefix("unix:") {
        Some(path) => Ok(Address::Unix(path.into())),
        None => text.parse().map(Address::Tcp).map_err(|_| {
            "allowed is an IP address and a port, such as 127.0.0.1:9100, or unix:PATH".to_owned()
        }),
    }
}
