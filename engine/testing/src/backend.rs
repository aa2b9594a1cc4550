//! Backends on threads: what stands behind the plain leg, each with one manner, each telling what it saw.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use aws_lc_rs::digest;
use socket2::SockRef;

use crate::rng::{Noise, Rng, cut, hex};
use crate::tools::PATIENCE;

/// What a backend does with each connection.
#[derive(Clone, Copy, Debug)]
pub enum BackendBehavior {
    /// Sends everything back; after the end of input, ends its output.
    Echo,
    /// The same, each answer cut into writes by rng.
    EchoCut(u64),
    /// Hashes to the end of input; then answers with the digest in hex and ends.
    Sink,
    /// The same, but does not read before so many milliseconds are over.
    SinkAfter(u64),
    /// Sends everything back; after the end of input this much noise, and ends its output.
    EchoThenSource { seed: u64, bytes: usize },
    /// Ends its output after this much noise, in writes cut by dice; reads to the end as well.
    Source { seed: u64, bytes: usize },
    /// Reads to the end, then sends `LATE_ANSWER` and ends.
    AnswerAfterEnd,
    /// Sends `EARLY_ANSWER` and ends its output at once; then reads to the end.
    EndFirst,
    /// Sends this and ends its output at once; then reads to the end.
    Says(&'static str),
    /// Sends back the PROXY header that comes first, in hexadecimal and as a line; then as `Echo`.
    TakesProxy,
    /// The first byte chooses: `e` echo, `r` reset, `s` silence until the client ends.
    Obedient,
}

pub const LATE_ANSWER: &[u8] = b"the answer to a question that has ended";
pub const EARLY_ANSWER: &[u8] = b"nothing more from this side";

/// What one connection was, seen from the backend.
#[derive(Debug)]
pub struct Seen {
    pub bytes: u64,
    pub sha256: String,
    /// How the input ended.
    pub end: Result<(), io::ErrorKind>,
}

/// A listening backend. Dropped, it stops listening; connections end by themselves.
pub struct Backend {
    pub addr: SocketAddr,
    manner: BackendBehavior,
    listener: Option<Listening>,
    seen: Receiver<Seen>,
    tell: Sender<Seen>,
}

struct Listening {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Backend {
    pub fn start(manner: BackendBehavior) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let (tell, seen) = channel();
        let mut backend = Self { addr, manner, listener: None, seen, tell };
        backend.accept_on(listener);
        backend
    }

    /// Closes the listener: connections are refused, those open stay.
    pub fn refuse(&mut self) {
        if let Some(Listening { stop, thread }) = self.listener.take() {
            stop.store(true, Ordering::Release);
            // Wakes the blocking accept; where that fails, the listener is already gone.
            let _ = TcpStream::connect(self.addr);
            thread.join().expect("accepting does not panic");
        }
    }

    /// Listens again on the same port.
    pub fn resume(&mut self) {
        self.accept_on(TcpListener::bind(self.addr).expect("the port is still ours"));
    }

    /// What the next connection to end had seen.
    pub fn seen(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("a connection at the backend ends")
    }

    fn accept_on(&mut self, listener: TcpListener) {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, manner, tell) = (Arc::clone(&stop), self.manner, self.tell.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let tell = tell.clone();
                // Thousands of these may live at once: small stacks.
                let thread = std::thread::Builder::new().stack_size(128 << 10);
                thread.spawn(move || drop(tell.send(serve(socket, manner)))).expect("a thread");
            }
        });
        self.listener = Some(Listening { stop, thread });
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.refuse();
    }
}

fn serve(socket: TcpStream, manner: BackendBehavior) -> Seen {
    let _ = socket.set_nodelay(true);
    let mut input = Input { socket: &socket, context: digest::Context::new(&digest::SHA256), bytes: 0 };
    let end = converse(&socket, &mut input, manner).map_err(|error| error.kind());
    Seen { bytes: input.bytes, sha256: hex(input.context.finish().as_ref()), end }
}

/// The reading side, which counts and hashes whatever is read through it.
struct Input<'a> {
    socket: &'a TcpStream,
    context: digest::Context,
    bytes: u64,
}

