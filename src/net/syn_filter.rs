//! Keeping new handshakes from a listener while its queue is emptied, without any privilege.
//!
//! Closing a listener resets every connection in its accept queue, and every handshake that is half
//! open. So before a listener is closed, new SYNs must no longer reach it, while the ACKs of handshakes
//! under way still do. There are two ways, for two purposes:
//!
//! - [`refuse`] binds the listener to a network device that does not exist. From then on no SYN finds
//!   the listener, and the kernel refuses each one at once (RST). The ACK of a handshake under way finds
//!   its request socket, which is not bound to a device. This can't be taken back: only CAP_NET_RAW may
//!   unbind a socket.
//! - [`SynDropper`] puts a second listener on the same port and lets a classic BPF program choose between
//!   the two: SYNs of networks that are not admitted go to the second one, which drops them
//!   (`IP_MINTTL`); everything else, the ACKs that bring a SYN cookie back included, goes to the first.
//!   Dropping the `SynDropper` takes it back.
//!
//! `SO_ATTACH_FILTER`, which would do both, has needed CAP_NET_ADMIN on TCP sockets since June 2026.
//!
//! # Source
//! Linux `net/core/sock.c` (`sock_bindtoindex_locked`: the first binding of a socket needs no privilege
//! since 5.7, and the index is not looked up), `net/ipv4/inet_hashtables.c` (`compute_score`),
//! `net/core/sock_reuseport.c`, `net/ipv4/tcp_ipv4.c` (`min_ttl`). docs/decisions/syn-filter.md.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::fd::AsFd;

use ipnet::IpNet;

use super::options::FilterInstruction;
use super::{AcceptError, Accepted, Acceptor, BindError, Listener, options};

/// The most networks that can be admitted: with 13 instructions an IPv6 network, 64 of them stay
/// well under the kernel's limit of 4,096 (`BPF_MAXINSNS`).
pub const MAX_ADMITTED: usize = 64;

/// A device that no kernel has: indices are given out from 1 on.
const NO_DEVICE: NonZeroU32 = NonZeroU32::new(i32::MAX.cast_unsigned()).unwrap();

/// How new handshakes are kept from a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum SynFilter {
    /// They are not.
    #[default]
    Off = 0,
    /// The kernel refuses them at once: the listener is bound to a device that does not exist.
    Device = 1,
    /// The kernel drops them: a second listener on the port gets them.
    Reuseport = 2,
    /// The kernel has denied both ways: the queue is emptied without a filter.
    Denied = 3,
}

impl SynFilter {
    /// All of them.
    pub const ALL: [SynFilter; 4] =
        [SynFilter::Off, SynFilter::Device, SynFilter::Reuseport, SynFilter::Denied];

    /// Its name as reports, logs and metrics spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SynFilter::Off => "off",
            SynFilter::Device => "device",
            SynFilter::Reuseport => "reuseport",
            SynFilter::Denied => "denied",
        }
    }
}

/// Lets the kernel refuse new connections to a listener at once. Handshakes under way finish, and what
/// is queued can be accepted. There is no way back but another listener.
///
/// # Errors
/// Those of setsockopt(2): EPERM before Linux 5.7, or where a seccomp profile says so.
pub fn refuse(listener: &Listener) -> io::Result<()> {
    // On Linux the option is one of the socket, whatever the family in the call's name.
    listener.socket().bind_device_by_index_v4(Some(NO_DEVICE))
}

/// Why SYNs can't be dropped.
#[derive(Debug, thiserror::Error)]
pub enum SynDropperError {
    /// No second listener on the port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The kernel denies an option.
    #[error("the kernel denies {option}")]
    Option {
        /// The option's name in socket(7) and ip(7).
        option: &'static str,
        /// What it answered.
        source: io::Error,
    },
}

/// Drops the SYNs of all but the admitted networks, as long as it lives.
#[derive(Debug)]
pub struct SynDropper {
    /// The listener that gets the SYNs. A SYN with the highest TTL there is passes its `IP_MINTTL`.
    acceptor: Acceptor,
}

impl SynDropper {
    /// Begins to drop SYNs to a listener, but for those from `admitted` networks.
    ///
    /// # Errors
    /// When the kernel denies one of the options, or the second listener.
    pub fn new(listener: &Listener, admitted: &[IpNet]) -> Result<Self, SynDropperError> {
        let denied = |option| move |source| SynDropperError::Option { option, source };
        let beside = listener.beside()?;
        options::drop_below_highest_ttl(&beside, listener.local_addr())
            .map_err(denied("IP_MINTTL"))?;
        let acceptor = Acceptor::from(beside.listen()?);
        // The listeners of a port are numbered in the order in which they came: ours is the first.
        options::choose_listener(listener.as_fd(), &program(admitted))
            .map_err(denied("SO_ATTACH_REUSEPORT_CBPF"))?;
        Ok(SynDropper { acceptor })
    }

