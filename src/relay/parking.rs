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
use tracing::warn;

use crate::net::options::{TcpStanding, tcp_progress};
use crate::net::{Socket, Upstream};
use crate::reactor;

/// Connections that a worker keeps for each upstream; more are closed. With the silence that each
/// must keep first they serve 2,000 clients a second, and an application that gives each idle
/// connection a process or a thread of its own (Apache has 256 of them) is not used up.
const KEPT: usize = 256;

/// For how long one is kept: shorter than any common server keeps an idle connection (gunicorn 2 s,
/// Node, Apache and uvicorn 5 s, nginx 75 s), so that the server hardly ever closes it first.
const MOST_AGE: Duration = Duration::from_secs(1);

/// Between two sweeps. A relay is at rest after one to two of them without a byte: a client that
/// asks again sooner costs nothing more, and one that does not holds its upstream no longer.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// How long connections to an application that has sent what no request asked for are not shared.
/// Long, because each of its requests may bring that about again, and without an end, because the
/// application may be mended and restarted, would be longer than needed.
const DISTRUST_PERIOD: Duration = Duration::from_secs(600);

/// What a worker keeps.
#[derive(Debug)]
struct Parking {
    lots: Vec<Lot>,
    /// Relays that wait for the next sweep.
    resting: Vec<Waker>,
    sweeps: u32,
    is_swept: bool,
}

/// What a worker keeps for one application.
#[derive(Debug)]
struct Lot {
    upstream: Arc<Upstream>,
    /// Last parked, last in the list.
    parked: Vec<Parked>,
    /// Nothing is kept until then.
    distrusted_until: Option<Instant>,
}

#[derive(Debug)]
struct Parked {
    socket: Socket,
    since: Instant,
    /// Until then it serves nobody: what may still come belongs to the client before.
    rested_at: Instant,
}

/// What an idle connection has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brought {
    Nothing,
    /// Its end, or a reset.
    End,
    /// Bytes that no request asked for.
    Surplus,
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

/// Keeps a connection that is at rest, for a client that comes when it has been silent for `rest`.
/// `false` when there is no room, or the application is not trusted: then it is closed.
pub(super) fn park(upstream: &Arc<Upstream>, socket: Socket, rest: Duration) -> bool {
    PARKING.with_borrow_mut(|parking| {
        parking.begin_to_sweep();
        let lot = parking.lot(upstream);
        if lot.is_distrusted() || lot.parked.len() >= KEPT {
            return false;
        }
        let since = Instant::now();
        lot.parked.push(Parked { socket, since, rested_at: since + rest });
        true
    })
}

/// A connection to this upstream of which nothing tells that it is not as good as new; of those that
/// have rested, the one that was parked last. Others that it finds are closed.
pub(super) fn take(upstream: &Upstream) -> Option<Taken> {
    PARKING.with_borrow_mut(|parking| {
        let lot = parking.lots.iter_mut().find(|lot| *lot.upstream == *upstream)?;
        let now = Instant::now();
        let mut end = lot.parked.len();
        while let Some(at) = lot.parked.iter().take(end).rposition(|one| one.rested_at <= now) {
            end = at;
            let Parked { socket, since, .. } = lot.parked.remove(at);
            match Brought::by(&socket) {
                Brought::Nothing => {}
                Brought::End => continue,
                Brought::Surplus => {
                    lot.distrust();
                    return None;
                }
            }
            if now - since < MOST_AGE
                && let Ok((TcpStanding::Open, acknowledged_bytes)) = tcp_progress(&socket)
            {
                return Some(Taken { socket, acknowledged_bytes });
            }
        }
        None
    })
}

/// The application has sent what no request asked for: its connections are not shared for a while.
pub(super) fn distrust(upstream: &Arc<Upstream>) {
    PARKING.with_borrow_mut(|parking| {
        parking.lot(upstream).distrust();
        parking.begin_to_sweep();
    });
}

