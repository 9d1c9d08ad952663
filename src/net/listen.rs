//! A listener: bound first, listening only when there is something behind it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{optional, options};

/// How many finished handshakes may wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {addr}: {}", advice(source))]
pub struct BindError {
    addr: SocketAddr,
    #[source]
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is taken; stop what listens there or choose another",
        io::ErrorKind::AddrNotAvailable => {
            "this host has no such address; write 0.0.0.0 or [::] for all of them"
        }
        io::ErrorKind::PermissionDenied => "not allowed; ports below 1024 need a privilege",
        _ => "the kernel refuses",
    }
}

/// What a listener's sockets are set to.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// IPv6 only, because another listener has the port on IPv4.
    pub only_v6: bool,
    /// `TCP_USER_TIMEOUT` of accepted connections; zero leaves the kernel's.
    pub user_timeout: Duration,
}

/// An address that is ours, and on which the kernel still refuses connections.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    addr: SocketAddr,
    options: ListenOptions,
}

impl Bound {
    fn open(addr: SocketAddr, options: ListenOptions) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(options.only_v6)?;
        }
        // Connections of the run before, in TIME_WAIT, must not keep the new one from starting.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Accepted connections inherit what is set here, which saves the calls for each of them.
        optional::NO_DELAY.attempt(|| socket.set_tcp_nodelay(true));
        let listener = SockRef::from(&socket);
        optional::KEEP_ALIVE.attempt(|| options::set_keep_alive(&listener, options::SERVING));
        // Urgent data stays in its place among the other bytes, which is where the relay reads it.
        optional::URGENT_INLINE.attempt(|| socket.set_out_of_band_inline(true));
        if !options.user_timeout.is_zero() {
            let timeout = Some(options.user_timeout);
            optional::USER_TIMEOUT.attempt(|| socket.set_tcp_user_timeout(timeout));
        }
        Ok(socket)
    }

    /// Binds an address. Port 0 takes a free one, which [`Bound::local_addr`] tells. `[::]` is every address of
    /// both families, and in a kernel without IPv6 every one of IPv4.
    ///
    /// # Errors
    /// When the address is taken, not this host's, or not allowed; the message says what to do.
    pub fn new(addr: SocketAddr, options: ListenOptions) -> Result<Self, BindError> {
        match Self::bind(addr, options) {
            Err(BindError { source, .. })
                if addr.is_ipv6()
                    && addr.ip().is_unspecified()
                    && !options.only_v6
                    && source.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) =>
            {
                Self::bind(SocketAddr::from(([0, 0, 0, 0], addr.port())), options)
            }
            bound => bound,
        }
    }

    fn bind(addr: SocketAddr, options: ListenOptions) -> Result<Self, BindError> {
        let fail = |source| BindError { addr, source };
        let socket = Self::open(addr, options).map_err(fail)?;
        socket.bind(&addr.into()).map_err(fail)?;
        let local = socket.local_addr().map_err(fail)?;
        let addr = local.as_socket().unwrap_or(addr);
        Ok(Bound { socket, addr, options })
    }

    /// The address, with the port that the kernel chose if it was left to it.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets connections in.
    ///
    /// # Errors
    /// When another process listens on the same port meanwhile.
    pub fn listen(self) -> Result<Listener, BindError> {
        let fail = |source| BindError { addr: self.addr, source };
        // The kernel notes in the port's group when it last sent a SYN cookie, and refuses a cookie without
        // that note. A group that a second listener formed later would know of none, and the cookies on
        // their way would be refused. Behind bind(2), so that nobody else has the port already.
        optional::REUSE_PORT.attempt(|| self.socket.set_reuse_port(true));
        self.socket.listen(BACKLOG).map_err(fail)?;
        Ok(Listener { socket: self.socket, addr: self.addr, options: self.options })
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: Socket,
    addr: SocketAddr,
    options: ListenOptions,
}

impl Listener {
    /// The address, with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it was bound with, to bind it again after an undrain.
    #[must_use]
    pub fn options(&self) -> ListenOptions {
        self.options
    }

    /// Finished handshakes that nobody has accepted yet; 0 when the kernel does not tell.
    #[must_use]
    pub fn queue_length(&self) -> u32 {
        options::accept_queue_length(&self.socket).unwrap_or(0)
    }

    /// For the SYN filter.
    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.socket)
    }

    /// Binds the same address once more, beside this listener, which goes on.
    ///
    /// # Errors
    /// When the kernel does not let two sockets share the port.
    pub fn beside(&self) -> Result<Bound, BindError> {
        let Listener { addr, options, .. } = self;
        let bound = Bound::open(*addr, *options).and_then(|beside| {
            // The first one agrees since it listens. Only sockets of the same user can share a port so.
            beside.set_reuse_port(true)?;
            beside.bind(&(*addr).into())?;
            Ok(beside)
        });
        match bound {
            Ok(socket) => Ok(Bound { socket, addr: *addr, options: *options }),
            Err(source) => Err(BindError { addr: *addr, source }),
        }
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
