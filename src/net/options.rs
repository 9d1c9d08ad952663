//! Socket options, limits and signals of the process; the one file with unsafe code.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockRef, TcpKeepalive};

/// Keep-alive probes: when the first is sent, how far apart, and how many go unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes after which the peer is dead.
    pub probes: u32,
}

impl KeepAlive {
    /// How long a dead peer has been silent when it is found.
    #[must_use]
    pub fn dead_after(self) -> Duration {
        self.idle + self.interval * self.probes
    }
}

/// While serving: a dead peer is found after two minutes, or when the listener's `TCP_USER_TIMEOUT` is
/// over: that option, if it is set, takes the place of the number of probes (tcp(7)).
///
/// # Source
/// docs/defaults.md; without probes a half-closed or crashed client pins a drain (linkerd2#8033).
pub const SERVING: KeepAlive =
    KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(15), probes: 4 };

/// While draining: half a minute, because a dead peer now holds up the whole pod.
pub const DRAINING: KeepAlive =
    KeepAlive { idle: Duration::from_secs(15), interval: Duration::from_secs(5), probes: 3 };

/// Sets the keep-alive probes. On a listener, the connections that it accepts inherit them.
///
/// # Errors
/// Those of setsockopt(2); a Unix socket has no such options.
pub fn set_keep_alive(socket: &SockRef<'_>, keep_alive: KeepAlive) -> io::Result<()> {
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(keep_alive.idle)
            .with_interval(keep_alive.interval)
            .with_retries(keep_alive.probes),
    )
}

/// Bytes that were written and that the peer has not acknowledged, its FIN counted as one.
///
/// # Errors
/// Those of ioctl(2).
///
/// # Source
/// tcp(7), SIOCOUTQ.
#[expect(unsafe_code, reason = "no crate has a safe wrapper of SIOCOUTQ")]
pub fn unacknowledged_bytes(socket: impl AsFd) -> io::Result<usize> {
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: SIOCOUTQ writes one C int through its argument, and that is the type given.
    let getter = unsafe { rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new() };
    // SAFETY: the descriptor is open for the call, and the request only reads its queue's length.
    let bytes = unsafe { rustix::ioctl::ioctl(socket, getter) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// One instruction of a classic BPF program, `struct sock_filter` of linux/filter.h.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FilterInstruction {
    code: u16,
    jump_if_true: u8,
    jump_if_false: u8,
    operand: u32,
}

impl FilterInstruction {
    /// An instruction with its two relative jumps and its operand.
    #[must_use]
    pub fn new(code: u16, jump_if_true: u8, jump_if_false: u8, operand: u32) -> Self {
        FilterInstruction { code, jump_if_true, jump_if_false, operand }
    }
}

/// Lets a program choose which listener of the port gets a handshake, by its number.
///
/// # Errors
/// Those of setsockopt(2): EINVAL while there is only one listener on the port.
///
/// # Source
/// socket(7), SO_ATTACH_REUSEPORT_CBPF.
#[expect(unsafe_code, reason = "no crate has a safe wrapper of SO_ATTACH_REUSEPORT_CBPF")]
pub fn choose_listener(listener: impl AsFd, program: &[FilterInstruction]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const FilterInstruction,
    }
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: `Program` is `struct sock_fprog`, and its instructions outlive the call, which copies them.
    unsafe { set_option(listener, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program) }
}

/// Lets a listener drop every SYN whose TTL or hop limit has been lowered on its way, or began lower than
/// 255, which is what all common systems do.
///
/// # Errors
/// Those of setsockopt(2).
///
/// # Source
/// ip(7), IP_MINTTL; linux/in6.h, IPV6_MINHOPCOUNT; RFC 5082.
#[expect(unsafe_code, reason = "no crate has a safe wrapper of IP_MINTTL")]
pub fn drop_below_highest_ttl(listener: impl AsFd, addr: SocketAddr) -> io::Result<()> {
    const IPV6_MINHOPCOUNT: libc::c_int = 73;
    let highest: libc::c_int = 255;
    let listener = listener.as_fd();
    // SAFETY: both options take a C int.
    unsafe {
        // A dual-stack socket takes IPv4's option too, for its IPv4 packets.
        set_option(listener, libc::IPPROTO_IP, libc::IP_MINTTL, &highest)?;
        if addr.is_ipv6() {
            set_option(listener, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &highest)?;
        }
    }
    Ok(())
}