/// Closes what this worker keeps.
pub fn clear() {
    PARKING.with_borrow_mut(|parking| {
        for lot in &mut parking.lots {
            lot.parked.clear();
        }
    });
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
    fn lot(&mut self, upstream: &Arc<Upstream>) -> &mut Lot {
        let at = self.lots.iter().position(|lot| lot.upstream == *upstream);
        let at = at.unwrap_or_else(|| {
            let upstream = Arc::clone(upstream);
            self.lots.push(Lot { upstream, parked: Vec::new(), distrusted_until: None });
            self.lots.len() - 1
        });
        &mut self.lots[at]
    }

    fn begin_to_sweep(&mut self) {
        if !self.is_swept {
            // What is parked was a worker's.
            self.is_swept = reactor::spawn(sweep()).is_ok();
        }
    }

    /// Closes what is too old, and what the application has ended or gone on with: nobody else would
    /// notice.
    fn sweep(&mut self) -> Vec<Waker> {
        self.sweeps = self.sweeps.wrapping_add(1);
        for lot in &mut self.lots {
            lot.sweep();
        }
        self.lots.retain(|lot| !lot.parked.is_empty() || lot.is_distrusted());
        let is_empty = self.lots.iter().all(|lot| lot.parked.is_empty());
        self.is_swept = !(self.resting.is_empty() && is_empty);
        std::mem::take(&mut self.resting)
    }
}

impl Lot {
    fn is_distrusted(&self) -> bool {
        self.distrusted_until.is_some_and(|until| Instant::now() < until)
    }

    fn distrust(&mut self) {
        if !self.is_distrusted() {
            warn!(
                upstream = %self.upstream,
                pause_seconds = DISTRUST_PERIOD.as_secs(),
                "the application has sent what no request asked for: its connections are not shared \
                 (--upstream-reuse)"
            );
        }
        self.distrusted_until = Some(Instant::now() + DISTRUST_PERIOD);
        self.parked.clear();
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        let mut cx = Context::from_waker(Waker::noop());
        let mut has_surplus = false;
        self.parked.retain(|parked| {
            if parked.socket.poll_readable(&mut cx).is_pending() {
                return now - parked.since < MOST_AGE;
            }
            has_surplus |= Brought::by(&parked.socket) == Brought::Surplus;
            false
        });
        if has_surplus {
            self.distrust();
        }
    }
}

impl Brought {
    /// Asks the kernel itself.
    fn by(socket: &Socket) -> Brought {
        if socket.is_quiet() {
            Brought::Nothing
        } else if socket.has_bytes() {
            Brought::Surplus
        } else {
            Brought::End
        }
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
        park(upstream, ours, Duration::ZERO);
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
    async fn what_has_ended_is_not_taken() {
        let one = upstream("127.0.0.1:1");
        let (kept, ended) = (parked(&one), parked(&one));
        drop(ended);
        assert_joined(&take(&one).expect("the one that is as it was"), &kept);
        assert!(take(&one).is_none());
    }

    /// Looked at anew at the very moment, although no sweep and no poller has seen anything yet.
    #[tokio::test(start_paused = true)]
    async fn surplus_that_is_found_when_one_is_taken_closes_all_and_none_is_kept_for_a_while() {
        let one = upstream("127.0.0.1:1");
        let (mut other, mut saying) = (parked(&one), parked(&one));
        saying.write_all(b"HTTP/1.1 408 Late\r\n\r\n").expect("sent");
        assert!(take(&one).is_none());
        assert!(is_closed(&mut saying) && is_closed(&mut other));
        assert!(is_closed(&mut parked(&one)));
        tokio::time::advance(DISTRUST_PERIOD).await;
        let theirs = parked(&one);
        assert_joined(&take(&one).expect("one"), &theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn surplus_that_a_sweep_finds_does_the_same() {
        let [one, another] = ["127.0.0.1:1", "127.0.0.1:2"].map(upstream);
        let (mut other, mut saying, mut unharmed) = (parked(&one), parked(&one), parked(&another));
        saying.write_all(b"late").expect("sent");
        pass(2 * SWEEP_INTERVAL).await;
        assert!(is_closed(&mut saying) && is_closed(&mut other));
        assert!(is_closed(&mut parked(&one)));
        assert!(!is_closed(&mut unharmed), "another application has said nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn none_is_taken_before_it_has_rested() {
        let one = upstream("127.0.0.1:1");
        let rest = Duration::from_millis(125);
        let (first, _theirs) = pair();
        let (second, theirs) = pair();
        assert!(park(&one, second, rest) && park(&one, first, 4 * rest));
        assert!(take(&one).is_none());
        tokio::time::advance(rest).await;
        assert_joined(&take(&one).expect("the one that has rested"), &theirs);
        assert!(take(&one).is_none());
        tokio::time::advance(3 * rest).await;
        assert!(take(&one).is_some());
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
