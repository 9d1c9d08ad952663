//! One try to connect to the application.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::time::timeout;

use super::company::Company;
use super::connect::ConnectOptions;
use super::connect_error::Failure;
use super::race::{interleaved, race};
use super::{Socket, Upstream, optional, options, own};
use crate::reactor::Assumed;

/// Tries each address of the application once.
pub(super) async fn attempt(
    upstream: &Upstream,
    options: &ConnectOptions,
) -> Result<Socket, Failure> {
    let connected = match upstream {
        Upstream::Address(addr) => within(options, connect_tcp(*addr, options)).await,
        Upstream::Unix(path) => {
            let addr = SockAddr::unix(path).map_err(Failure::Connect)?;
            within(options, connect_socket(Domain::UNIX, None, &addr, None)).await
        }
        Upstream::Name(name, port) => {
            let company = Company::of(upstream);
            let look_up = company.look_up(name.clone(), *port);
            let late = || io::Error::from(io::ErrorKind::TimedOut);
            let addrs = timeout(options.timeout, look_up).await.unwrap_or_else(|_| Err(late()));
            let addrs = interleaved(addrs.map_err(Failure::Name)?);
            if addrs.is_empty() {
                return Err(Failure::Name(io::ErrorKind::NotFound.into()));
            }
            race(&addrs, |addr| within(options, connect_tcp(addr, options))).await
        }
    };
    connected.map_err(Failure::Connect)
}

/// Bounds a try of one address.
async fn within(
    options: &ConnectOptions,
    connect: impl Future<Output = io::Result<Socket>>,
) -> io::Result<Socket> {
    timeout(options.timeout, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect_tcp(addr: SocketAddr, options: &ConnectOptions) -> io::Result<Socket> {
    let domain = Domain::for_address(addr);
    let mut sources = sources(addr, options);
    let mut source = sources.next();
    let socket = loop {
        let connected = connect_socket(domain, Some(Protocol::TCP), &addr.into(), source).await;
        match connected {
            // This one's ports are used up.
            Err(error) if is(&error, Errno::ADDRNOTAVAIL) => match sources.next() {
                Some(other) => source = Some(other),
                None => return Err(error),
            },
            connected => break connected?,
        }
    };
    let local = socket.options().local_addr()?.as_socket();
    if local == Some(addr) {
        // Where nobody listens, and the kernel chose the very port as ours, two SYNs of one socket
        // have met (RFC 9293 §3.5, simultaneous open). That is nobody's application.
        socket.reset_on_close();
        return Err(Errno::CONNREFUSED.into());
    }
    if let Some(local) = local {
        own::remember(&socket, local);
    }
    // No keep-alive: the application is on this host, where a dead peer's kernel answers for it.
    optional::NO_DELAY.attempt(|| socket.options().set_tcp_nodelay(true));
    // Urgent data stays in its place among the other bytes, which is where the relay reads it.
    optional::URGENT_INLINE.attempt(|| socket.options().set_out_of_band_inline(true));
    Ok(socket)
}

/// The addresses of ours to connect from, each time beginning with another one.
fn sources(addr: SocketAddr, options: &ConnectOptions) -> impl Iterator<Item = IpAddr> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let sources = options.sources.as_slice();
    let first = match sources.len() {
        0 => 0,
        count => TURN.fetch_add(1, Ordering::Relaxed) % count,
    };
    let (after, from) = sources.split_at(first);
    from.iter().chain(after).copied().filter(move |source| source.is_ipv4() == addr.is_ipv4())
}

async fn connect_socket(
    domain: Domain,
    protocol: Option<Protocol>,
    addr: &SockAddr,
    source: Option<IpAddr>,
) -> io::Result<Socket> {
    let socket = socket2::Socket::new(domain, Type::STREAM.nonblocking(), protocol)?;
    if let Some(source) = source {
        // Where the kernel can't do that, each port serves one connection at a time.
        let _ = options::bind_without_port(&socket);
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
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
