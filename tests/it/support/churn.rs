//! New connections at a steady rate from many addresses, each of which says what became of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::PATIENCE;

/// Between looks at how many connections are due: a fiftieth of the listener's settle period.
const TICK: Duration = Duration::from_millis(2);
/// SYNs that were dropped are sent again after 1, 3, 7 s; by then there is an answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// What each client asks; the echo is the answer.
const REQUEST: &[u8] = b"are you there?";

/// What became of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It got the whole answer to its request.
    Answered,
    /// The kernel refused it: its client goes elsewhere.
    Refused,
    /// Its SYN was never answered: likewise.
    Unheard,
    /// It was established, and then lost without the answer.
    Lost(String),
    /// The generator itself could not do its part.
    Botched(String),
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub began: SystemTime,
    /// Until the outcome was known.
    pub took: Duration,
    pub outcome: Outcome,
}

/// What is to be generated.
pub struct Churn {
    pub sources: Vec<IpAddr>,
    pub targets: Vec<SocketAddr>,
    pub per_second: u32,
}

/// A generator at work, on a thread of its own in the network namespace of its caller.
pub struct Churning {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    began: Instant,
    thread: JoinHandle<(Vec<Attempt>, Duration)>,
}

/// What came of it all.
#[derive(Debug)]
pub struct Tally {
    pub attempts: Vec<Attempt>,
    /// Connections begun per second, over the whole time.
    pub rate: f64,
}

impl Churn {
    pub fn start(self) -> Churning {
        let stop = Arc::new(AtomicBool::new(false));
        let opened = Arc::new(AtomicUsize::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&opened));
        let thread = std::thread::spawn(move || runtime().block_on(self.run(&stopped, &counter)));
        Churning { stop, opened, began: Instant::now(), thread }
    }

    async fn run(self, stop: &AtomicBool, opened: &AtomicUsize) -> (Vec<Attempt>, Duration) {
        let began = Instant::now();
        let mut attempts = JoinSet::new();
        let mut results = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        while !stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            let due = began.elapsed().as_secs_f64() * f64::from(self.per_second);
            while (opened.load(Ordering::Relaxed) as f64) < due {
                let index = opened.fetch_add(1, Ordering::Relaxed);
                let source = self.sources[index % self.sources.len()];
                let target = self.targets[index % self.targets.len()];
                attempts.spawn(attempt(source, target));
            }
            while let Some(result) = attempts.try_join_next() {
                results.push(result.expect("an attempt that ends"));
            }
        }
        let took = began.elapsed();
        while let Some(result) = attempts.join_next().await {
            results.push(result.expect("an attempt that ends"));
        }
        (results, took)
    }
}

impl Churning {
    /// Waits until so many more connections have been begun.
    pub fn another(&self, count: usize) {
        let wanted = self.opened.load(Ordering::Relaxed) + count;
        while self.opened.load(Ordering::Relaxed) < wanted {
            assert!(self.began.elapsed() < PATIENCE, "the generator does not get on");
            std::thread::sleep(TICK);
        }
    }

    /// Begins no more, and waits for nothing.
    pub fn pause(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Begins no more, and waits until each has its outcome.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let (attempts, took) = self.thread.join().expect("the generator ends well");
        let rate = attempts.len() as f64 / took.as_secs_f64();
        Tally { attempts, rate }
    }
}

impl Tally {
    pub fn count(&self, wanted: &Outcome) -> usize {
        self.attempts.iter().filter(|attempt| attempt.outcome == *wanted).count()
    }

    /// Those that were established and then lost, and those that the generator spoilt.
    pub fn lost(&self) -> Vec<&Attempt> {
        let lost = |outcome: &Outcome| matches!(outcome, Outcome::Lost(_) | Outcome::Botched(_));
        self.attempts.iter().filter(|attempt| lost(&attempt.outcome)).collect()
    }

    /// The longest that somebody who was refused, or not heard, has waited for it.
    pub fn longest_refusal(&self) -> Duration {
        let in_vain = |outcome: &Outcome| matches!(outcome, Outcome::Refused | Outcome::Unheard);
        let waits = self.attempts.iter().filter(|attempt| in_vain(&attempt.outcome));
        waits.map(|attempt| attempt.took).max().unwrap_or_default()
    }

    /// Connections that were begun at most `distance` before or after a moment.
    pub fn around(&self, moment: SystemTime, distance: Duration) -> usize {
        let near = moment - distance..moment + distance;
        self.attempts.iter().filter(|attempt| near.contains(&attempt.began)).count()
    }
}

async fn attempt(source: IpAddr, target: SocketAddr) -> Attempt {
    let (began, start) = (SystemTime::now(), Instant::now());
    let outcome = outcome(source, target).await;
    Attempt { began, took: start.elapsed(), outcome }
}

async fn outcome(source: IpAddr, target: SocketAddr) -> Outcome {
    let stream = match timeout(CONNECT_PATIENCE, connect(source, target)).await {
        Err(_) => return Outcome::Unheard,
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return match error.kind() {
                io::ErrorKind::ConnectionRefused => Outcome::Refused,
                io::ErrorKind::TimedOut => Outcome::Unheard,
                // Only an established connection can be reset.
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    Outcome::Lost(format!("while connecting: {error}"))
                }
                _ => Outcome::Botched(error.to_string()),
            };
        }
    };
    match timeout(PATIENCE, ask(stream)).await {
        Ok(Ok(())) => Outcome::Answered,
        Ok(Err(error)) => Outcome::Lost(error.to_string()),
        Err(_) => Outcome::Lost("no answer".to_owned()),
    }
}

async fn connect(source: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(target).await
}

async fn ask(mut stream: TcpStream) -> io::Result<()> {
    let mut answer = [0; REQUEST.len()];
    stream.write_all(REQUEST).await?;
    stream.read_exact(&mut answer).await?;
    if answer != REQUEST {
        return Err(io::Error::other("another answer"));
    }
    // Answered: the end is a reset, so that no port waits a minute in TIME_WAIT.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// An echo server on one thread, for thousands of connections, as long as the test runs.
pub fn echo() -> SocketAddr {
    let runtime = runtime();
    let listener = {
        let _inside = runtime.enter();
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        // As long as the kernel allows, so that the queue under test is not this one.
        socket.listen(4096).expect("a listener")
    };
    let addr = listener.local_addr().expect("its address");
    std::thread::spawn(move || runtime.block_on(serve(listener)));
    addr
}

async fn serve(listener: TcpListener) {
    loop {
        // Out of descriptors for a moment, at worst.
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let mut buffer = [0; 256];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// One thread's runtime.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}
