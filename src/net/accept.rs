//! Accepting: one connection at a time, with a pause where the system has run out of something.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::Listener;
use crate::reactor::Source;

/// Connections that are accepted in a row before others have their turn.
const TURN: u32 = 64;

/// A connection that the kernel has handed over: non-blocking, not yet watched by a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The client's socket.
    pub fd: OwnedFd,
    /// The client's address, an IPv4 one written as such even on a dual-stack listener.
    pub peer: SocketAddr,
}

/// Why nothing was accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// This process has no descriptor left.
    #[error("out of descriptors (EMFILE): raise the limit (ulimit -n) or lower --max-connections")]
    ProcessDescriptors,
    /// The whole system has none left.
    #[error("the system is out of descriptors (ENFILE): raise fs.file-max on the node")]
    SystemDescriptors,
    /// The kernel has no memory for sockets.
    #[error("the kernel has no memory left for sockets (ENOBUFS, ENOMEM)")]
    Memory,
    /// Anything else that does not concern a single connection.
    #[error("accept fails")]
    Other(#[source] io::Error),
}

impl AcceptError {
    /// A closed set of names for the metric's label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            AcceptError::ProcessDescriptors => "emfile",
            AcceptError::SystemDescriptors => "enfile",
            AcceptError::Memory => "enobufs",
            AcceptError::Other(_) => "other",
        }
    }
}

/// A listener that a worker accepts from.
#[derive(Debug)]
pub struct Acceptor {
    /// From the first wait on. Before the listener, so that it is gone when that is closed.
    source: Option<Source>,
    listener: Listener,
    /// What is left of this turn.
    turn: u32,
    /// Connections that wait for all that is known: whenever the poller tells of some, at least one.
    queued: u32,
}

impl From<Listener> for Acceptor {
    fn from(listener: Listener) -> Self {
        Acceptor { source: None, listener, turn: TURN, queued: 1 }
    }
}

impl Deref for Acceptor {
    type Target = Listener;

    fn deref(&self) -> &Listener {
        &self.listener
    }
}

impl Acceptor {
    /// Waits for the next connection, on a worker.
    ///
    /// # Errors
    /// Only those after which one should pause before trying again; a connection that died in the
    /// queue is passed over.
    ///
    /// # Cancel safety
    /// Nothing is accepted by a call that was dropped.
    pub async fn accept(&mut self) -> Result<Accepted, AcceptError> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Accepted, AcceptError>> {
        let source = match &mut self.source {
            Some(source) => source,
            none => {
                let source = Source::listener(self.listener.socket.as_fd());
                none.insert(source.map_err(AcceptError::Other)?)
            }
        };
        if self.turn == 0 {
            self.turn = TURN;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            ready!(source.poll_readable(cx));
            // An accept4(2) that finds nothing has made a file for nothing, which takes eight times as
            // long as to ask.
            if self.queued == 0 {
                self.queued = self.listener.least_queued()?;
            }
            if self.queued > 0
                && let Some(accepted) = self.listener.try_accept()?
            {
                self.queued -= 1;
                self.turn -= 1;
                return Poll::Ready(Ok(accepted));
            }
            self.turn = TURN;
            self.queued = 1;
            source.clear_readable();
        }
    }
}

impl Listener {
    /// How many connections, or errors, wait at least. Zero is poll(2)'s word; the queue's length, which
    /// not every kernel tells, is only a hint.
    fn least_queued(&self) -> Result<u32, AcceptError> {
        let mut listener = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut listener, Some(&Timespec::default())) {
            Ok(0) => Ok(0),
            Ok(_) | Err(Errno::INTR) => Ok(self.queue_length().max(1)),
            Err(error) => Err(AcceptError::Other(error.into())),
        }
    }

    /// Takes the next connection if one is queued.
    ///
    /// # Errors
    /// As [`Acceptor::accept`].
    pub fn try_accept(&self) -> Result<Option<Accepted>, AcceptError> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match acceptfrom_with(&self.socket, flags) {
                Ok((fd, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    // A TCP client has an address; one that can't be told is shown as unspecified.
                    let peer = peer.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
                    return Ok(Some(Accepted { fd, peer: canonical(peer) }));
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) if concerns_one_connection(error) => {}
                Err(Errno::MFILE) => return Err(AcceptError::ProcessDescriptors),
                Err(Errno::NFILE) => return Err(AcceptError::SystemDescriptors),
                Err(Errno::NOBUFS | Errno::NOMEM) => return Err(AcceptError::Memory),
                Err(error) => return Err(AcceptError::Other(error.into())),
            }
        }
    }
}

/// Errors that Linux passes on from the new connection (accept(2)): the next one may be well.
fn concerns_one_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::NETDOWN
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::PERM
    )
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// A pause that doubles while things stay bad, so that a full system is never spun on.
#[derive(Debug, Default)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Long enough for a few connections to end.
    const FIRST: Duration = Duration::from_millis(10);
    /// Short enough that nobody's SYN is sent again before we look (1 s).
    const LONGEST: Duration = Duration::from_millis(640);

    /// How long to pause now.
    pub fn pause(&mut self) -> Duration {
        self.next = (self.next * 2).clamp(Self::FIRST, Self::LONGEST);
        self.next
    }

    /// Things are well again.
    pub fn reset(&mut self) {
        self.next = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::TcpStream;

    use super::super::{Bound, ListenOptions};
    use super::*;
    use crate::reactor;

    #[test]
    fn all_who_wait_are_taken_and_the_poller_tells_of_the_next() {
        let options = ListenOptions { only_v6: false, user_timeout: Duration::ZERO };
        let bound = Bound::new(([127, 0, 0, 1], 0).into(), options).unwrap();
        let addr = bound.local_addr();
        let mut acceptor = Acceptor::from(bound.listen().unwrap());
        reactor::block_on(async {
            for waiting in [1, 2, 3, 1, 3 * TURN] {
                let connect = |_| TcpStream::connect(addr).unwrap();
                let clients: Vec<TcpStream> = (0..waiting).map(connect).collect();
                for client in clients {
                    let accepted = acceptor.accept().await.unwrap();
                    assert_eq!(accepted.peer, client.local_addr().unwrap());
                }
                let none = poll_fn(|cx| Poll::Ready(acceptor.poll_accept(cx).is_pending()));
                assert!(none.await, "more than {waiting} were taken");
            }
        })
        .unwrap();
    }

    #[test]
    fn a_pause_grows_to_its_bound_and_starts_anew() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 640, 640]);
        backoff.reset();
        assert_eq!(backoff.pause(), Backoff::FIRST);
    }
}