/// Sets an option.
///
/// # Safety
/// The option must take a value of this type.
#[expect(unsafe_code, reason = "for options that neither socket2 nor rustix knows")]
unsafe fn set_option<T>(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads at most `length` bytes of `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(socket, level, option, std::ptr::from_ref(value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the soft limit on descriptors to the hard one and returns it.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused or not, what counts is the limit that then holds.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Finished handshakes that wait in a listener's accept queue.
///
/// # Errors
/// Those of getsockopt(2).
///
/// # Source
/// Linux `tcp_get_info`: for a listening socket `tcpi_unacked` is the length of its queue.
pub fn accept_queue_length(listener: impl AsFd) -> io::Result<u32> {
    Ok(tcp_info(listener)?.tcpi_unacked)
}

/// Where a TCP connection stands, as far as our kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpStanding {
    /// Both sides are open.
    Open,
    /// The peer's FIN has come, ours may have gone.
    PeerEnded,
    /// It is over: both FINs are acknowledged, or a reset has come.
    Closed,
    /// Anything else.
    Other,
}

/// Where a TCP connection stands, and how many bytes its peer has acknowledged so far, with our SYN
/// and our FIN one each.
///
/// # Errors
/// Those of getsockopt(2); a socket that is no TCP has no such thing.
///
/// # Source
/// Linux `tcp_get_info`, include/net/tcp_states.h; RFC 4898, tcpEStatsAppHCThruOctetsAcked.
pub fn tcp_progress(socket: impl AsFd) -> io::Result<(TcpStanding, u64)> {
    let info = tcp_info(socket)?;
    let standing = match info.tcpi_state {
        1 => TcpStanding::Open,
        7 => TcpStanding::Closed,
        8 | 9 => TcpStanding::PeerEnded,
        _ => TcpStanding::Other,
    };
    Ok((standing, info.tcpi_bytes_acked))
}

#[expect(unsafe_code, reason = "no crate has a safe wrapper of TCP_INFO")]
fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: tcp_info is a plain C struct of integers; all zeroes is a value of it.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes into `info`, both of which outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// Makes this process one that may set the terminal's foreground group from the background. What it starts
/// later inherits that.
///
/// # Source
/// tcsetpgrp(3): SIGTTOU is sent to a background process that calls it, unless it ignores or blocks that signal.
#[expect(unsafe_code, reason = "neither std nor rustix sets a signal's disposition")]
pub fn ignore_terminal_stop() {
    // SAFETY: no handler runs, so nothing can be called in a signal's context; the call has no other
    // precondition, and its only failure is an unknown signal number.
    let _before = unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
}

/// Allocations from here on are mapped one by one, so that each goes back to the kernel when it is freed.
///
/// Above every buffer of the hot path and every head of the usual size; below the 64 KiB that a head may grow to,
/// of which an attacker can have us hold thousands.
const MAPPED_BYTES: std::ffi::c_int = 32 * 1024;

/// Has the allocator give large pieces back to the kernel at once, and never adapt to a few that came early.
///
/// To be called before there are threads. Without it the largest piece that was ever freed decides from which
/// size on pieces are mapped, and what lies below them in the heap is kept.
///
/// # Source
/// mallopt(3), `M_MMAP_THRESHOLD`: the C library's own rule is dynamic.
#[expect(unsafe_code, reason = "no crate has a safe wrapper of mallopt")]
pub fn give_memory_back() {
    // SAFETY: the call sets a number of the allocator under its lock. It fails only for a value that is out of
    // range, which then leaves the allocator as it was.
    #[cfg(target_env = "gnu")]
    let _refused = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES) };
}

/// Lets a socket be bound to an address without a port, which its connect then chooses: the same
/// port serves connections to different addresses.
///
/// # Errors
/// Those of setsockopt(2).
///
/// # Source
/// ip(7), IP_BIND_ADDRESS_NO_PORT.
#[expect(unsafe_code, reason = "no crate has a safe wrapper of IP_BIND_ADDRESS_NO_PORT")]
pub fn bind_without_port(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the kernel reads `length` bytes of `on`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The local address and the peer's of whatever a descriptor's number stands for now, if that is a
/// connected socket.
#[expect(
    unsafe_code,
    reason = "the number may have been closed meanwhile, which no owned type allows"
)]
pub(super) fn addrs_of(fd: i32) -> Option<(std::net::SocketAddr, std::net::SocketAddr)> {
    if fd < 0 {
        return None;
    }
    // SAFETY: it is used for getsockname(2) and getpeername(2) alone, which answer EBADF or ENOTSOCK
    // for a number that is closed or no socket, and change nothing of one that is another's by now.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let socket = SockRef::from(&fd);
    Some((socket.local_addr().ok()?.as_socket()?, socket.peer_addr().ok()?.as_socket()?))
}
