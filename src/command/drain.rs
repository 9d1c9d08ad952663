//! `ebbtide drain` and `ebbtide undrain`.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};

use super::client::{Remote, Target};
use super::duration::Span;
use super::{Exit, Failure};
use crate::api::report::Report;

/// Between looks at the proxy while waiting.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Begin a drain, as a preStop hook does: exec: command: ["/ebbtide", "drain"]
///
/// A drain that is under way goes on as it is. Exit status: 0 begun, or with --wait drained; 75 the
/// deadline (or --timeout) passed; 69 no proxy there.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,

    /// Wait until the drain is over
    #[arg(long)]
    wait: bool,

    /// Stop waiting after this long; the drain goes on
    #[arg(long, value_name = "DURATION", requires = "wait")]
    timeout: Option<Span>,
}

/// End a drain and serve again
#[derive(Clone, Debug, clap::Args)]
pub struct UndrainArgs {
    #[command(flatten)]
    target: Target,
}

/// Begins a drain, and may wait for its end.
///
/// # Errors
/// Exit 69 when there is no proxy.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let remote = args.target.remote()?;
    let report = remote.drain().await?;
    if !args.wait {
        println!("{}", summary(&report));
        return Ok(Exit::Done);
    }
    let timeout = async {
        match args.timeout {
            Some(timeout) => tokio::time::sleep(timeout.0).await,
            None => std::future::pending().await,
        }
    };
    let progress = progress_line();
    tokio::select! {
        last = remote.wait() => {
            progress.finish_and_clear();
            Ok(verdict(&last?))
        }
        () = show(&remote, &progress) => Err(Failure::bug("nothing to show any more")),
        () = timeout => {
            progress.finish_and_clear();
            eprintln!("ebbtide: still draining after --timeout; the drain goes on");
            Ok(Exit::DeadlinePassed)
        }
    }
}

/// Serves again.
///
/// # Errors
/// Exit 69 when there is no proxy, or nothing to undo.
pub async fn undrain(args: UndrainArgs) -> Result<Exit, Failure> {
    let report = args.target.remote()?.undrain().await?;
    println!("{}", summary(&report));
    Ok(Exit::Done)
}

fn verdict(report: &Report) -> Exit {
    println!("{}", summary(report));
    match report.phase.as_str() {
        "Drained" if report.forced_closes == 0 => Exit::Done,
        // Undone meanwhile: there is nothing to wait for.
        "Serving" => Exit::Done,
        _ => Exit::DeadlinePassed,
    }
}

fn summary(report: &Report) -> String {
    format!(
        "{}: {} connections, {} of them blocking; {} force-closed",
        report.phase,
        report.active_connections,
        report.drain_blocking_connections,
        report.forced_closes
    )
}

/// A line that moves on a terminal, and nothing elsewhere.
fn progress_line() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(LOOK_INTERVAL / 2);
    bar
}

/// Keeps the line up to date. Never ends by itself: a proxy that does not answer once may the next time.
async fn show(remote: &Remote, progress: &ProgressBar) {
    let started = Instant::now();
    loop {
        if let Ok(report) = remote.status().await {
            progress.set_message(format!(
                "{}: {} remaining, {} s elapsed, {}",
                report.phase,
                report.drain_blocking_connections,
                started.elapsed().as_secs(),
                deadline(&report)
            ));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The deadline as a countdown.
pub(super) fn deadline(report: &Report) -> String {
    let Some(deadline) = &report.drain_deadline else { return "no deadline".to_owned() };
    match humantime::parse_rfc3339(deadline) {
        Ok(at) => match at.duration_since(SystemTime::now()) {
            Ok(left) => format!("deadline in {} s", left.as_secs()),
            Err(_) => "deadline passed".to_owned(),
        },
        Err(_) => format!("deadline {deadline}"),
    }
}
