use std::fmt;

/// How one attempt to report ended: the `result` of `ebbtide_report_attempts_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// Stored, with an answer that we understood.
    Ok,
    /// A status that is no success; a redirect is none.
    HttpError,
    /// No whole answer in time.
    Timeout,
    /// No connection, no trust in its certificate, or it broke.
    ConnectError,
    /// Stored: the status says so, but the answer's body is none that we understand.
    Unreadable,
    /// Something that is no HTTP, so that nobody knows whether it is stored.
    Garbage,
    /// Abandoned, because the phase changed and a newer report had to go out at once.
    Superseded,
}

impl Attempt {
    /// Every way an attempt can end.
    pub const ALL: [Attempt; 7] = [
        Attempt::Ok,
        Attempt::HttpError,
        Attempt::Timeout,
        Attempt::ConnectError,
        Attempt::Unreadable,
        Attempt::Garbage,
        Attempt::Superseded,
    ];

    /// Whether the controller has the report now.
    #[must_use]
    pub fn is_stored(self) -> bool {
        matches!(self, Attempt::Ok | Attempt::Unreadable)
    }

    /// The name as logs and metrics spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Attempt::Ok => "ok",
            Attempt::HttpError => "http_error",
            Attempt::Timeout => "timeout",
            Attempt::ConnectError => "connect_error",
            Attempt::Unreadable => "unreadable",
            Attempt::Garbage => "garbage",
            Attempt::Superseded => "superseded",
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
