//! The SYN gate: a socket filter that keeps new handshakes from a listener while it is emptied.
//!
//! Closing a listener resets every connection in its accept queue. So before it closes, a classic
//! BPF filter drops bare SYNs: handshakes under way finish, what is queued is accepted, and nothing
//! new comes. Removing the filter costs nobody anything: a SYN that was dropped is sent again.
//!
//! # Source
//! Linux `net/ipv4/tcp_ipv4.c`: a listener's filter sees each segment from its TCP header on, and
//! reaches the IP header at `SKF_NET_OFF`. Attaching one needs no privilege (socket(7)).

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use socket2::{SockFilter, SockRef};

/// The most networks that a filter lets in: with 13 instructions an IPv6 network, 64 of them stay
/// well under the kernel's limit of 4,096 (`BPF_MAXINSNS`).
pub const MAX_ADMITTED: usize = 64;

// linux/bpf_common.h, linux/filter.h
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
const KEEP: u32 = u32::MAX;
const DROP: u32 = 0;
/// Offsets from here on count from the IP header.
const NETWORK_HEADER: u32 = 0xfff0_0000;

const TCP_FLAGS_OFFSET: u32 = 13;
const SYN: u32 = 0x02;
const SYN_AND_ACK: u32 = 0x12;
const IPV4_SOURCE_OFFSET: u32 = 12;
const IPV6_SOURCE_OFFSET: u32 = 8;

/// Drops new handshakes on a listener, but for those from `admitted` networks.
///
/// # Errors
/// When the kernel refuses the filter (a seccomp profile, a kernel without socket filters).
pub fn shut(listener: &SockRef<'_>, admitted: &[IpNet]) -> io::Result<()> {
    listener.attach_filter(&program(admitted))
}

/// Lets new handshakes in again.
///
/// # Errors
/// When there is no filter to remove.
pub fn open(listener: &SockRef<'_>) -> io::Result<()> {
    listener.detach_filter()
}

/// The filter: keep all but bare SYNs; of these keep what comes from an admitted network.
fn program(admitted: &[IpNet]) -> Vec<SockFilter> {
    let instruction = SockFilter::new;
    let mut program = vec![
        instruction(LOAD_BYTE, 0, 0, TCP_FLAGS_OFFSET),
        instruction(AND, 0, 0, SYN_AND_ACK),
        instruction(JUMP_EQUAL, 1, 0, SYN),
        instruction(RETURN, 0, 0, KEEP),
    ];
    let (v4, v6): (Vec<_>, Vec<_>) =
        admitted.iter().take(MAX_ADMITTED).partition(|net| net.addr().is_ipv4());
    let v4: Vec<_> = v4.into_iter().flat_map(admit).collect();
    let v6 = v6.into_iter().flat_map(admit);
    // The version decides which header the source stands in; a dual-stack listener sees both.
    program.push(instruction(LOAD_BYTE, 0, 0, NETWORK_HEADER));
    program.push(instruction(AND, 0, 0, 0xf0));
    program.push(instruction(JUMP_EQUAL, 0, 1, 0x40));
    program.push(instruction(JUMP, 0, 0, 1));
    // Not IPv4: over its checks and the return behind them. A plain jump, for it may be far.
    let over = u32::try_from(v4.len() + 1).unwrap_or(u32::MAX);
    program.push(instruction(JUMP, 0, 0, over));
    program.extend(v4);
    program.push(instruction(RETURN, 0, 0, DROP));
    program.extend(v6);
    program.push(instruction(RETURN, 0, 0, DROP));
    program
}

