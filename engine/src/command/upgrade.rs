//! `offramp upgrade`: asks the process that runs to have another one take over, and reports what came of it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use offramp::config::limits::{ADMIN_CHANGE_DEADLINE, UPGRADE_DEADLINE};
use offramp::config::{Raw, file};

/// Where to ask.
#[derive(Args)]
pub(crate) struct Upgrade {
    /// The configuration file of the running process, which names its admin address
    #[arg(long, value_name = "FILE", required_unless_present = "admin")]
    config: Option<PathBuf>,
    /// The admin address, where the file does not name it
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

impl Upgrade {
    /// Asks, and waits for the answer.
    pub(crate) fn run(self) -> Result<String, String> {
        let address = self.address()?;
        let answer = ask(address).map_err(|error| {
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

    fn address(&self) -> Result<SocketAddr, String> {
        let Some(path) = self.config.as_deref().filter(|_| self.admin.is_none()) else {
            return self.admin.ok_or_else(|| "neither --config nor --admin was given".to_owned());
        };
        // What does not pass here would not start either.
        let config = file::read(path).and_then(Raw::check).map_err(|error| error.to_string())?;
        config.admin.ok_or_else(|| {
            format!(
                "{}: there is no admin = ADDRESS; try: --admin ADDRESS, or kill -USR2 PID",
                path.display()
            )
        })
    }
}

fn ask(address: SocketAddr) -> io::Result<Vec<u8>> {
    let patience = UPGRADE_DEADLINE + ADMIN_CHANGE_DEADLINE;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"POST /v1/upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}
