//! From a request's body to a report that we are willing to remember.

use std::time::SystemTime;

use serde::Deserialize;

use crate::api::report::{Report, SCHEMA_VERSION};

/// No name in Kubernetes is longer than 253 characters.
const MAX_NAME_BYTES: usize = 253;

/// Classes, states, reasons, times and addresses are at most some dozens of characters.
const MAX_WORD_BYTES: usize = 64;

/// Classes and listeners of one proxy: each a handful.
const MAX_ENTRIES: usize = 32;

/// Why a body is no report.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the body is not a report: {source}")]
    Json { source: serde_json::Error },
    #[error("schemaVersion `{found}` is not known here; known is {SCHEMA_VERSION}")]
    Version { found: String },
    #[error("{field} is longer than {max_bytes} bytes")]
    TooLong { field: &'static str, max_bytes: usize },
    #[error("{field} has more than {MAX_ENTRIES} entries")]
    TooMany { field: &'static str },
    #[error("podName is empty")]
    Nameless,
    #[error("startTime `{found}` is no time; write 2006-01-02T15:04:05Z")]
    StartTime { found: String },
}

/// A report that can be remembered, and when the proxy that sent it started.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) report: Report,
    pub(super) start_time: SystemTime,
}

#[derive(Deserialize)]
struct Versioned {
    #[serde(rename = "schemaVersion")]
    schema_version: String,
}

pub(super) fn check(body: &[u8]) -> Result<Checked, Error> {
    let json = |source| Error::Json { source };
    // First the version alone: fields of another one would only yield misleading complaints.
    let Versioned { schema_version } = serde_json::from_slice(body).map_err(json)?;
    if schema_version != SCHEMA_VERSION {
        let found = schema_version.chars().take(MAX_WORD_BYTES).collect();
        return Err(Error::Version { found });
    }
    let report: Report = serde_json::from_slice(body).map_err(json)?;
    bounded(&report)?;
    if report.identity.pod_name.is_empty() {
        return Err(Error::Nameless);
    }
    let start_time = humantime::parse_rfc3339(&report.start_time).map_err(|_| {
        let found = report.start_time.clone();
        Error::StartTime { found }
    })?;
    Ok(Checked { report, start_time })
}

fn bounded(report: &Report) -> Result<(), Error> {
    let identity = &report.identity;
    let names = [
        ("namespace", &identity.namespace),
        ("podName", &identity.pod_name),
        ("podUID", &identity.pod_uid),
        ("nodeName", &identity.node_name),
        ("podIP", &identity.pod_ip),
    ];
    for (field, value) in names {
        at_most(MAX_NAME_BYTES, field, value)?;
    }
    at_most(MAX_WORD_BYTES, "phase", &report.phase)?;
    at_most(MAX_WORD_BYTES, "startTime", &report.start_time)?;
    let optional = [
        ("reason", &report.reason),
        ("drainStartTime", &report.drain_start_time),
        ("drainDeadline", &report.drain_deadline),
    ];
    for (field, value) in optional {
        at_most(MAX_WORD_BYTES, field, value.as_deref().unwrap_or_default())?;
    }
    few("byClass", report.by_class.len())?;
    for class in report.by_class.keys() {
        at_most(MAX_WORD_BYTES, "a class in byClass", class)?;
    }
    few("listeners", report.listeners.len())?;
    for listener in &report.listeners {
        at_most(MAX_WORD_BYTES, "address in listeners", &listener.address)?;
        at_most(MAX_WORD_BYTES, "state in listeners", &listener.state)?;
    }
    Ok(())
}

fn at_most(max_bytes: usize, field: &'static str, value: &str) -> Result<(), Error> {
    if value.len() > max_bytes {
        return Err(Error::TooLong { field, max_bytes });
    }
    Ok(())
}

fn few(field: &'static str, count: usize) -> Result<(), Error> {
    if count > MAX_ENTRIES {
        return Err(Error::TooMany { field });
    }
    Ok(())
}
