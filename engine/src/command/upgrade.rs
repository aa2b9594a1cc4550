//! `offramp upgrade`: asks the process that runs to have another one take over, and reports what came of it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::config::file;
use crate::config::limits::{ADMIN_CHANGE_DEADLINE, UPGRADE_DEADLINE};
use clap::Args;

/// Where to ask.
#[derive(Args)]
pub(super) struct Upgrade {
    /// The configuration file of the running process, of which only admin_socket is read
    #[arg(long, value_name = "FILE", required_unless_present = "admin_socket")]
    config: Option<PathBuf>,
    /// The Unix socket of the admin interface: where the file does not name it, or `serve` was started with
    /// this flag
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
}

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

impl Upgrade {
    /// Asks, and waits for the answer.
    pub(super) fn run(self) -> Result<String, String> {
        let socket = self.socket()?;
        let shown = socket.display();
        let answer = ask(&socket).map_err(|error| {
            format!(
                "{shown} does not answer: {error}; try: --admin-socket PATH if `serve` was started with it, \
                 or kill -USR2 PID and the log"
            )
        })?;
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head.parse(&answer).ok().filter(httparse::Status::is_complete);
        let (Some(httparse::Status::Complete(length)), Some(code)) = (parsed, head.code) else {
            return Err(format!("{shown} gave no answer of HTTP: is it an admin socket?"));
        };
        let text = String::from_utf8_lossy(&answer[length..]).trim_end().to_owned();
        match code {
            200 => Ok(format!("{text}\n")),
            422 => Err(text),
            _ => Err(format!("{shown}: {code}: {text}")),
        }
    }

    fn socket(self) -> Result<PathBuf, String> {
        let Some(path) = self.config.as_deref().filter(|_| self.admin_socket.is_none()) else {
            return self
                .admin_socket
                .ok_or_else(|| "neither --config nor --admin-socket was given".to_owned());
        };
        // Flags of the running process may complete the file: the new process judges it.
        let socket = file::read(path).and_then(|mut raw| raw.admin_socket());
        socket.map_err(|error| error.to_string())?.ok_or_else(|| {
            format!(
                "{}: there is no admin_socket = PATH; try: --admin-socket PATH, or kill -USR2 PID",
                path.display()
            )
        })
    }
}

fn ask(socket: &Path) -> io::Result<Vec<u8>> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(UPGRADE_DEADLINE + ADMIN_CHANGE_DEADLINE))?;
    converse(stream)
}

fn converse(mut stream: impl Read + Write) -> io::Result<Vec<u8>> {
    stream.write_all(b"POST /v1/upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn socket_is_found_in_a_file_that_flags_complete() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("offramp.toml");
        let socket = |text: &str, flag: Option<&str>| {
            fs::write(&file, text).unwrap();
            Upgrade { config: Some(file.clone()), admin_socket: flag.map(PathBuf::from) }.socket()
        };
        assert_eq!(socket("admin_socket = \"/run/a\"\n", None), Ok("/run/a".into()), "without a listener");
        assert_eq!(socket("admin_socket = \"/run/a\"\n", Some("/run/b")), Ok("/run/b".into()));
        let why = socket("workers = 2\n", None).unwrap_err();
        assert!(why.contains("there is no admin_socket = PATH; try: --admin-socket PATH"), "{why}");
        let why = socket("admin_socket = \"unix:/run/a\"\n", None).unwrap_err();
        assert!(why.contains("offramp.toml:1: admin_socket = "), "{why}");
    }
}
