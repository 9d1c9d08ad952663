//! From a request's body to a report that we are willing to remember.

use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;

use super::decide::{Application, Heard, Run};
use ebbtide_api::phase::{Phase, Trigger};
use ebbtide_api::report::{Report, SCHEMA_VERSION};

/// No name in Kubernetes is longer than 253 characters.
const MAX_NAME_BYTES: usize = 253;

/// Classes, states, reasons, times and addresses are at most some dozens of characters.
const MAX_WORD_BYTES: usize = 48;

/// Classes of one proxy: eight are known.
const MAX_CLASSES: usize = 16;

/// Listeners of one proxy: a handful.
const MAX_LISTENERS: usize = 32;

/// All texts of a report together. A proxy's are some hundred bytes; ten thousand targets must fit into the memory
/// that a controller is given.
const MAX_TEXT_BYTES: usize = 2048;

/// A deadline that lies further ahead is as good as none.
const MAX_DRAIN: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why a body is no report.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the body is not a report: {source}")]
    Json { source: serde_json::Error },
    #[error("schemaVersion `{found}` is not known here; known is {SCHEMA_VERSION}")]
    Version { found: String },
    #[error("{field} is longer than {max_bytes} bytes")]
    TooLong { field: &'static str, max_bytes: usize },
    #[error("{field} has more than {max} entries")]
    TooMany { field: &'static str, max: usize },
    #[error("all texts together are longer than {MAX_TEXT_BYTES} bytes")]
    TooMuch,
    #[error("{field} is below {least}")]
    TooSmall { field: &'static str, least: u8 },
    #[error("runId `{found}` is not 32 hexadecimal digits")]
    Run { found: String },
    #[error("podName is empty")]
    Nameless,
    #[error("{field} `{found}` holds something else than letters, digits and `-._:`")]
    Name { field: &'static str, found: String },
    #[error("{field} holds something else than printable ASCII")]
    Word { field: &'static str },
    #[error("{field} `{found}` is no time; write 2006-01-02T15:04:05Z")]
    Time { field: &'static str, found: String },
    #[error(
        "phase `{found}` is not known here; known are Serving, LameDuck, Draining, Closing, Drained"
    )]
    Phase { found: String },
}

/// A report that can be remembered, and what of it decides anything.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) report: Report,
    pub(super) heard: Heard,
}

/// The same moment on the clock of the wall and on ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    pub(super) instant: Instant,
}

impl Now {
    pub(super) fn read() -> Self {
        Now { wall: SystemTime::now(), instant: Instant::now() }
    }

    /// `time` on our clock, as far as both can say.
    fn instant_of(self, time: SystemTime) -> Instant {
        match time.duration_since(self.wall) {
            Ok(ahead) => self.instant + ahead.min(MAX_DRAIN),
            Err(error) => self.instant.checked_sub(error.duration()).unwrap_or(self.instant),
        }
    }
}

#[derive(Deserialize)]
struct Versioned {
    #[serde(rename = "schemaVersion")]
    schema_version: String,
}

pub(super) fn check(body: &[u8], now: Now) -> Result<Checked, Error> {
    let json = |source| Error::Json { source };
    // First the version alone: fields of another one would only yield misleading complaints.
    let Versioned { schema_version } = serde_json::from_slice(body).map_err(json)?;
    if schema_version != SCHEMA_VERSION {
        return Err(Error::Version { found: excerpt(&schema_version) });
    }
    let report: Report = serde_json::from_slice(body).map_err(json)?;
    bounded(&report)?;
    if report.identity.pod_name.is_empty() {
        return Err(Error::Nameless);
    }
    let phase = Phase::from_name(&report.phase)
        .ok_or_else(|| Error::Phase { found: excerpt(&report.phase) })?;
    if report.sequence == 0 {
        return Err(Error::TooSmall { field: "sequence", least: 1 });
    }
    if report.drain_timeout_seconds < 0.0 {
        return Err(Error::TooSmall { field: "drainTimeoutSeconds", least: 0 });
    }
    let begun = time("startTime", &report.start_time)?;
    let run = match &report.run_id {
        Some(text) => Run::parse(text).ok_or_else(|| Error::Run { found: excerpt(text) })?,
        None => Run::begun(begun),
    };
    let drain = report.drain_start_time.as_deref();
    let drain = drain.map(|text| time("drainStartTime", text)).transpose()?;
    let deadline = report.drain_deadline.as_deref();
    let deadline = deadline.map(|text| time("drainDeadline", text)).transpose()?;
    // What is left is true whatever the clocks of both hosts say.
    let deadline = match report.drain_seconds_left {
        Some(seconds) => Some(now.instant + seconds_left(seconds)?),
        None => deadline.map(|at| now.instant_of(at)),
    };
    let heard = Heard {
        run,
        sequence: report.sequence,
        phase,
        must_leave: report.reason.as_deref() == Some(Trigger::Signal.name()),
        application: match report.application_reached {
            Some(false) => Application::NotYet,
            Some(true) | None => Application::Reached,
        },
        blocking: report.drain_blocking_connections,
        drain,
        deadline,
        former_weight: report.former_weight,
    };
    Ok(Checked { report, heard })
}

fn seconds_left(seconds: f64) -> Result<Duration, Error> {
    if seconds < 0.0 {
        return Err(Error::TooSmall { field: "drainSecondsLeft", least: 0 });
    }
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(MAX_DRAIN).min(MAX_DRAIN))
}

