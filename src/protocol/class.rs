use super::Surprise;

/// What a connection is being used for, as far as its bytes told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// HTTP/1 with an exchange in flight, or a part of a head.
    Http,
    /// HTTP/1 between exchanges.
    Idle,
    /// HTTP/1 whose every request so far was a health check.
    HealthCheck,
    /// A WebSocket.
    WebSocket,
    /// A tunnel after CONNECT, or another protocol after a 101.
    Upgraded,
    /// Not looked at.
    Tcp,
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
            Class::Tcp => "tcp",
            Class::Opaque(_) => "opaque",
        }
    }
}
