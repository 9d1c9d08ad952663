//! One drain under load, and what it costs the clients.
//!
//! New connections come at a steady rate, others are kept and ask again and again, and streams go on for
//! longer than anything else. Then the proxy is told to go.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::http;
use super::peers::Mode;

const NEWCOMERS_PER_SECOND: f64 = 1000.0;
const KEPT: u64 = 100;
const STREAMS: u64 = 50;
/// Between two requests of a kept connection, and between two messages of a stream.
const REQUEST_INTERVAL: Duration = Duration::from_millis(50);
const MESSAGE_INTERVAL: Duration = Duration::from_millis(100);
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

    fn lose(&self, counter: &AtomicU64, what: &str, error: &io::Error) {
        count(counter);
        let mut reasons = self.reasons.lock().expect("no panic");
        *reasons.entry(format!("{what}: {error}")).or_default() += 1;
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// When what ends, counted from the beginning.
#[derive(Clone, Copy)]
struct Course {
    addr: SocketAddr,
    mode: Mode,
    newcomers_end: Instant,
    streams_end: Instant,
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
        mode,
        newcomers_end: drain_begins + grace * 2,
        streams_end: drain_begins + grace * 3,
    };
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..STREAMS {
            clients.spawn(stream(course, Arc::clone(&counts)));
        }
        if mode == Mode::Http {
            for _ in 0..KEPT {
                clients.spawn(kept(course, Arc::clone(&counts)));
            }
        }
        clients.spawn(newcomers(course, Arc::clone(&counts)));
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

async fn newcomers(course: Course, counts: Arc<Counts>) {
    let mut clients = JoinSet::new();
    let mut due = Instant::now();
    while due < course.newcomers_end {
        sleep_until(due.into()).await;
        clients.spawn(newcomer(course, Arc::clone(&counts)));
        due += Duration::from_secs_f64(1.0 / NEWCOMERS_PER_SECOND);
    }
    while clients.join_next().await.is_some() {}
}

async fn newcomer(course: Course, counts: Arc<Counts>) {
    // Refused or unheard: it goes elsewhere, and nothing is lost.
    let Ok(Ok(mut stream)) = timeout(PATIENCE, TcpStream::connect(course.addr)).await else {
        return;
    };
    let answer = match course.mode {
        Mode::Tcp => echo(&mut stream, b"?", b"?").await,
        _ => ask(&mut stream, &http::small_request()).await.map(|_| ()),
    };
    match answer {
        Ok(()) => count(&counts.answered),
        Err(error) => counts.lose(&counts.newcomers_lost, "new connections", &error),
    }
}

/// Asks again and again, until it is told not to, or sees that the connection has been closed.
async fn kept(course: Course, counts: Arc<Counts>) {
    let Ok(mut stream) = TcpStream::connect(course.addr).await else { return };
    while Instant::now() < course.streams_end {
        match ask(&mut stream, &http::small_request()).await {
            Ok(is_last) => {
                count(&counts.answered);
                if is_last {
                    return;
                }
            }
            Err(error) => return counts.lose(&counts.requests_lost, "requests", &error),
        }
        sleep(REQUEST_INTERVAL).await;
        let is_open =
            stream.try_read(&mut [0]).is_err_and(|it| it.kind() == io::ErrorKind::WouldBlock);
        if !is_open {
            return;
        }
    }
}

/// A message and its echo, for as long as the course is.
async fn stream(course: Course, counts: Arc<Counts>) {
    let (request, response) = match course.mode {
        Mode::Tcp => (http::websocket_request(), http::websocket_request()),
        _ => (http::websocket_request(), http::websocket_response()),
    };
    let go = async {
        let mut stream = TcpStream::connect(course.addr).await?;
        if course.mode != Mode::Tcp {
            ask(&mut stream, &http::upgrade_request()).await?;
        }
        while Instant::now() < course.streams_end {
            echo(&mut stream, request, response).await?;
            sleep(MESSAGE_INTERVAL).await;
        }
        io::Result::Ok(())
    };
    if let Err(error) = go.await {
        counts.lose(&counts.streams_cut, "streams", &error);
    }
}

async fn echo(stream: &mut TcpStream, request: &[u8], response: &[u8]) -> io::Result<()> {
    let exchange = async {
        stream.write_all(request).await?;
        let mut answer = vec![0; response.len()];
        stream.read_exact(&mut answer).await?;
        if answer == response { Ok(()) } else { Err(io::Error::other("another answer")) }
    };
    timeout(PATIENCE, exchange).await?
}

/// Waits for the whole answer; whether it says that it is the last one.
async fn ask(stream: &mut TcpStream, request: &[u8]) -> io::Result<bool> {
    let exchange = async {
        stream.write_all(request).await?;
        let (mut answer, mut message) = (Vec::new(), http::Message::default());
        loop {
            let before = answer.len();
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if message.take(&answer[before..])?.1 {
                let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
                return Ok(text.contains("\r\nconnection: close\r\n"));
            }
        }
    };
    timeout(PATIENCE, exchange).await?
}
