//! What the operator chooses for a listener: what it speaks, and whom it turns away how.

use std::net::IpAddr;
use std::sync::Arc;

use crate::protocol::Tracker;
use crate::protocol::http1::Options as Http1Options;

/// What a new connection meets once the lame duck is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RejectMode {
    /// The kernel refuses it (RST to its SYN); with `admit` networks, others' SYNs are dropped.
    #[default]
    Refuse,
    /// 503 with Retry-After for HTTP, a FIN for anything else.
    Http503,
    /// It is accepted and reset.
    Reset,
    /// Its SYN is dropped: it hears nothing.
    Drop,
    /// It is served as before.
    Accept,
}

impl RejectMode {
    /// The mode's name as flags, logs and metrics spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RejectMode::Refuse => "refuse",
            RejectMode::Http503 => "http503",
            RejectMode::Reset => "reset",
            RejectMode::Drop => "drop",
            RejectMode::Accept => "accept",
        }
    }
}

/// What a listener's connections speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// Opaque bytes: a connection is busy until either side closes.
    Tcp,
    /// Told from the first bytes of each connection.
    #[default]
    Auto,
    /// HTTP/1.1 and WebSocket.
    Http1,
    /// HTTP/2 with prior knowledge, and gRPC.
    Http2,
}

impl ListenerProtocol {
    /// A tracker for one connection.
    pub(super) fn tracker(self, options: &Arc<Http1Options>, client: IpAddr) -> Tracker {
        let ping = || fastrand::u64(..).to_be_bytes();
        match self {
            ListenerProtocol::Tcp => Tracker::Tcp,
            ListenerProtocol::Auto => Tracker::auto(Arc::clone(options), client, ping()),
            ListenerProtocol::Http1 => Tracker::http1(Arc::clone(options), client),
            ListenerProtocol::Http2 => Tracker::http2(ping()),
        }
    }
}
