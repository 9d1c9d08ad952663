//! Which connections this process has made itself: one of them that comes in at a listener goes round
//! in a circle.
//!
//! A connection is known by its local address, which is the peer's address where it comes in. What is
//! kept is a bounded table of the last ones: a circle makes one after the other, and the newest is
//! enough to notice it. What the table says is confirmed by the kernel, so that a port that somebody
//! else uses by now accuses nobody.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Socket;
use super::options::addrs_of;

/// Connections that are remembered: 32 KiB, and more than one turn of a worker makes.
const REMEMBERED: usize = 4096;

/// In its lower half the descriptor, in its upper half a part of the address's hash.
static MADE: [AtomicU64; REMEMBERED] = [const { AtomicU64::new(0) }; REMEMBERED];

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Where an address stands in the table, and what stands there of it.
fn place(addr: SocketAddr) -> (&'static AtomicU64, u64) {
    let mut hasher = HASHER.build_hasher();
    match addr.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => hasher.write_u32(ip.to_bits()),
        std::net::IpAddr::V6(ip) => hasher.write_u128(ip.to_bits()),
    }
    hasher.write_u16(addr.port());
    let hash = hasher.finish();
    let index = usize::from(addr.port()) % REMEMBERED;
    // The upper half is never zero, which is what an empty place says.
    (&MADE[index], (hash | 1 << 63) & !u64::from(u32::MAX))
}

/// This process has made a connection, which has this local address.
pub(super) fn remember(socket: impl AsFd, local: SocketAddr) {
    let Ok(fd) = u32::try_from(socket.as_fd().as_raw_fd()) else { return };
    let (place, hash) = place(local);
    place.store(hash | u64::from(fd), Ordering::Release);
}

/// Whether a connection that has come in was made by this process.
#[must_use]
pub fn is_own(client: &Socket, peer: SocketAddr) -> bool {
    let (place, hash) = place(peer);
    let entry = place.load(Ordering::Acquire);
    if entry & !u64::from(u32::MAX) != hash {
        return false;
    }
    let fd = i32::try_from(entry & u64::from(u32::MAX)).unwrap_or(-1);
    let Some(ours) = addrs_of(fd) else { return false };
    let local = client.options().local_addr().ok().and_then(|addr| addr.as_socket());
    // Both, because the kernel gives one port to connections to different addresses.
    local.is_some_and(|local| {
        canonical(ours.0) == canonical(peer) && canonical(ours.1) == canonical(local)
    })
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_was_made_here_is_known_until_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let made = TcpStream::connect(listener.local_addr().expect("its address"));
        let made = made.expect("a connection");
        let (accepted, peer) = listener.accept().expect("it comes in");
        crate::reactor::turn().expect("a worker");
        let accepted = Socket::new(accepted.into()).expect("it is watched");
        assert!(!is_own(&accepted, peer), "nobody has said so");
        remember(&made, made.local_addr().expect("its address"));
        assert!(is_own(&accepted, peer));
        drop(made);
        assert!(!is_own(&accepted, peer), "the port may be somebody else's by now");
    }
}