fn time(field: &'static str, text: &str) -> Result<SystemTime, Error> {
    humantime::parse_rfc3339(text).map_err(|_| Error::Time { field, found: excerpt(text) })
}

fn excerpt(text: &str) -> String {
    text.chars().take(MAX_WORD_BYTES).collect()
}

fn bounded(report: &Report) -> Result<(), Error> {
    let identity = &report.identity;
    let names = [
        ("namespace", &identity.namespace),
        ("podName", &identity.pod_name),
        ("podUID", &identity.pod_uid),
        ("nodeName", &identity.node_name),
        ("podIP", &identity.pod_ip),
        ("service", &identity.service),
    ];
    for (field, value) in names {
        at_most(MAX_NAME_BYTES, field, value)?;
        // They go into paths, logs, metrics, pages and balancers' commands.
        if !value.bytes().all(|it| it.is_ascii_alphanumeric() || b"-._:".contains(&it)) {
            return Err(Error::Name { field, found: excerpt(value) });
        }
    }
    word("phase", &report.phase)?;
    word("startTime", &report.start_time)?;
    let optional = [
        ("reason", &report.reason),
        ("drainStartTime", &report.drain_start_time),
        ("drainDeadline", &report.drain_deadline),
    ];
    for (field, value) in optional {
        word(field, value.as_deref().unwrap_or_default())?;
    }
    few("byClass", report.by_class.len(), MAX_CLASSES)?;
    for class in report.by_class.keys() {
        word("a class in byClass", class)?;
    }
    few("listeners", report.listeners.len(), MAX_LISTENERS)?;
    for listener in &report.listeners {
        word("address in listeners", &listener.address)?;
        word("state in listeners", &listener.state)?;
    }
    let named: usize = names.iter().map(|(_, value)| value.len()).sum();
    let classes: usize = report.by_class.keys().map(String::len).sum();
    let listeners = report.listeners.iter().map(|it| it.address.len() + it.state.len());
    if named + classes + listeners.sum::<usize>() > MAX_TEXT_BYTES {
        return Err(Error::TooMuch);
    }
    Ok(())
}

/// Words go into logs and onto terminals.
fn word(field: &'static str, value: &str) -> Result<(), Error> {
    at_most(MAX_WORD_BYTES, field, value)?;
    if !value.bytes().all(|it| it == b' ' || it.is_ascii_graphic()) {
        return Err(Error::Word { field });
    }
    Ok(())
}

fn at_most(max_bytes: usize, field: &'static str, value: &str) -> Result<(), Error> {
    if value.len() > max_bytes {
        return Err(Error::TooLong { field, max_bytes });
    }
    Ok(())
}

fn few(field: &'static str, count: usize, max: usize) -> Result<(), Error> {
    if count > max {
        return Err(Error::TooMany { field, max });
    }
    Ok(())
}