    /// Waits for a connection that came all the same: its sender is on this link, and its packets have
    /// the highest TTL.
    ///
    /// # Errors
    /// As [`Acceptor::accept`].
    ///
    /// # Cancel safety
    /// Nothing is accepted by a call that was dropped.
    pub async fn accept(&mut self) -> Result<Accepted, AcceptError> {
        self.acceptor.accept().await
    }
}

// linux/bpf_common.h, linux/filter.h
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
/// The listener that serves, by its number in the group.
const SERVE: u32 = 0;
/// The listener that drops.
const DROP: u32 = 1;
/// Offsets from here on count from the IP header.
const NETWORK_HEADER: u32 = 0xfff0_0000;

/// Version 4 with a header of five words: TCP begins at byte 20.
const IPV4_WITHOUT_OPTIONS: u32 = 0x45;
const IPV4_TCP_FLAGS_OFFSET: u32 = 20 + 13;
const IPV4_SOURCE_OFFSET: u32 = 12;
const IPV6_NEXT_HEADER_OFFSET: u32 = 6;
const IPV6_TCP_FLAGS_OFFSET: u32 = 40 + 13;
const IPV6_SOURCE_OFFSET: u32 = 8;
const TCP: u32 = 6;
const SYN: u32 = 0x02;
const SYN_AND_ACK: u32 = 0x12;

/// The program that chooses a listener: bare SYNs from networks that are not admitted go to the one that
/// drops. A packet with IP options or extension headers, whose TCP header is elsewhere, is served.
fn program(admitted: &[IpNet]) -> Vec<FilterInstruction> {
    let (v4, v6): (Vec<_>, Vec<_>) =
        admitted.iter().take(MAX_ADMITTED).partition(|net| net.addr().is_ipv4());
    let v4 = family(v4, &[], IPV4_TCP_FLAGS_OFFSET);
    let next_header = [
        FilterInstruction::new(LOAD_BYTE, 0, 0, NETWORK_HEADER + IPV6_NEXT_HEADER_OFFSET),
        FilterInstruction::new(JUMP_EQUAL, 1, 0, TCP),
        FilterInstruction::new(RETURN, 0, 0, SERVE),
    ];
    let v6 = family(v6, &next_header, IPV6_TCP_FLAGS_OFFSET);
    // The first byte decides which header the source is in; a dual-stack listener gets both.
    let mut program = vec![
        FilterInstruction::new(LOAD_BYTE, 0, 0, NETWORK_HEADER),
        FilterInstruction::new(JUMP_EQUAL, 1, 0, IPV4_WITHOUT_OPTIONS),
        // A plain jump over all of IPv4, for it may be far.
        FilterInstruction::new(JUMP, 0, 0, u32::try_from(v4.len()).unwrap_or(u32::MAX)),
    ];
    program.extend(v4);
    program.extend([
        FilterInstruction::new(AND, 0, 0, 0xf0),
        FilterInstruction::new(JUMP_EQUAL, 1, 0, 0x60),
        FilterInstruction::new(RETURN, 0, 0, SERVE),
    ]);
    program.extend(v6);
    program
}

/// One family's part, which always returns.
fn family(
    admitted: Vec<&IpNet>,
    before: &[FilterInstruction],
    flags_offset: u32,
) -> Vec<FilterInstruction> {
    let mut program = before.to_vec();
    program.extend([
        FilterInstruction::new(LOAD_BYTE, 0, 0, NETWORK_HEADER + flags_offset),
        FilterInstruction::new(AND, 0, 0, SYN_AND_ACK),
        FilterInstruction::new(JUMP_EQUAL, 1, 0, SYN),
        FilterInstruction::new(RETURN, 0, 0, SERVE),
    ]);
    program.extend(admitted.into_iter().flat_map(admit));
    program.push(FilterInstruction::new(RETURN, 0, 0, DROP));
    program
}

