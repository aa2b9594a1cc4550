//! What is cancelled, what is waited for, and what is refused.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use super::*;

const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));

fn ring() -> (Ring<u8>, Bufs) {
    (Ring::restricted().expect("io_uring, without which there is no engine"), Bufs::new(8))
}

fn wait(ring: &mut Ring<u8>, bufs: &mut Bufs) -> Completion<u8> {
    ring.wait(bufs, PATIENCE).unwrap();
    ring.next_completion().expect("an operation is complete")
}

#[test]
fn cancel_by_id_spares_a_later_operation_in_the_slot() {
    let (mut ring, mut bufs) = ring();
    let (near, mut far) = UnixStream::pair().unwrap();
    let early = ring.receive(near.as_fd(), 16, false, 1);
    far.write_all(b"x").unwrap();
    let first = wait(&mut ring, &mut bufs);
    assert!(matches!(first.outcome, Outcome::Received { count: 1, .. }), "{first:?}");

    let late = ring.receive(near.as_fd(), 16, false, 2);
    assert_ne!(early, late);
    ring.cancel(early);
    ring.wait(&mut bufs, Some(Duration::ZERO)).unwrap();
    assert!(ring.next_completion().is_none(), "the second receive is none of the first one's business");

    ring.cancel(late);
    let second = wait(&mut ring, &mut bufs);
    assert_eq!(second.user_data, 2);
    assert!(matches!(second.outcome, Outcome::Failed { errno: libc::ECANCELED, .. }), "{second:?}");
}

#[test]
fn cancel_all_ends_only_operations_of_that_socket() {
    let (mut ring, mut bufs) = ring();
    let (near, _far) = UnixStream::pair().unwrap();
    let (other, mut other_far) = UnixStream::pair().unwrap();
    ring.receive(near.as_fd(), 16, false, 1);
    ring.receive(other.as_fd(), 16, false, 2);
    ring.cancel_all(near.as_fd());
    let first = wait(&mut ring, &mut bufs);
    assert_eq!(first.user_data, 1);
    assert!(matches!(first.outcome, Outcome::Failed { errno: libc::ECANCELED, .. }), "{first:?}");
    other_far.write_all(b"x").unwrap();
    let second = wait(&mut ring, &mut bufs);
    assert!(matches!(second.outcome, Outcome::Received { count: 1, .. }), "{second:?}");
}

/// Whoever has no room for a connection waits for what makes room, and does not poll for it.
#[test]
fn wait_waits_while_only_an_accept_is_to_be_taken() {
    let (mut ring, mut bufs) = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ring.accept_one(listener.as_fd(), 1);
    ring.wait(&mut bufs, PATIENCE).unwrap();
    assert_eq!(ring.accepts_waiting(), 1);
    let (near, mut far) = UnixStream::pair().unwrap();
    ring.receive(near.as_fd(), 16, false, 2);
    let writer = thread::spawn(move || {
        // So that a wait that does not wait is over first.
        thread::park_timeout(Duration::from_millis(50));
        far.write_all(b"x").unwrap();
        far
    });
    ring.wait(&mut bufs, PATIENCE).unwrap();
    let received = ring.next_transfer().expect("it has waited for this");
    assert_eq!(received.user_data, 2);
    writer.join().unwrap();
    let accepted = ring.next_accept().expect("it is still there");
    assert!(matches!(accepted.outcome, Outcome::Accepted { socket: Ok(_), .. }), "{accepted:?}");
}

#[test]
fn accept_with_a_wrong_descriptor_goes_on() {
    for more in [true, false] {
        let outcome = accepted(libc::STDERR_FILENO, more);
        let Outcome::Accepted { socket: Err(libc::EBADF), more: goes_on } = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(goes_on, more);
    }
}

#[test]
fn restricted_ring_refuses_what_is_not_on_the_list() {
    let (mut ring, mut bufs) = ring();
    for flags in [squeue::Flags::empty(), squeue::Flags::ASYNC] {
        let path = c"/etc/passwd";
        let entry = match flags.is_empty() {
            true => opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build(),
            false => opcode::Close::new(types::Fd(-1)).build().flags(flags),
        };
        ring.start(1, Held::Accept, entry);
        let refused = wait(&mut ring, &mut bufs);
        let is_refused =
            matches!(refused.outcome, Outcome::Accepted { socket: Err(libc::EACCES), more: false });
        assert!(is_refused, "{refused:?}");
    }
    let more = ring.uring.submitter().register_eventfd(0).expect_err("a registration");
    assert_eq!(more.raw_os_error(), Some(libc::EACCES));
}
