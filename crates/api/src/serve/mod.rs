//! One small HTTP/1 server for the admin, the control and the controller's address.
//!
//! Three types, as one goes: [`Server`] is what was asked for, [`Bound`] holds the port and knows
//! its number, [`Running`] answers until it is dropped. What it answers is a [`Router`]'s business,
//! made with the helpers of [`respond`].

mod connection;
pub mod origin;
mod patience;
mod places;
pub mod respond;
mod router;
mod spare;
#[cfg(test)]
mod tests;
pub mod tls;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use respond::{BodyError, ResponseBody, read_body};
pub use router::{Router, segment};

use connection::Connection;
use places::Places;
use spare::ReservedFd;
use tls::Tls;

/// What a handler takes.
pub type Request = hyper::Request<hyper::body::Incoming>;

/// Who sent a request: among the extensions of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The other end of the connection.
    pub addr: SocketAddr,
    /// Whether it showed a certificate that our clients' authority vouches for.
    pub has_certificate: bool,
}

/// What a handler gives.
pub type Response = hyper::Response<ResponseBody>;

/// How long a client may take for a request's head, and how long a kept-alive connection may idle.
/// Far above any honest client's need, and a silent one holds its place for no longer than this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take nothing of an answer: as long as most middle boxes let a connection be silent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections at once. Probes, scrapes and hooks need a handful, a controller one per pod that
/// reports at this moment; at 16 KiB of buffer each this bounds the server to about 8 MiB.
const MAX_CONNECTIONS: usize = 512;

/// The kernel's queue of connections that wait for a place; its own default cap is 4096.
const BACKLOG: i32 = 256;

/// First and last pause after `accept` failed: descriptors or memory ran out, and asking again at
/// once would only spin.
const ACCEPT_PAUSE: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process listens there.
    #[error("cannot listen on {addr}: the port is taken; stop what holds it, or choose another")]
    Taken {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The process may not bind that port.
    #[error("cannot listen on {addr}: not permitted; choose a port above 1023")]
    Denied {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// No interface of this host has that address.
    #[error("cannot listen on {addr}: no interface has this address; try the same port on 0.0.0.0")]
    Absent {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// Anything else that the kernel said.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What a server is to be, before it holds a port.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// How long a client may take for a request's head.
    pub head_timeout: Duration,
    /// How long a client may take nothing of its answer before its connection is closed.
    pub write_timeout: Duration,
    /// Connections at once. For a further one, that which has been silent for the longest is closed; while
    /// every one has a request under way, it waits.
    pub max_connections: usize,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            head_timeout: HEAD_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            max_connections: MAX_CONNECTIONS,
        }
    }
}

impl Server {
    /// Takes the port, so that the caller can fail early and learn its number.
    ///
    /// Needs a tokio runtime around it. Port 0 lets the kernel choose. `[::]` is every address of both families,
    /// and where IPv6 is off, every one of IPv4.
    ///
    /// # Errors
    ///
    /// Names the address and what to do about it.
    pub fn bind(self, addr: SocketAddr) -> Result<Bound, Error> {
        let (listener, addr) = listen_or_v4(addr).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::Taken { addr },
            io::ErrorKind::PermissionDenied => Error::Denied { addr },
            io::ErrorKind::AddrNotAvailable => Error::Absent { addr },
            _ => Error::Listen { addr, source },
        })?;
        Ok(Bound { settings: self, listener, addr, tls: None })
    }
}

fn listen_or_v4(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let is_off = |error: &io::Error| {
        matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
    };
    match listen(addr) {
        Err(error) if addr.is_ipv6() && addr.ip().is_unspecified() && is_off(&error) => {
            tracing::info!(%addr, "no IPv6 here, listening on 0.0.0.0 instead");
            listen(SocketAddr::from(([0, 0, 0, 0], addr.port())))
        }
        listening => listening,
    }
}

fn listen(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if addr.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    // Without it a restart within a minute would meet its own connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

/// A server that holds its port and does not answer yet.
#[derive(Debug)]
pub struct Bound {
    settings: Server,
    listener: TcpListener,
    addr: SocketAddr,
    tls: Option<Arc<Tls>>,
}

impl Bound {
    /// Answers over TLS alone.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(Arc::new(tls));
        self
    }

    /// The address with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers every request with `handler`, each connection in a task of its own.
    ///
    /// A handler may take as long as it likes: nothing here times an answer out.
    pub fn serve<H, F>(self, handler: H) -> Running
    where
        H: Fn(Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(());
        let addr = self.addr;
        let task = tokio::spawn(accept_all(self, handler, stopped));
        Running { addr, stop: Some(stop), task }
    }
}

/// A server that answers. Dropping it closes the port and every connection.
#[derive(Debug)]
pub struct Running {
    addr: SocketAddr,
    stop: Option<watch::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    /// The address with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the port, lets the requests under way have their answers, and closes the connections.
    ///
    /// Whatever has not ended after `timeout` is dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the server.
    pub async fn stop(mut self, timeout: Duration) {
        self.stop = None;
        let _elapsed = tokio::time::timeout(timeout, &mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts until `stopped` has lost its sender; owns the connections' tasks, so that they end with it.
async fn accept_all<H, F>(bound: Bound, handler: H, mut stopped: watch::Receiver<()>)
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let places = Places::new(bound.settings.max_connections);
    let spare = Arc::new(ReservedFd::new());
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let client = accept(&bound.listener, &spare, &places).await;
            (places.take().await, client)
        };
        let (place, client) = tokio::select! {
            _ = stopped.changed() => break,
            next = next => next,
        };
        while connections.try_join_next().is_some() {}
        let (settings, tls) = (bound.settings, bound.tls.clone());
        let (handler, stopped) = (handler.clone(), stopped.clone());
        let spare = Arc::clone(&spare);
        connections.spawn(async move {
            let place = Arc::new(place);
            let connection = Connection { settings, place: Arc::clone(&place), stopped };
            connection.serve(client, tls.as_deref(), handler).await;
            // At once, before anybody else takes the descriptor that this connection leaves.
            spare.keep();
            drop(place);
        });
    }
    drop(bound.listener);
    while connections.join_next().await.is_some() {}
}

/// The next connection, however long the kernel refuses to hand one out.
async fn accept(
    listener: &TcpListener,
    spare: &ReservedFd,
    places: &Places,
) -> (TcpStream, SocketAddr) {
    let [mut pause, longest] = ACCEPT_PAUSE;
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => return (stream, plain(addr)),
            // The client was gone before we came: its trouble, not ours.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if spare.give_up(&error) => {
                // The kernel complains even when nobody waits; then the spare must not be lost to
                // whoever asks for a descriptor next, so there is no pause between the two.
                let now = std::future::poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
                if let Poll::Ready(Ok((stream, addr))) = now {
                    return (stream, plain(addr));
                }
                spare.keep();
            }
            Err(error) => {
                // The kernel complains even when nobody waits; then nobody need give way.
                if has_waiting(listener) {
                    // It frees a descriptor, if that is what is wanting.
                    places.give_way();
                    tracing::warn!(%error, "cannot accept, trying again soon");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        }
    }
}

/// Whether a client waits to be accepted.
fn has_waiting(listener: &TcpListener) -> bool {
    let mut asked = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// A client's address in its own family: one that comes by IPv4 to an address of both families is told as IPv6.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
