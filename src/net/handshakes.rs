//! Handshakes that the kernel has under way for a listener: who waits for them, and how many a close cuts.

use std::net::SocketAddr;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// How many handshakes on a port are half open: the SYN has come, the ACK that ends the handshake has not.
/// A listener's queue does not count them, and closing the listener cuts them. `None` when the kernel does
/// not tell.
///
/// # Source
/// sock_diag(7), linux/inet_diag.h. A dump shows the sockets of the own network namespace to everybody.
#[must_use]
pub fn half_open(listener: SocketAddr) -> Option<u32> {
    let families: &[AddressFamily] = match listener {
        SocketAddr::V4(_) => &[AddressFamily::INET],
        // A dual-stack listener has handshakes of both.
        SocketAddr::V6(_) => &[AddressFamily::INET, AddressFamily::INET6],
    };
    families.iter().map(|family| count(*family, listener.port()).ok()).sum()
}

/// SYN cookies that this network namespace has sent so far; `None` when the kernel does not tell. A
/// handshake with a cookie is nowhere counted until its ACK has come.
///
/// # Source
/// Linux `net/ipv4/proc.c`: a line of names and a line of values in `/proc/net/netstat`.
#[must_use]
pub fn cookies_sent() -> Option<u64> {
    let netstat = std::fs::read_to_string("/proc/net/netstat").ok()?;
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "SyncookiesSent")?.1.parse().ok()
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x1 | 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = NLMSG_HEADER_BYTES + 56;
const IPPROTO_TCP: u8 = 6;
const TCP_SYN_RECV: u32 = 3;
/// Of `inet_diag_msg`: family, state, timer, retransmissions, and then the port in network order.
const SOURCE_PORT_OFFSET: usize = NLMSG_HEADER_BYTES + 4;
/// What the kernel makes of a dump at a time (NLMSG_GOODSIZE is at most 8 KiB), twice over.
const BUFFER_BYTES: usize = 16 * 1024;

/// Counts the sockets in SYN_RECV of one family and one local port.
fn count(family: AddressFamily, port: u16) -> Result<u32, Errno> {
    let kernel = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&kernel, &request(family, port), SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut found = 0;
    loop {
        // The kernel has put its answer into our queue before it returned from send(2) or recv(2).
        let (_, length) = recv(&kernel, buffer.as_mut_slice(), RecvFlags::DONTWAIT)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some(message) = take_message(&mut rest) {
            match message.kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(Errno::NOTSUP),
                _ => found += u32::from(message.source_port == Some(port)),
            }
        }
    }
}

/// The request for a dump: `nlmsghdr` and `inet_diag_req_v2`.
fn request(family: AddressFamily, port: u16) -> [u8; REQUEST_BYTES] {
    let mut request = [0; REQUEST_BYTES];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = request.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, &u32::try_from(REQUEST_BYTES).unwrap_or(0).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST_DUMP.to_ne_bytes());
    let family = u8::try_from(family.as_raw()).unwrap_or(0);
    put(NLMSG_HEADER_BYTES, &[family, IPPROTO_TCP]);
    put(NLMSG_HEADER_BYTES + 4, &(1_u32 << TCP_SYN_RECV).to_ne_bytes());
    put(NLMSG_HEADER_BYTES + 8, &port.to_be_bytes());
    request
}

struct Message {
    kind: u16,
    source_port: Option<u16>,
}

/// Takes the next netlink message from the front. `None` at the end, and where a length can't be right.
fn take_message(bytes: &mut &[u8]) -> Option<Message> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?);
    let length = usize::try_from(length).ok()?;
    let message = bytes.get(..length).filter(|_| length >= NLMSG_HEADER_BYTES)?;
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let source_port = message
        .get(SOURCE_PORT_OFFSET..)
        .and_then(<[u8]>::first_chunk)
        .map(|port| u16::from_be_bytes(*port));
    // Messages begin at multiples of four.
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(Message { kind, source_port })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_finished_handshake_is_not_half_open() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a listener");
            let addr = listener.local_addr().expect("its address");
            let _queued = TcpStream::connect(addr).expect("a connection");
            assert_eq!(half_open(addr), Some(0), "{address}");
        }
    }

    #[test]
    fn the_kernel_tells_how_many_cookies_it_sent() {
        assert!(cookies_sent().is_some());
    }

    #[test]
    fn what_is_no_message_ends_the_reading() {
        for bytes in [&[][..], &[1, 0, 0, 0], &[16, 0, 0, 0], &[0; 64], &[255; 64]] {
            let mut rest = bytes;
            assert!(take_message(&mut rest).is_none(), "{bytes:?}");
        }
    }
}
