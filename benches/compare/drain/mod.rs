//! One drain under load, and what it costs the clients.
//!
//! New connections come at a steady rate, others are kept and ask again and again, some are idle and ask
//! once more while the drain is on, and streams and long responses go on for longer than anything else.
//! Then the proxy is told to go.

mod http1;
mod http2;
mod tcp;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::peers::Mode;

const NEWCOMERS_PER_SECOND: f64 = 1000.0;
/// Clients that ask again and again, those that are idle, streams, and long responses.
const EACH: u32 = 50;
/// Between two requests of a kept connection, and between two messages of a stream.
const REQUEST_INTERVAL: Duration = Duration::from_millis(50);
const MESSAGE_INTERVAL: Duration = super::http::PIECE_INTERVAL;
/// Who has no answer by then has none.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of the clients.
#[derive(Default)]
pub(super) struct Counts {
    /// New connections and kept ones' requests that were answered.
    pub(super) answered: AtomicU64,
    /// Connected, but no answer.
    pub(super) newcomers_lost: AtomicU64,
    /// Asked on a connection that was open as far as one could see, but no answer.
    pub(super) requests_lost: AtomicU64,
    pub(super) streams_cut: AtomicU64,
    /// What was lost, and by which error, with how often.
    reasons: Mutex<BTreeMap<String, u64>>,
}

impl Counts {
    pub(super) fn value(counter: &AtomicU64) -> f64 {
        counter.load(Ordering::Relaxed) as f64
    }

    /// By what clients lost what they have lost.
    pub(super) fn reasons(&self) -> Option<String> {
        let reasons = self.reasons.lock().expect("no panic");
        let reasons: Vec<String> =
            reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    fn lose(&self, counter: &AtomicU64, what: &str, error: &dyn Display) {
        count(counter);
        let mut reasons = self.reasons.lock().expect("no panic");
        *reasons.entry(format!("{what}: {error}")).or_default() += 1;
    }
}

/// One more.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// When what ends, counted from the beginning.
#[derive(Clone, Copy)]
struct Course {
    addr: SocketAddr,
    drain_begins: Instant,
    newcomers_end: Instant,
    streams_end: Instant,
}

impl Course {
    /// When an idle client asks once more: one after the other, from the drain's begin to the end of streams.
    fn wakes(&self, idle: u32) -> Instant {
        self.drain_begins + (self.streams_end - self.drain_begins) * idle / EACH
    }

    /// In how many pieces a long response comes, so that the streams end before it.
    fn pieces(&self) -> u32 {
        let left = self.streams_end.saturating_duration_since(Instant::now());
        left.div_duration_f64(MESSAGE_INTERVAL) as u32 + 1
    }
}

/// The load from before the drain until the last client has gone, all of it in steps of `grace`: how
/// long proxies still take new connections, where they can be told.
pub(super) fn run(
    addr: SocketAddr,
    mode: Mode,
    grace: Duration,
    begin_drain: impl FnOnce() -> io::Result<()>,
) -> io::Result<Arc<Counts>> {
    let counts = Arc::new(Counts::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let drain_begins = Instant::now() + grace;
    let course = Course {
        addr,
        drain_begins,
        newcomers_end: drain_begins + grace * 2,
        streams_end: drain_begins + grace * 3,
    };
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for number in 0..EACH {
            let counts = || Arc::clone(&counts);
            match mode {
                Mode::Tcp => {
                    clients.spawn(tcp::stream(course, counts(), MESSAGE_INTERVAL));
                    clients.spawn(tcp::stream(course, counts(), grace * 4));
                }
                Mode::Http => {
                    clients.spawn(http1::kept(course, counts()));
                    clients.spawn(http1::idle(course, counts(), number));
                    clients.spawn(http1::websocket(course, counts()));
                    clients.spawn(http1::long_response(course, counts()));
                }
                Mode::Http2 => {
                    clients.spawn(http2::kept(course, counts()));
                    clients.spawn(http2::idle(course, counts(), number));
                    clients.spawn(http2::stream(course, counts()));
                    clients.spawn(http2::long_response(course, counts()));
                }
            }
        }
        clients.spawn(newcomers(course, mode, Arc::clone(&counts)));
        sleep_until(drain_begins.into()).await;
        // A drain before the first answer would tell nothing.
        while Counts::value(&counts.answered) == 0.0 && drain_begins.elapsed() < PATIENCE {
            sleep(Duration::from_millis(1)).await;
        }
        let begun = begin_drain();
        while clients.join_next().await.is_some() {}
        begun.map(|()| counts)
    })
}

async fn newcomers(course: Course, mode: Mode, counts: Arc<Counts>) {
    let mut clients = JoinSet::new();
    let mut due = Instant::now();
    while due < course.newcomers_end {
        sleep_until(due.into()).await;
        let counts = Arc::clone(&counts);
        match mode {
            Mode::Tcp => clients.spawn(tcp::newcomer(course, counts)),
            Mode::Http => clients.spawn(http1::newcomer(course, counts)),
            Mode::Http2 => clients.spawn(http2::newcomer(course, counts)),
        };
        due += Duration::from_secs_f64(1.0 / NEWCOMERS_PER_SECOND);
    }
    while clients.join_next().await.is_some() {}
}
