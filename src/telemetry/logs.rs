//! Log set-up: lines for people on a terminal, JSON for machines.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::{LevelFilter, Targets};
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
    let filter = parse(filter)?;
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

/// A filter, of which every part is a level, a module's path or both.
///
/// What is neither is taken by the parser for the name of a module that logs nothing.
fn parse(filter: &str) -> Result<Targets, String> {
    let wrong = |what: &str| {
        format!(
            "log filter `{filter}`: {what}; write for example info, debug or ebbtide=debug,warn"
        )
    };
    let is_path = |path: &str| {
        let is_name = |name: &str| {
            let mut characters = name.chars();
            characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
                && characters.all(|it| it.is_ascii_alphanumeric() || it == '_')
        };
        path.split("::").all(is_name)
    };
    for part in filter.split(',') {
        let (path, level) = part.split_once('=').unwrap_or((part, ""));
        if part.is_empty() || !is_path(path) && part.parse::<LevelFilter>().is_err() {
            return Err(wrong(&format!("`{part}` is neither a level nor the path of a module")));
        }
        if part.contains('=') && level.is_empty() {
            return Err(wrong(&format!("`{part}` has no level")));
        }
    }
    filter.parse().map_err(|error| wrong(&format!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_paths_of_modules() {
        for filter in
            ["info", "WARN", "off", "3", "ebbtide=debug,warn", "ebbtide::drain=trace", "hyper"]
        {
            parse(filter).expect(filter);
        }
        for filter in ["", "[[[{", "ebbtide=", "=debug", "info,,warn", "a b", "ebbtide=loud", "::"]
        {
            let problem = parse(filter).expect_err(filter);
            assert!(problem.contains("write for example info"), "{problem}");
        }
    }
}
