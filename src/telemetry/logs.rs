//! Log set-up: lines for people on a terminal, JSON for machines.

use std::io::{IsTerminal, stderr};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human-readable on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Human-readable.
    Text,
    /// One JSON object a line.
    Json,
}

/// Lines that wait while nobody reads; what comes then is dropped. 5,000 connections that are
/// force-closed at once say as many lines.
const WAITING_LINES: usize = 16 * 1024;

/// Keeps the log's writer alive; dropping it writes what waits, for a second at most.
#[derive(Debug)]
pub struct Log(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Sets up logging to standard error, through a thread of its own: when the pipe is full and nobody
/// reads, lines wait and are then dropped, but no connection and no deadline waits for them.
/// `filter` is `info`, `debug`, `ebbtide::drain=debug,warn`, ….
///
/// # Errors
/// When the filter can't be read; the text says what to write. When a subscriber is set already.
pub fn init(format: LogFormat, filter: &str) -> Result<Log, String> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        format!(
            "log filter `{filter}`: {error}; write for example info, debug or ebbtide=debug,warn"
        )
    })?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let set = if json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else {
        registry.with(layer.with_target(false).with_ansi(stderr().is_terminal())).try_init()
    };
    set.map(|()| Log(guard)).map_err(|error: TryInitError| error.to_string())
}
