//! Which user is at the other end of a connection on this host, as the kernel lists it (Linux,
//! `Documentation/networking/proc_net_tcp.rst`).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

/// A connection of the admin address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    /// Of the socket at our end.
    pub(super) inode: u64,
}

/// A socket as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    user: u32,
    /// 0 once its process has closed it, and then the user is root, whoever that was.
    inode: u64,
}

const ROOT: u32 = 0;

/// Longer lines are none of such a table.
const LINE_BYTES_MAX: u64 = 512;

/// The inode of a socket of this process.
pub(super) fn inode(socket: RawFd) -> io::Result<u64> {
    let link = std::fs::read_link(format!("/proc/self/fd/{socket}"))?;
    let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
    inode.and_then(|inode| inode.parse().ok()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

impl Sender {
    /// Whether the client is another process, of root or of the user that runs this one: who may send SIGHUP.
    /// A connection of our own would be one to a backend, for a client from anywhere. Waits for the kernel to
    /// list all of its connections.
    pub(super) fn may_change(&self) -> io::Result<bool> {
        match self.client_of_privilege()? {
            Some(inode) => Ok(!is_of_this_process(inode)?),
            None => Ok(false),
        }
    }

    /// The inode of the client's socket, if the client is root or the user that runs this process.
    fn client_of_privilege(&self) -> io::Result<Option<u64>> {
        let before = self.ends()?;
        let [Some(client), Some(server)] = before else { return Ok(None) };
        // No other connection has the same addresses while ours is listed. A client that is open afterwards
        // was open, and had its user, when it was listed before.
        let is_ours = server.inode == self.inode && client.inode != 0 && self.ends()? == before;
        let is_privileged = is_ours && (client.user == ROOT || Some(client.user) == effective_user()?);
        Ok(is_privileged.then_some(client.inode))
    }

    /// The client's end and ours.
    fn ends(&self) -> io::Result<[Option<Listed>; 2]> {
        let mut found = [None; 2];
        let ways = [(self.client, self.server), (self.server, self.client)];
        let wanted = ways.map(|(local, remote)| (forms(local), forms(remote)));
        for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            let Ok(file) = File::open(table) else { continue };
            let mut lines = BufReader::new(file);
            let mut line = String::new();
            while lines.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? > 0 {
                let words: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
                if let [_, local, remote, _, _, _, _, user, _, inode] = *words {
                    let is_way = |(here, there): &(Vec<String>, Vec<String>)| {
                        here.iter().any(|it| it == local) && there.iter().any(|it| it == remote)
                    };
                    if let Some(way) = wanted.iter().position(is_way) {
                        let listed = user.parse().ok().zip(inode.parse().ok());
                        found[way] = listed.map(|(user, inode)| Listed { user, inode });
                    }
                }
                line.clear();
            }
        }
        Ok(found)
    }
}

/// An address as the tables write it; one of IPv4 may be that of a socket of IPv6 too.
fn forms(address: SocketAddr) -> Vec<String> {
    let word = |bytes: &[u8; 4]| format!("{:08X}", u32::from_ne_bytes(*bytes));
    let long = |octets: [u8; 16]| octets.as_chunks().0.iter().map(word).collect::<String>();
    let addresses = match address.ip() {
        IpAddr::V4(ip) => vec![word(&ip.octets()), long(ip.to_ipv6_mapped().octets())],
        IpAddr::V6(ip) => vec![long(ip.octets())],
    };
    addresses.into_iter().map(|it| format!("{it}:{:04X}", address.port())).collect()
}

/// Whether a descriptor of this process is that socket.
fn is_of_this_process(inode: u64) -> io::Result<bool> {
    let wanted = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // One that was closed since is none of a connection that lasts.
        if std::fs::read_link(entry?.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn effective_user() -> io::Result<Option<u32>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    // Real, effective, saved, of the file system.
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(users.and_then(|users| users.split_ascii_whitespace().nth(1)?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;
    use crate::sys::socket;

    fn inode(stream: &TcpStream) -> u64 {
        super::inode(stream.as_raw_fd()).unwrap()
    }

    #[test]
    fn sender_is_the_user_whose_socket_it_is() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let server = listener.local_addr().unwrap();
            let theirs = TcpStream::connect(server).unwrap();
            let (ours, client) = listener.accept().unwrap();
            let sender = Sender { client, server, inode: inode(&ours) };
            assert_eq!(sender.client_of_privilege().unwrap(), Some(inode(&theirs)), "{address}: this user");
            assert!(!sender.may_change().unwrap(), "{address}: it is this process");
            let [Some(listed), Some(own)] = sender.ends().unwrap() else { panic!("both are listed") };
            assert_eq!((listed.user, own.user), (effective_user().unwrap().unwrap(), listed.user));
            assert_eq!(listed.inode, inode(&theirs));
            let other = Sender { inode: sender.inode + 1, ..sender };
            let found = other.client_of_privilege().unwrap();
            assert_eq!(found, None, "{address}: it is another connection's end");
            drop(theirs);
            assert!(!sender.may_change().unwrap(), "{address}: who has closed it may be anybody");
        }
    }

    #[test]
    fn sender_that_has_reset_is_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, client) = listener.accept().unwrap();
        let sender = Sender { client, server: listener.local_addr().unwrap(), inode: inode(&ours) };
        socket::abort_on_close(theirs.as_fd()).unwrap();
        drop(theirs);
        assert_eq!(sender.ends().unwrap(), [None, None]);
        assert!(!sender.may_change().unwrap());
    }

    #[test]
    fn addresses_are_written_as_the_kernel_writes_them() {
        let little = cfg!(target_endian = "little");
        let written = forms("127.0.0.1:80".parse().unwrap());
        assert_eq!(written[0], if little { "0100007F:0050" } else { "7F000001:0050" });
        assert!(!little || written[1] == "0000000000000000FFFF00000100007F:0050");
    }
}
