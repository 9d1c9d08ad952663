//! The connections as `/connections` lists them.

use serde::{Deserialize, Serialize};

/// The answer of GET /connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Open connections, oldest first.
    pub connections: Vec<ConnectionView>,
}

/// One open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    /// Its name, for DELETE /connections/{id}.
    pub id: u64,
    /// The client's address.
    pub peer: String,
    /// The listener's address.
    pub listener: String,
    /// What it is being used for: `http`, `idle`, `websocket`, `upgraded`, `http2`, `tcp`,
    /// `silent`, `opaque`, `healthCheck`.
    pub class: String,
    /// Open streams, of HTTP/2.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub open_streams: Option<u32>,
    /// What made it opaque, if anything surprised.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub surprise: Option<String>,
    /// What the client has begun and is waited for to finish, where that wait is bounded: `head` or
    /// `request`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unfinished: Option<String>,
    /// How long it has been open.
    pub age_seconds: f64,
    /// Bytes that the client has sent.
    pub from_client_bytes: u64,
    /// Bytes that the application has sent.
    pub from_upstream_bytes: u64,
    /// Whether it keeps a drain from ending.
    pub blocking: bool,
    /// Why it does not, if it does not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub excluded: Option<String>,
    /// Whether the drain has told it to leave.
    pub leaving: bool,
}

/// What `/live` gives to the page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// The report of this moment.
    pub status: super::report::Report,
    /// Blocking connections, second by second, oldest first.
    pub history: Vec<u64>,
    /// The oldest connections.
    pub oldest: Vec<ConnectionView>,
}
