//! Connecting to the application, patiently while it starts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Socket, Upstream};
use crate::reactor::Assumed;

/// The pauses between tries while the application is not there yet.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no connection to the application.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It did not accept in time.
    #[error("the application at {0} did not accept within {1:?} (--connect-timeout)")]
    Timeout(Upstream, Duration),
    /// Nobody listens there, even after waiting.
    #[error("no application listens at {0} (waited --upstream-wait {1:?})")]
    NotThere(Upstream, Duration),
    /// Its name has no address.
    #[error("can't look up {0}")]
    Name(Upstream, #[source] io::Error),
    /// Anything else.
    #[error("can't connect to {0}")]
    Other(Upstream, #[source] io::Error),
}

impl ConnectError {
    /// A closed set of names for the metric's label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            ConnectError::Timeout(..) => "timeout",
            ConnectError::NotThere(..) => "not_there",
            ConnectError::Name(..) => "name",
            ConnectError::Other(..) => "other",
        }
    }
}

/// Connects to the application. While nobody listens there, tries again for `wait`.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping it closes what was begun.
pub async fn connect(
    upstream: &Upstream,
    connect_timeout: Duration,
    wait: Duration,
) -> Result<Socket, ConnectError> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match timeout(connect_timeout, connect_once(upstream)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => error,
            Err(_) => return Err(ConnectError::Timeout(upstream.clone(), connect_timeout)),
        };
        if !is_worth_waiting(&error) {
            return Err(error);
        }
        let over = timeout_at(started + wait, sleep(pause)).await.is_err();
        if over {
            return Err(match error {
                ConnectError::Other(upstream, _) => ConnectError::NotThere(upstream, wait),
                other => other,
            });
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Not there yet, or out of something that comes back.
fn is_worth_waiting(error: &ConnectError) -> bool {
    match error {
        ConnectError::Other(_, error) => matches!(
            Errno::from_io_error(error),
            Some(
                Errno::CONNREFUSED
                    | Errno::NOENT
                    | Errno::AGAIN
                    | Errno::MFILE
                    | Errno::NFILE
                    | Errno::NOBUFS
                    | Errno::ADDRNOTAVAIL
            )
        ),
        ConnectError::Name(..) => true,
        ConnectError::Timeout(..) | ConnectError::NotThere(..) => false,
    }
}

async fn connect_once(upstream: &Upstream) -> Result<Socket, ConnectError> {
    let other = |error| ConnectError::Other(upstream.clone(), error);
    match upstream {
        Upstream::Address(addr) => connect_tcp(*addr).await.map_err(other),
        Upstream::Unix(path) => {
            let addr = SockAddr::unix(path).map_err(other)?;
            connect_socket(Domain::UNIX, None, &addr).await.map_err(other)
        }
        Upstream::Name(name, port) => {
            let no_name = |error| ConnectError::Name(upstream.clone(), error);
            let addrs = tokio::net::lookup_host((name.as_str(), *port)).await.map_err(no_name)?;
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for addr in addrs {
                match connect_tcp(addr).await {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last = error,
                }
            }
            Err(other(last))
        }
    }
}

async fn connect_tcp(addr: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(addr);
    let socket = connect_socket(domain, Some(Protocol::TCP), &addr.into()).await?;
    // No keep-alive: the application is on this host, where a dead peer's kernel answers for it.
    socket.options().set_tcp_nodelay(true)?;
    socket.options().set_out_of_band_inline(true)?;
    Ok(socket)
}

async fn connect_socket(
    domain: Domain,
    protocol: Option<Protocol>,
    addr: &SockAddr,
) -> io::Result<Socket> {
    let socket = socket2::Socket::new(domain, Type::STREAM.nonblocking(), protocol)?;
    match socket.connect(addr) {
        Ok(()) => Socket::watched(OwnedFd::from(socket), Assumed::Writable),
        Err(error) if is(&error, Errno::INPROGRESS) => {
            // On this host the handshake is over by now, though the first call could not say so.
            match socket.connect(addr) {
                Ok(()) => return Socket::watched(OwnedFd::from(socket), Assumed::Writable),
                Err(error) if is(&error, Errno::ALREADY) => {}
                Err(error) => return Err(error),
            }
            let socket = Socket::watched(OwnedFd::from(socket), Assumed::Nothing)?;
            socket.connected().await?;
            Ok(socket)
        }
        Err(error) => Err(error),
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

impl Socket {
    /// Waits until a connect under way has ended, well or not.
    async fn connected(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_writable(cx)).await?;
        match self.options().take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
