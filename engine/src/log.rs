//! The log: lines go into a bounded queue, and a thread writes them.
//!
//! Whoever logs never waits for the writer and never fails on it: a disk that is full or a pipe whose reader
//! stands still must not stop a worker. What does not fit into the queue, and what cannot be written, is
//! dropped and counted; the log has a line with the number as soon as it can be written again.
//!
//! Bounds: [`QUEUE_BYTES_MAX`] bytes wait, in lines of at most [`LINE_BYTES_MAX`] bytes. [`Log::finish`]
//! waits at most as long as it is given. The lock of the queue is held while a line is moved, never while one
//! is written.
//!
//! `tracing-appender` was looked at instead: its queue is bounded in lines and not in bytes, it does not
//! report what it dropped, nobody notices that its thread has ended, and it prints with `println!` when its
//! reader stands still at the end.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::metrics::LogCounters;

/// Most bytes that wait to be written.
pub const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// Most bytes in a line; the rest of a longer one is cut off.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// What a line costs in the queue beside its bytes.
const LINE_OVERHEAD: usize = 64;

const CUT: &[u8] = "…\n".as_bytes();

/// A handle of the log; every copy is of the same queue. What is written into it is one line per call, as
/// `tracing_subscriber::fmt` does it.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// There is a line.
    filled: Condvar,
    /// Nothing is left to be written.
    emptied: Condvar,
    counters: Arc<LogCounters>,
    /// The thread has ended.
    is_lost: AtomicBool,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    is_writing: bool,
    /// For the thread, before the next line.
    task: Option<Task>,
}

/// What only the thread that writes can do.
type Task = Box<dyn FnOnce() + Send>;

impl Log {
    /// The log on stderr, through a descriptor of its own: the lock of `std::io::stderr` stays free.
    ///
    /// # Errors
    /// EMFILE: no descriptor; EAGAIN: no thread.
    pub fn to_stderr() -> io::Result<Self> {
        Self::start(File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    /// Starts the thread that writes.
    ///
    /// # Errors
    /// EAGAIN: the system gives no thread.
    pub fn start(writer: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            counters: Arc::default(),
            is_lost: AtomicBool::new(false),
        });
        let theirs = Ending(Arc::clone(&shared));
        thread::Builder::new().name("offramp-log".to_owned()).spawn(move || theirs.0.write_all_to(writer))?;
        Ok(Self(shared))
    }

    /// What was dropped and what could not be written.
    #[must_use]
    pub fn counters(&self) -> Arc<LogCounters> {
        Arc::clone(&self.0.counters)
    }

    /// Whether the thread has ended: nothing is written any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_lost.load(Ordering::Acquire)
    }

    /// Puts a line as it is into the queue, with a newline behind it.
    pub fn say(&self, text: &str) {
        self.0.push(format!("{text}\n").as_bytes());
    }

    /// Has the thread that writes do this, and returns what came of it; none if the thread is lost, or still
    /// writes after `patience`.
    pub fn on_thread<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
        patience: Duration,
    ) -> Option<T> {
        let (done, outcome) = channel();
        // Nobody waits for it any more when it comes too late.
        self.0.lock().task = Some(Box::new(move || drop(done.send(task()))));
        self.0.filled.notify_one();
        outcome.recv_timeout(patience).ok()
    }

    /// Waits until all lines are written, and no longer than `patience`. Whether they are.
    pub fn finish(&self, patience: Duration) -> bool {
        let (queue, _) = self
            .0
            .emptied
            .wait_timeout_while(self.0.lock(), patience, |queue| !queue.is_done() && !self.is_lost())
            .unwrap_or_else(PoisonError::into_inner);
        queue.is_done()
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Write for Log {
    /// Takes all of it, always.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn is_done(&self) -> bool {
        self.lines.is_empty() && !self.is_writing
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let line = bounded(line);
        let cost = line.len() + LINE_OVERHEAD;
        let mut queue = self.lock();
        if self.is_lost.load(Ordering::Acquire) || queue.bytes + cost > QUEUE_BYTES_MAX {
            self.counters.dropped();
            return;
        }
        queue.bytes += cost;
        queue.lines.push_back(line);
        drop(queue);
        self.filled.notify_one();
    }

    /// The next line; waits for it.
    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        queue.is_writing = false;
        loop {
            if let Some(task) = queue.task.take() {
                drop(queue);
                task();
                queue = self.lock();
                continue;
            }
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len() + LINE_OVERHEAD;
                queue.is_writing = true;
                return line;
            }
            self.emptied.notify_all();
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write_all_to(&self, mut writer: impl Write) {
        let mut reported = 0;
        loop {
            let line = self.next();
            let dropped = self.counters.lines_dropped();
            if dropped > reported && writer.write_all(&note(dropped - reported)).is_ok() {
                reported = dropped;
            }
            if writer.write_all(&line).is_err() {
                self.counters.failed();
                self.counters.dropped();
            }
        }
    }
}

