//! What is cancelled, and what is not.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

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
fn the_name_of_an_operation_cancels_it_and_none_that_has_its_place_later() {
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
fn all_that_is_in_flight_on_a_socket_is_cancelled_and_nothing_else() {
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
        assert!(matches!(refused.outcome, Outcome::Failed { errno: libc::EACCES, .. }), "{refused:?}");
    }
    let more = ring.uring.submitter().register_eventfd(0).expect_err("a registration");
    assert_eq!(more.raw_os_error(), Some(libc::EACCES));
}
