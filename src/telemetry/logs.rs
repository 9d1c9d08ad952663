//! Log set-up: lines for people on a terminal, JSON for machines.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::spool::Spool;

pub use super::spool::Spooling as Log;

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

/// Sets up logging to standard error, through a thread of its own: when the pipe is full and nobody
/// reads, lines wait and are then dropped, but no connection and no deadline waits for them.
/// `filter` is `info`, `debug`, `ebbtide::drain=debug,warn`, ….
///
/// # Errors
/// When the filter can't be read; the text says what to write. When a subscriber is set already, or
/// the system gives no thread.
pub fn init(format: LogFormat, filter: &str) -> Result<Log, String> {
    // Not the filter by spans and fields: there are no spans, and it brings an engine for regular
    // expressions, which is half a MiB that every pod would hold.
    let filter: Targets = filter.parse().map_err(|error| {
        format!(
            "log filter `{filter}`: {error}; write for example info, debug or ebbtide=debug,warn"
        )
    })?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !stderr().is_terminal(),
    };
    let spool = Spool::default();
    let log = spool.write_to(stderr()).map_err(|error| error.to_string())?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(move || spool.clone());
    let set = if json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else {
        registry.with(layer.with_target(false).with_ansi(stderr().is_terminal())).try_init()
    };
    set.map(|()| log).map_err(|error: TryInitError| error.to_string())
}
