use super::Surprise;

/// What a connection is being used for, as far as its bytes told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// HTTP/1 with an exchange in flight, or a part of a head.
    Http,
    /// HTTP between exchanges, or before the first one.
    Idle,
    /// HTTP/1 whose every request so far was a health check.
    HealthCheck,
    /// A WebSocket.
    WebSocket,
    /// A tunnel after CONNECT, or another protocol after a 101.
    Upgraded,
    /// HTTP/2, with so many streams open.
    Http2 {
        /// Streams that have begun and not ended.
        open_streams: u32,
    },
    /// Not looked at.
    Tcp,
    /// Neither side has sent a byte yet: the client may wait for a server that speaks first, and late.
    Silent,
    /// The same where it is known that clients speak first: the next request will tell.
    SilentClient,
    /// Not understood, and passed on untouched for good.
    Opaque(Surprise),
}

impl Class {
    /// The class's name as reports, logs and metrics spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::Http => "http",
            Class::Idle => "idle",
            Class::HealthCheck => "healthCheck",
            Class::WebSocket => "websocket",
            Class::Upgraded => "upgraded",
            Class::Http2 { .. } => "http2",
            Class::Tcp => "tcp",
            Class::Silent | Class::SilentClient => "silent",
            Class::Opaque(_) => "opaque",
        }
    }

    /// Every class's name, for counting.
    pub const NAMES: [&'static str; 9] = [
        "http",
        "idle",
        "healthCheck",
        "websocket",
        "upgraded",
        "http2",
        "tcp",
        "silent",
        "opaque",
    ];

    /// Why it does not keep a drain from ending, if it does not.
    #[must_use]
    pub fn excluded(self) -> Option<&'static str> {
        match self {
            Class::Idle => Some("between two requests; closed soon in a drain"),
            Class::HealthCheck => Some("only checks our health"),
            Class::SilentClient => {
                Some("has sent nothing, and all others spoke HTTP; closed soon in a drain")
            }
            Class::Http2 { open_streams: 0 } => Some("has no open stream; closed soon in a drain"),
            _ => None,
        }
    }

    /// What surprised, if it is opaque for that.
    #[must_use]
    pub fn surprise(self) -> Option<Surprise> {
        match self {
            Class::Opaque(surprise) => Some(surprise),
            _ => None,
        }
    }
}
