//! Upstream connections between two clients, kept per worker for a moment.
//!
//! Nothing here waits while nothing is parked and no relay is at rest: the *sweep* is a task that
//! begins with the first of them and ends with the last. It is the one clock of all connections of
//! its worker, so that none needs a timer of its own.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::options::{TcpStanding, tcp_progress};
use crate::net::{Socket, Upstream};
use crate::reactor;

/// Connections that a worker keeps for each upstream; more are closed. As many as HTTP/1 clients of
/// one pod are served at the same moment; what is beyond would wait longer than it may.
const KEPT: usize = 64;

/// For how long one is kept: shorter than any common server keeps an idle connection (gunicorn 2 s,
/// Node, Apache and uvicorn 5 s, nginx 75 s), so that the server hardly ever closes it first.
const MOST_AGE: Duration = Duration::from_secs(1);

/// Between two sweeps. A relay is at rest after one to two of them without a byte: a client that
/// asks again sooner costs nothing more, and one that does not holds its upstream no longer.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// What a worker keeps.
#[derive(Debug)]
struct Parking {
    /// Last parked, last in its list.
    lots: Vec<(Arc<Upstream>, Vec<Parked>)>,
    /// Relays that wait for the next sweep.
    resting: Vec<Waker>,
    sweeps: u32,
    is_swept: bool,
}

#[derive(Debug)]
struct Parked {
    socket: Socket,
    since: Instant,
}

thread_local! {
    static PARKING: RefCell<Parking> = const {
        RefCell::new(Parking { lots: Vec::new(), resting: Vec::new(), sweeps: 0, is_swept: false })
    };
}

/// A connection that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) socket: Socket,
    /// What the application's kernel has acknowledged until now.
    pub(super) acknowledged_bytes: u64,
}

/// Keeps a connection that is at rest, if there is room.
pub(super) fn park(upstream: &Arc<Upstream>, socket: Socket) {
    PARKING.with_borrow_mut(|parking| {
        let lot = match parking.lots.iter().position(|(own, _)| own == upstream) {
            Some(at) => parking.lots.get_mut(at),
            None => {
                parking.lots.push((Arc::clone(upstream), Vec::new()));
                parking.lots.last_mut()
            }
        };
        if let Some((_, parked)) = lot.filter(|(_, parked)| parked.len() < KEPT) {
            parked.push(Parked { socket, since: Instant::now() });
        }
        parking.begin_to_sweep();
    });
}

/// A connection to this upstream of which nothing tells that it is not as good as new; the one that
/// was parked last. Others that it finds are closed.
pub(super) fn take(upstream: &Upstream) -> Option<Taken> {
    PARKING.with_borrow_mut(|parking| {
        let (_, parked) = parking.lots.iter_mut().find(|(own, _)| **own == *upstream)?;
        while let Some(Parked { socket, since }) = parked.pop() {
            if since.elapsed() < MOST_AGE
                && socket.is_quiet()
                && let Ok((TcpStanding::Open, acknowledged_bytes)) = tcp_progress(&socket)
            {
                return Some(Taken { socket, acknowledged_bytes });
            }
        }
        None
    })
}

/// Closes what this worker keeps.
pub fn clear() {
    PARKING.with_borrow_mut(|parking| parking.lots.clear());
}

/// How many sweeps there have been on this worker.
pub(super) fn sweeps() -> u32 {
    PARKING.with_borrow(|parking| parking.sweeps)
}

/// Wakes a task at the next sweep.
pub(super) fn wake_at_sweep(waker: Waker) {
    PARKING.with_borrow_mut(|parking| {
        parking.resting.push(waker);
        parking.begin_to_sweep();
    });
}

impl Parking {
    fn begin_to_sweep(&mut self) {
        if !self.is_swept {
            // What is parked was a worker's.
            self.is_swept = reactor::spawn(sweep()).is_ok();
        }
    }

    /// Closes what is too old, and what the application has ended: nobody else would notice.
    fn sweep(&mut self) -> Vec<Waker> {
        self.sweeps = self.sweeps.wrapping_add(1);
        let mut cx = Context::from_waker(Waker::noop());
        for (_, parked) in &mut self.lots {
            parked.retain(|parked| {
                parked.since.elapsed() < MOST_AGE
                    && parked.socket.poll_readable(&mut cx).is_pending()
            });
        }
        self.lots.retain(|(_, parked)| !parked.is_empty());
        self.is_swept = !(self.resting.is_empty() && self.lots.is_empty());
        std::mem::take(&mut self.resting)
    }
}

