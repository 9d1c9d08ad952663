//! Socket options and limits of the process; the one file with unsafe code.

use std::io;
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
/// features §5.1; without probes a half-closed or crashed client pins a drain (linkerd2#8033).
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
