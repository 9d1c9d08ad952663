//! Upstream connections between two clients, kept per worker for a moment.
//!
//! Nothing here waits while nothing is parked and no relay is at rest: the *sweep* is a task that
//! begins with the first of them and ends with the last. It is the one clock of all connections of
//! its worker, so that none needs a timer of its own.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::net::options::{TcpStanding, tcp_progress};
use crate::net::{Socket, Upstream};

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
            self.is_swept = true;
            tokio::spawn(sweep());
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