async fn sweep() {
    while PARKING.with_borrow(|parking| parking.is_swept) {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let resting = PARKING.with_borrow_mut(Parking::sweep);
        resting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::reactor::Assumed;

    fn upstream(text: &str) -> Arc<Upstream> {
        Arc::new(text.parse().expect("an upstream"))
    }

    /// Our side of a connection, and the application's.
    fn pair() -> (Socket, TcpStream) {
        reactor::turn().expect("a worker");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let ours = TcpStream::connect(listener.local_addr().expect("its address"));
        let ours = ours.expect("a connection");
        ours.set_nonblocking(true).expect("set");
        let (theirs, _) = listener.accept().expect("a connection");
        let ours = Socket::watched(ours.into(), Assumed::Writable);
        (ours.expect("it is watched"), theirs)
    }

    fn parked(upstream: &Arc<Upstream>) -> TcpStream {
        let (ours, theirs) = pair();
        park(upstream, ours);
        theirs
    }

    /// Lets so much of the paused time pass on this worker.
    async fn pass(time: Duration) {
        const STEP: Duration = Duration::from_millis(10);
        for _ in 0..time.as_millis() / STEP.as_millis() {
            reactor::turn().expect("a worker");
            tokio::time::advance(STEP).await;
        }
        reactor::turn().expect("a worker");
    }

    fn is_closed(theirs: &mut TcpStream) -> bool {
        theirs.set_nonblocking(true).expect("set");
        !matches!(theirs.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Says something on a connection that was taken, for the application to hear.
    fn assert_joined(taken: &Taken, mut theirs: &TcpStream) {
        rustix::net::send(&taken.socket, b"a", rustix::net::SendFlags::empty()).expect("sent");
        let mut heard = [0];
        theirs.read_exact(&mut heard).expect("heard");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_that_was_parked_is_the_first_to_be_taken_and_for_its_own_upstream() {
        let [one, other] = ["127.0.0.1:1", "127.0.0.1:2"].map(upstream);
        let [first, last, another] = [&one, &one, &other].map(parked);
        assert_joined(&take(&one).expect("one"), &last);
        assert_joined(&take(&upstream("127.0.0.1:2")).expect("one"), &another);
        assert_joined(&take(&one).expect("one"), &first);
        assert!(take(&one).is_none() && take(&other).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_or_has_something_to_say_is_not_taken() {
        let one = upstream("127.0.0.1:1");
        let (kept, mut saying, ended) = (parked(&one), parked(&one), parked(&one));
        saying.write_all(b"HTTP/1.1 408 Late\r\n\r\n").expect("sent");
        drop(ended);
        assert_joined(&take(&one).expect("the one that is as it was"), &kept);
        assert!(is_closed(&mut saying));
        assert!(take(&one).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_is_closed_by_the_sweep_which_then_ends() {
        let one = upstream("127.0.0.1:1");
        let mut theirs = parked(&one);
        pass(9 * MOST_AGE / 10).await;
        assert!(!is_closed(&mut theirs));
        pass(4 * SWEEP_INTERVAL).await;
        assert!(is_closed(&mut theirs));
        pass(4 * SWEEP_INTERVAL).await;
        assert!(PARKING.with_borrow(|parking| !parking.is_swept));
        parked(&one);
        assert!(PARKING.with_borrow(|parking| parking.is_swept));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_is_not_taken_before_a_sweep_either() {
        let one = upstream("127.0.0.1:1");
        parked(&one);
        tokio::time::advance(MOST_AGE).await;
        assert!(take(&one).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_few_are_kept_and_a_drain_closes_them() {
        let one = upstream("127.0.0.1:1");
        let mut theirs: Vec<_> = (0..=KEPT).map(|_| parked(&one)).collect();
        assert!(is_closed(&mut theirs[KEPT]));
        assert!(!theirs.iter_mut().take(KEPT).any(is_closed));
        clear();
        assert!(theirs.iter_mut().all(is_closed));
        assert!(take(&one).is_none());
    }
}