/// Returns `SERVE` when the source is in the network, falls through otherwise.
fn admit(net: &IpNet) -> Vec<FilterInstruction> {
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
        program.push(FilterInstruction::new(LOAD_WORD, 0, 0, NETWORK_HEADER + at));
        program.push(FilterInstruction::new(AND, 0, 0, mask));
        program.push(FilterInstruction::new(JUMP_EQUAL, 0, miss, address));
    }
    program.push(FilterInstruction::new(RETURN, 0, 0, SERVE));
    program
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    use socket2::{Domain, Socket, Type};

    use super::super::{Bound, ListenOptions};
    use super::*;

    /// A client whose SYN is dropped hears nothing; this is how long it listens.
    const SILENCE: Duration = Duration::from_millis(200);
    /// For what must come.
    const TIMEOUT: Duration = Duration::from_secs(20);

    fn listener(addr: &str) -> Listener {
        let options = ListenOptions { only_v6: false, user_timeout: Duration::ZERO };
        Bound::new(addr.parse().unwrap(), options).unwrap().listen().unwrap()
    }

    fn connect(from: &str, to: SocketAddr) -> io::Result<TcpStream> {
        let from: IpAddr = from.parse().expect("an address");
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&to.into(), SILENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    fn connects(from: &str, to: SocketAddr) -> bool {
        match connect(from, to) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut, "neither served nor dropped");
                false
            }
        }
    }

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().expect("a network")).collect()
    }

    /// Each kind of listener, and how a client reaches it.
    const FAMILIES: [(&str, &str); 4] = [
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        ("[::]:0", "::1"),
        ("[::]:0", "127.0.0.1"),
    ];

    fn accepted(listener: &Listener) -> TcpStream {
        let accepted = listener.try_accept().expect("accept works").expect("a queued connection");
        let stream = TcpStream::from(accepted.fd);
        stream.set_nonblocking(false).expect("it waits");
        stream
    }

    fn exchange(mut client: &TcpStream, mut server: &TcpStream) {
        for byte in 0..3 {
            client.write_all(&[byte]).expect("written");
            let mut got = [9];
            server.read_exact(&mut got).expect("read");
            server.write_all(&got).expect("written back");
            client.read_exact(&mut got).expect("read back");
            assert_eq!(got, [byte]);
        }
    }

    #[test]
    fn a_refusing_listener_keeps_its_queue_and_the_kernel_refuses_newcomers_at_once() {
        for (address, client) in FAMILIES {
            let listener = listener(address);
            let to = SocketAddr::new(client.parse().unwrap(), listener.local_addr().port());
            let queued = connect(client, to).expect("a connection before");
            refuse(&listener).expect("no privilege is needed");
            let refused = connect(client, to).expect_err("refused");
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{address} {client}");
            exchange(&queued, &accepted(&listener));
            // An undrain: another listener takes the port beside the one that is being emptied.
            let beside = listener.beside().expect("the port").listen().expect("a listener");
            exchange(&connect(client, to).expect("served again"), &accepted(&beside));
            drop(listener);
            exchange(&connect(client, to).expect("still served"), &accepted(&beside));
        }
    }

    #[test]
    fn dropped_syns_spare_the_queue_and_are_let_in_when_the_dropper_is_gone() {
        for (address, client) in FAMILIES {
            let listener = listener(address);
            let to = SocketAddr::new(client.parse().unwrap(), listener.local_addr().port());
            for round in 0..3 {
                let queued = connect(client, to).expect("a connection before");
                let dropper = SynDropper::new(&listener, &[]).expect("no privilege is needed");
                assert!(!connects(client, to), "{address} {client}: round {round}");
                exchange(&queued, &accepted(&listener));
                drop(dropper);
                for _ in 0..16 {
                    exchange(&connect(client, to).expect("let in"), &accepted(&listener));
                }
            }
        }
    }

    #[test]
    fn admitted_networks_come_through() {
        let listener = listener("0.0.0.0:0");
        let port = listener.local_addr().port();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let admitted = nets(&["fd00::/8", "127.0.1.0/24", "127.9.9.9/32"]);
        let dropper = SynDropper::new(&listener, &admitted).expect("a dropper");
        assert!(connects("127.0.1.77", to));
        assert!(connects("127.9.9.9", to));
        assert!(!connects("127.9.9.8", to));
        assert!(!connects("127.0.0.1", to));
        drop(dropper);
        let _dropper = SynDropper::new(&listener, &nets(&["0.0.0.0/0"])).expect("a dropper");
        assert!(connects("127.0.0.1", to));
    }

    #[test]
    fn admitted_networks_of_ipv6_come_through_a_dual_stack_listener() {
        let listener = listener("[::]:0");
        let port = listener.local_addr().port();
        let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port));
        let v4 = SocketAddr::from(([127, 0, 0, 1], port));
        for (admitted, v6_in, v4_in) in [
            (vec!["::1/128"], true, false),
            (vec!["::/64"], true, false),
            (vec!["fd00::/8", "127.0.0.0/8"], false, true),
            (vec!["::2/128"], false, false),
        ] {
            let _dropper = SynDropper::new(&listener, &nets(&admitted)).expect("a dropper");
            assert_eq!(connects("::1", v6), v6_in, "{admitted:?}");
            assert_eq!(connects("127.0.0.1", v4), v4_in, "{admitted:?}");
        }
    }

    #[test]
    fn the_kernel_takes_as_many_networks_as_we_allow() {
        let listener = listener("[::1]:0");
        let many: Vec<IpNet> = (0..MAX_ADMITTED)
            .map(|n| format!("fd00::{n:x}/128").parse().expect("a network"))
            .collect();
        SynDropper::new(&listener, &many).expect("the kernel takes the program");
    }
}