/// Returns `KEEP` when the source is in the network, falls through otherwise.
fn admit(net: &IpNet) -> Vec<SockFilter> {
    let (offset, address, mask) = match (net.network(), net.netmask()) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => {
            (IPV4_SOURCE_OFFSET, address.octets().to_vec(), mask.octets().to_vec())
        }
        (IpAddr::V6(address), IpAddr::V6(mask)) => {
            (IPV6_SOURCE_OFFSET, address.octets().to_vec(), mask.octets().to_vec())
        }
        _ => return Vec::new(),
    };
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    // Words whose mask is zero always match; the first one is kept so that /0 has something to load.
    let words: Vec<(u32, u32, u32)> = (0u32..)
        .step_by(4)
        .zip(address.chunks(4).zip(mask.chunks(4)))
        .map(|(at, (address, mask))| (offset + at, word(address), word(mask)))
        .filter(|(at, _, mask)| *mask != 0 || *at == offset)
        .collect();
    let count = words.len();
    let mut program = Vec::with_capacity(count * 3 + 1);
    for (index, (at, address, mask)) in words.into_iter().enumerate() {
        // On a mismatch: over the words that are left and the return behind them.
        let miss = u8::try_from((count - index - 1) * 3 + 1).unwrap_or(u8::MAX);
        program.push(SockFilter::new(LOAD_WORD, 0, 0, NETWORK_HEADER + at));
        program.push(SockFilter::new(AND, 0, 0, mask));
        program.push(SockFilter::new(JUMP_EQUAL, 0, miss, address));
    }
    program.push(SockFilter::new(RETURN, 0, 0, KEEP));
    program
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// A client whose SYN is dropped hears nothing; this is how long it listens.
    const SILENCE: Duration = Duration::from_millis(200);

    fn connects(from: &str, to: SocketAddr) -> bool {
        let from: IpAddr = from.parse().expect("an address");
        let socket =
            Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a client socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("a local address");
        socket.connect_timeout(&to.into(), SILENCE).is_ok()
    }

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().expect("a network")).collect()
    }

    #[test]
    fn a_shut_gate_keeps_what_is_queued_and_an_open_one_lets_in_again() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a listener");
            let addr = listener.local_addr().expect("its address");
            let queued = TcpStream::connect(addr).expect("a connection before the gate");
            let gate = SockRef::from(&listener);
            shut(&gate, &[]).expect("the kernel takes the filter");
            assert!(!connects(&addr.ip().to_string(), addr), "{addr}: came through a shut gate");
            let (_, peer) = listener.accept().expect("the queued connection");
            assert_eq!(peer, queued.local_addr().expect("its address"));
            open(&gate).expect("the filter comes off");
            assert!(connects(&addr.ip().to_string(), addr), "{addr}: an open gate refused");
        }
    }

    #[test]
    fn admitted_networks_come_through() {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a listener");
        let port = listener.local_addr().expect("its address").port();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let gate = SockRef::from(&listener);
        shut(&gate, &nets(&["fd00::/8", "127.0.1.0/24", "127.9.9.9/32"])).expect("a filter");
        assert!(connects("127.0.1.77", to));
        assert!(connects("127.9.9.9", to));
        assert!(!connects("127.9.9.8", to));
        assert!(!connects("127.0.0.1", to));
        shut(&gate, &nets(&["0.0.0.0/0"])).expect("a filter");
        assert!(connects("127.0.0.1", to));
    }

    #[test]
    fn admitted_networks_of_ipv6_come_through_a_dual_stack_listener() {
        let listener = TcpListener::bind("[::]:0").expect("a listener");
        let port = listener.local_addr().expect("its address").port();
        let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port));
        let v4 = SocketAddr::from(([127, 0, 0, 1], port));
        let gate = SockRef::from(&listener);
        for (admitted, v6_in, v4_in) in [
            (vec!["::1/128"], true, false),
            (vec!["::/64"], true, false),
            (vec!["fd00::/8", "127.0.0.0/8"], false, true),
            (vec!["::2/128"], false, false),
        ] {
            shut(&gate, &nets(&admitted)).expect("a filter");
            assert_eq!(connects("::1", v6), v6_in, "{admitted:?}");
            assert_eq!(connects("127.0.0.1", v4), v4_in, "{admitted:?}");
        }
    }

    #[test]
    fn the_kernel_takes_as_many_networks_as_we_allow() {
        let listener = TcpListener::bind("[::1]:0").expect("a listener");
        let many: Vec<IpNet> = (0..MAX_ADMITTED)
            .map(|n| format!("fd00::{n:x}/128").parse().expect("a network"))
            .collect();
        shut(&SockRef::from(&listener), &many).expect("the kernel takes the filter");
    }
}