impl Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(into)?;
        self.context.update(&into[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

fn converse(mut socket: &TcpStream, input: &mut Input<'_>, manner: BackendBehavior) -> io::Result<()> {
    match manner {
        BackendBehavior::Echo => echo(socket, input, None),
        BackendBehavior::EchoCut(seed) => echo(socket, input, Some(Rng::with_seed(seed))),
        BackendBehavior::Sink => {
            read_to_end(input)?;
            socket.write_all(hex(input.context.clone().finish().as_ref()).as_bytes())?;
            socket.shutdown(Shutdown::Write)
        }
        BackendBehavior::SinkAfter(milliseconds) => {
            std::thread::sleep(std::time::Duration::from_millis(milliseconds));
            converse(socket, input, BackendBehavior::Sink)
        }
        BackendBehavior::EchoThenSource { seed, bytes } => {
            let mut block = vec![0; 1 << 14];
            loop {
                match input.read(&mut block)? {
                    0 => break,
                    count => socket.write_all(&block[..count])?,
                }
            }
            socket.write_all(&Noise::bytes(seed, bytes))?;
            socket.shutdown(Shutdown::Write)
        }
        BackendBehavior::Source { seed, bytes } => source(socket, input, seed, bytes),
        BackendBehavior::AnswerAfterEnd => {
            read_to_end(input)?;
            socket.write_all(LATE_ANSWER)?;
            socket.shutdown(Shutdown::Write)
        }
        BackendBehavior::TakesProxy => {
            let header = proxy_header(input)?;
            socket.write_all(format!("{}\n", hex(&header)).as_bytes())?;
            echo(socket, input, None)
        }
        BackendBehavior::Says(text) => {
            socket.write_all(text.as_bytes())?;
            socket.shutdown(Shutdown::Write)?;
            read_to_end(input)
        }
        BackendBehavior::EndFirst => {
            socket.write_all(EARLY_ANSWER)?;
            socket.shutdown(Shutdown::Write)?;
            read_to_end(input)
        }
        BackendBehavior::Obedient => {
            let mut order = [0];
            if input.read(&mut order)? == 0 {
                return Ok(());
            }
            match order[0] {
                b'r' => reset(socket),
                b's' => read_to_end(input),
                _ => {
                    socket.write_all(&order)?;
                    echo(socket, input, None)
                }
            }
        }
    }
}

fn echo(mut socket: &TcpStream, input: &mut Input<'_>, mut rng: Option<Rng>) -> io::Result<()> {
    let mut block = vec![0; 1 << 14];
    loop {
        let count = input.read(&mut block)?;
        if count == 0 {
            return socket.shutdown(Shutdown::Write);
        }
        let mut rest = &block[..count];
        while !rest.is_empty() {
            let cut = rng.as_mut().map_or(rest.len(), cut).min(rest.len());
            socket.write_all(&rest[..cut])?;
            rest = &rest[cut..];
        }
    }
}

/// Reads on a second thread, so that neither direction waits for the other.
fn source(mut socket: &TcpStream, input: &mut Input<'_>, seed: u64, bytes: usize) -> io::Result<()> {
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let (mut noise, mut rng) = (Noise::new(seed, bytes as u64), Rng::with_seed(!seed));
            let mut block = vec![0; 40_000];
            loop {
                let count = noise.read(&mut block[..cut(&mut rng)])?;
                if count == 0 {
                    return socket.shutdown(Shutdown::Write);
                }
                socket.write_all(&block[..count])?;
            }
        });
        let read = read_to_end(input);
        writer.join().expect("the writer does not panic").and(read)
    })
}

/// A PROXY header, which nobody has to be believed who sends it here.
fn proxy_header(input: &mut Input<'_>) -> io::Result<Vec<u8>> {
    let mut header = vec![0; 16];
    input.read_exact(&mut header[..12])?;
    if header.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
        input.read_exact(&mut header[12..])?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        header.resize(16 + rest, 0);
        input.read_exact(&mut header[16..])?;
        return Ok(header);
    }
    header.truncate(12);
    while !header.ends_with(b"\n") {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        header.push(byte[0]);
    }
    Ok(header)
}

fn read_to_end(input: &mut Input<'_>) -> io::Result<()> {
    io::copy(input, &mut io::sink()).map(drop)
}

/// Closing with linger 0 sends RST instead of FIN.
fn reset(socket: &TcpStream) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO))
}