/// Notes the end of the thread, also by a panic.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let queue = self.0.lock();
        self.0.is_lost.store(true, Ordering::Release);
        drop(queue);
        self.0.emptied.notify_all();
    }
}

fn bounded(line: &[u8]) -> Vec<u8> {
    if line.len() <= LINE_BYTES_MAX {
        return line.to_vec();
    }
    let room = LINE_BYTES_MAX - CUT.len();
    // A character of UTF-8 begins where no continuation byte is; it has at most three of those.
    let end = (room - 3..=room).rev().find(|&at| line[at] & 0xc0 != 0x80).unwrap_or(room);
    [&line[..end], CUT].concat()
}

fn note(dropped: u64) -> Vec<u8> {
    let mut time = String::new();
    // Without the time the line says the same.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    format!("{time}  WARN log lines were dropped: not written, or not fast enough count={dropped}\n").into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Fails until it is given leave to write; then sends what is written.
    struct Gate(Receiver<()>, Sender<String>);

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.try_recv().map_err(|_| io::Error::from_raw_os_error(libc::ENOSPC))?;
            self.1.send(String::from_utf8_lossy(line).into_owned()).unwrap();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The sum of what the lines about dropped ones say.
    fn reported(text: &[u8]) -> u64 {
        let text = String::from_utf8_lossy(text);
        let counts = text.lines().filter_map(|line| line.split_once("fast enough count="));
        counts.filter_map(|(_, count)| count.parse::<u64>().ok()).sum()
    }

    #[test]
    fn lines_are_written_in_order_and_finish_waits() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let log = Log::start(writer).unwrap();
        for nth in 0..100 {
            log.say(&nth.to_string());
        }
        assert!(log.finish(LONG));
        let expected: String = (0..100).map(|nth| format!("{nth}\n")).collect();
        let mut text = vec![0; expected.len()];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn a_stalled_reader_blocks_nobody_and_is_counted() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let log = Log::start(writer).unwrap();
        let line = "x".repeat(LINE_BYTES_MAX - 1);
        while log.counters().lines_dropped() < 3 {
            log.say(&line);
        }
        assert!(!log.finish(Duration::from_millis(10)), "nobody reads");
        assert!(!log.is_lost());
        let mut text = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        let dropped = log.counters().lines_dropped();
        while reported(&text) < dropped {
            let count = reader.read(&mut chunk).unwrap();
            text.extend_from_slice(&chunk[..count]);
        }
        assert_eq!(reported(&text), dropped);
        assert!(text.len() < 2 * QUEUE_BYTES_MAX, "{} bytes", text.len());
    }

    #[test]
    fn dropped_log_lines_are_counted_and_reported_later() {
        let ((leave, gate), (written, lines)) = (channel(), channel());
        let log = Log::start(Gate(gate, written)).unwrap();
        log.say("one");
        log.say("two");
        assert!(log.finish(LONG));
        assert_eq!((log.counters().lines_dropped(), log.counters().write_errors()), (2, 2));
        leave.send(()).unwrap();
        leave.send(()).unwrap();
        log.say("three");
        assert!(lines.recv().unwrap().ends_with("not fast enough count=2\n"));
        assert_eq!(lines.recv().unwrap(), "three\n");
    }

    #[test]
    fn a_thread_that_panics_is_a_loss_and_blocks_nobody() {
        struct Panics;
        impl Write for Panics {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                panic!("as a test wants it");
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let log = Log::start(Panics).unwrap();
        log.say("one");
        assert!(!log.finish(LONG) && log.is_lost());
        log.say("two");
        assert_eq!(log.counters().lines_dropped(), 1);
    }

    #[test]
    fn a_line_too_long_is_cut_between_characters() {
        let line = bounded("ü".repeat(LINE_BYTES_MAX).as_bytes());
        assert!(line.len() <= LINE_BYTES_MAX && line.len() > LINE_BYTES_MAX - 8);
        assert!(String::from_utf8(line).unwrap().ends_with("ü…\n"));
        assert_eq!(bounded(b"short\n"), b"short\n");
    }
}
