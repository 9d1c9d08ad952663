//! The clients that are there when the signal comes: streams and downloads, every byte compared.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::SERVING_PERIOD;
use super::application::{PIECE_BYTES, PIECE_INTERVAL};
use super::content::Content;
use super::event::{Ended, Event, Tell};
use super::newcomers::get;

/// Between the messages of a stream.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(100);

/// A message is at most this long.
const MAX_MESSAGE_BYTES: usize = 4096;

/// On this machine nothing takes this long; what does has stalled, and that counts as lost.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The first stream ends this long after the signal, unless all are to end sooner.
const FIRST_END: Duration = Duration::from_secs(2);

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Which connections there are to be.
#[derive(Debug)]
pub struct Plan {
    pub addr: SocketAddr,
    pub streams: u16,
    pub downloads: u16,
    /// When the last one ends, from the signal.
    pub last: Duration,
    /// When the signal was sent.
    pub signal_at: watch::Receiver<Option<Instant>>,
}

impl Plan {
    pub fn connections(&self) -> usize {
        usize::from(self.streams) + usize::from(self.downloads)
    }

    /// When the `index`-th of `count` ends, from the signal: one after the other up to the last.
    fn life(&self, index: u16, count: u16) -> Duration {
        let first = FIRST_END.min(self.last / 2);
        let steps = u32::from(count.saturating_sub(1)).max(1);
        let earlier = self.last.saturating_sub(first) * u32::from(count - 1 - index) / steps;
        self.last.saturating_sub(earlier)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (streams, downloads) = (self.streams, self.downloads);
        let plural = if streams == 1 { "" } else { "s" };
        write!(f, "{streams} TCP stream{plural} and {downloads} HTTP downloads are under way")
    }
}

/// Opens them all.
pub fn open(plan: &Plan, tell: &Tell, tasks: &mut JoinSet<()>) {
    for index in 0..plan.streams {
        let life = plan.life(index, plan.streams);
        let client = Client::new(u64::from(index), plan, tell);
        tasks.spawn(client.run(async move |client| client.stream(life).await));
    }
    for index in 0..plan.downloads {
        let life = plan.life(index, plan.downloads);
        let client = Client::new(1_000_000 + u64::from(index), plan, tell);
        tasks.spawn(client.run(async move |client| client.download(life).await));
    }
}

struct Client {
    seed: u64,
    addr: SocketAddr,
    signal_at: watch::Receiver<Option<Instant>>,
    tell: Tell,
    verified_bytes: u64,
}

impl Client {
    fn new(seed: u64, plan: &Plan, tell: &Tell) -> Self {
        let signal_at = plan.signal_at.clone();
        Client { seed, addr: plan.addr, signal_at, tell: tell.clone(), verified_bytes: 0 }
    }

    async fn run(mut self, life: impl AsyncFnOnce(&mut Self) -> Result<(), Problem>) {
        let whole = life(&mut self).await.map_err(|problem| problem.to_string());
        let ended = Ended { whole, verified_bytes: self.verified_bytes, at: Instant::now() };
        // The demo is over when nobody listens any more.
        let _ = self.tell.send(Event::Ended(ended));
    }

    fn begun(&self) {
        let _ = self.tell.send(Event::Begun);
    }

    /// Sends a message every now and then, compares what comes back, and at last says goodbye.
    async fn stream(&mut self, life: Duration) -> Result<(), Problem> {
        let mut stream = prompt(TcpStream::connect(self.addr)).await??;
        stream.set_nodelay(true)?;
        let mut content = Content::new(self.seed);
        let mut sizes = fastrand::Rng::with_seed(self.seed);
        let mut clock = interval(MESSAGE_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut echoed = vec![0; MAX_MESSAGE_BYTES];
        loop {
            clock.tick().await;
            if self.signal_at.borrow().is_some_and(|at| at.elapsed() >= life) {
                break;
            }
            let message = content.take(sizes.usize(1..=MAX_MESSAGE_BYTES));
            let echo = &mut echoed[..message.len()];
            prompt(stream.write_all(&message)).await??;
            prompt(stream.read_exact(echo)).await??;
            if *echo != *message {
                return Err("other bytes came back than were sent".into());
            }
            if self.verified_bytes == 0 {
                self.begun();
            }
            self.verified_bytes += message.len() as u64;
        }
        stream.shutdown().await?;
        match prompt(stream.read(&mut echoed)).await?? {
            0 => Ok(()),
            _ => Err("bytes came back that were never sent".into()),
        }
    }

    /// Downloads slowly, and compares.
    async fn download(&mut self, life: Duration) -> Result<(), Problem> {
        let time = SERVING_PERIOD + life;
        let pieces = time.as_millis() / PIECE_INTERVAL.as_millis();
        let stream = prompt(TcpStream::connect(self.addr)).await??;
        let path = format!("/download/{}/{pieces}", self.seed);
        let mut response = prompt(get(stream, &path)).await??;
        self.begun();
        let mut content = Content::new(self.seed);
        while let Some(frame) = prompt(response.body_mut().frame()).await? {
            let Ok(data) = frame?.into_data() else { continue };
            if data != content.take(data.len()) {
                return Err("other bytes came than the application sent".into());
            }
            self.verified_bytes += data.len() as u64;
        }
        if u128::from(self.verified_bytes) != pieces * PIECE_BYTES as u128 {
            return Err("the download ended early".into());
        }
        Ok(())
    }
}

async fn prompt<T>(step: impl Future<Output = T>) -> Result<T, Problem> {
    timeout(STALL_TIMEOUT, step)
        .await
        .map_err(|_| format!("nothing moved for {} s", STALL_TIMEOUT.as_secs()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_end_one_after_the_other_and_the_last_one_at_last() {
        let (_, signal_at) = watch::channel(None);
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let last = Duration::from_secs(15);
        let plan = Plan { addr, streams: 14, downloads: 1, last, signal_at };
        let lives: Vec<u64> = (0..14).map(|index| plan.life(index, 14).as_secs()).collect();
        assert_eq!(lives, (2..=15).collect::<Vec<u64>>());
        assert_eq!(plan.life(0, 1), last);
    }
}
