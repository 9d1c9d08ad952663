//! `ebbtide demo`: the whole life of a drain, on this machine, with the real parts.

mod application;
mod block;
mod clients;
mod content;
mod event;
mod newcomers;
mod observe;
mod proxy;
mod screen;
mod story;
mod tally;
mod verdict;

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::duration::Span;
use super::exit::{Exit, Failure};
use crate::net::options;
use crate::signal::Signals;
use application::Application;
use clients::Plan;
use event::{Event, Line, Tone};
use proxy::{Proxy, Times};
use screen::Screen;
use story::Story;

/// Between the moment at which everything runs and the signal: time to see what serving looks like.
const SERVING_PERIOD: Duration = Duration::from_millis(1500);

/// The live part of the screen is drawn ten times a second.
const FRAME_INTERVAL: Duration = Duration::from_millis(100);

/// HTTP downloads beside the streams.
const DOWNLOADS: u16 = 3;

/// See a drain with your own eyes: real processes, real connections, a real SIGTERM
///
/// Starts a small application (TCP echo and HTTP), a controller, and the proxy as a process of its
/// own between them, all on free ports of this machine. Streams are opened, every byte of which is
/// compared; then the proxy gets SIGTERM, and you see what happens, as it happens: the phases,
/// what remains until when, what a new connection meets, what the controller hears, and
/// the end. Exit status 0 only if nothing was lost.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Streams that are open when the signal comes
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=1000))]
    streams: u16,

    /// How many seconds after the signal the last of them ends
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=3600))]
    seconds: u16,

    /// How long new connections are still served, at most: the proxy's own flag
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    drain_delay: Span,

    /// How long the demo's balancer takes to send no new connections once it is told
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    balancer_delay: Span,

    /// One line an event, as also when the output is no terminal
    #[arg(long)]
    plain: bool,
}

impl Args {
    /// The proxy's drain time-out: comfortably after the last stream, whatever was asked for.
    fn drain_timeout(&self) -> Duration {
        let last = Duration::from_secs(self.seconds.into()).max(self.drain_delay.0);
        last + last / 5 + Duration::from_secs(12)
    }
}

/// Shows a drain.
///
/// # Errors
/// When something does not start, or at Ctrl-C. The proxy never outlives the demo.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let mut signals = Signals::new().map_err(Failure::unavailable)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::unavailable)?;
    tokio::select! {
        shown = show(&args) => shown,
        _ = signals.next() => Err(Failure::unavailable("interrupted; the demo's proxy is killed")),
        _ = hangup.recv() => Err(Failure::unavailable("the terminal is gone")),
    }
}

#[expect(clippy::too_many_lines, reason = "the demo's programme, in the order in which it is seen")]
async fn show(args: &Args) -> Result<Exit, Failure> {
    let descriptors = options::raise_descriptor_limit();
    tracing::debug!(descriptors, "descriptor limit raised");
    let mut screen = Screen::new(args.plain);
    let (tell, mut heard) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();

    let application = Application::start().await.map_err(Failure::unavailable)?;
    screen.say(&Line::new("application", format!("TCP echo and HTTP on {}", application.addr)))?;
    let controller = observe::controller(args.balancer_delay.0, tell.clone())?;
    screen.say(&Line::new(
        "controller",
        format!(
            "takes reports on {}; its balancer needs {} to apply weight zero",
            controller.local_addr(),
            args.balancer_delay
        ),
    ))?;
    let times = Times { drain_delay: args.drain_delay.0, drain_timeout: args.drain_timeout() };
    let mut proxy =
        Proxy::start(times, application.addr, controller.local_addr(), tell.clone()).await?;
    screen.say(&Line::new(
        "proxy",
        format!("process {} on {}; its page: http://{}/", proxy.pid(), proxy.listen, proxy.admin),
    ))?;

    let (signalled, signal_at) = watch::channel(None);
    let plan = Plan {
        addr: proxy.listen,
        streams: args.streams,
        downloads: DOWNLOADS,
        last: Duration::from_secs(args.seconds.into()),
        signal_at,
    };
    let mut story = Story::new(plan.connections());
    clients::open(&plan, &tell, &mut tasks);
    tasks.spawn(newcomers::keep_coming(proxy.listen, tell.clone()));
    tasks.spawn(observe::status(observe::client(proxy.admin)?, tell.clone()));
    let ledger = observe::client(controller.local_addr())?;
    tasks.spawn(observe::reports(ledger.clone(), tell));

    let mut begun_at: Option<Instant> = None;
    let mut frames = interval(FRAME_INTERVAL);
    frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !story.is_over() {
        let term_at = begun_at.filter(|_| story.signal_at().is_none() && !story.has_exited());
        let term = async {
            match term_at {
                Some(begun_at) => sleep_until((begun_at + SERVING_PERIOD).into()).await,
                None => std::future::pending().await,
            }
        };
        let lines = tokio::select! {
            biased;
            Some(event) = heard.recv() => story.hear(event),
            exited = proxy.exited(), if !story.has_exited() => {
                // The last report came before the exit; it may not have been looked at yet.
                let mut lines = rest(&mut heard, &mut story);
                for event in observe::last_reports(&ledger).await {
                    lines.extend(story.hear(event));
                }
                lines.extend(story.hear(exited.map_err(Failure::unavailable)?));
                lines
            }
            () = term => {
                proxy.terminate().map_err(Failure::unavailable)?;
                let now = Instant::now();
                signalled.send_replace(Some(now));
                screen.start_clock(now);
                story.signalled(now, proxy.pid())
            }
            _ = frames.tick() => Vec::new(),
        };
        for line in &lines {
            screen.say(line)?;
        }
        if story.clients.have_all_begun() && begun_at.is_none() {
            begun_at = Some(Instant::now());
            screen.say(&Line::new("clients", plan.to_string()).tone(Tone::Good))?;
        }
        screen.draw(&story);
    }
    screen.clear();
    let verdict = verdict::Verdict::new(&story);
    for line in verdict.lines() {
        screen.print(line)?;
    }
    Ok(verdict.exit())
}

/// What was heard and not yet told.
fn rest(heard: &mut mpsc::UnboundedReceiver<Event>, story: &mut Story) -> Vec<Line> {
    let mut lines = Vec::new();
    while let Ok(event) = heard.try_recv() {
        lines.extend(story.hear(event));
    }
    lines
}
