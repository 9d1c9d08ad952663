//! Why there is no connection to the application, each reason by its own name.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::Upstream;

/// Why there is no connection to the application.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It did not accept in time: its queue is full, or something drops what is sent to it.
    #[error(
        "the application at {0} did not accept: each try ended after --connect-timeout {1:?}, the \
         last one when --upstream-wait {2:?} was over. Is its accept queue full?"
    )]
    Timeout(Upstream, Duration, Duration),
    /// Nobody listens there, even after waiting.
    #[error("no application listens at {0} (waited --upstream-wait {1:?})")]
    NotThere(Upstream, Duration),
    /// The queue of its Unix socket is full, even after waiting.
    #[error(
        "the accept queue of the application at {0} is full (EAGAIN, waited --upstream-wait {1:?}): \
         it accepts too slowly, or its backlog is too short"
    )]
    QueueFull(Upstream, Duration),
    /// No local port is free, or this host has no address that the application can be reached from.
    #[error(
        "no local port is left for a connection to {0} (EADDRNOTAVAIL): widen \
         net.ipv4.ip_local_port_range, give --upstream-bind several loopback addresses, or let the \
         application listen on a Unix socket. If there is no connection at all, this host has no \
         address of that family"
    )]
    Ports(Upstream),
    /// This process has no descriptor left.
    #[error(
        "out of descriptors (EMFILE) for a connection to {0}: raise the limit (ulimit -n) or lower \
         --max-connections"
    )]
    ProcessDescriptors(Upstream),
    /// The whole system has none left.
    #[error(
        "the system is out of descriptors (ENFILE) for a connection to {0}: raise fs.file-max on the \
         node"
    )]
    SystemDescriptors(Upstream),
    /// The kernel has no memory for sockets.
    #[error("the kernel has no memory left for a connection to {0} (ENOBUFS, ENOMEM)")]
    Memory(Upstream),
    /// Its name has no address.
    #[error("can't look up {0}")]
    Name(Upstream, #[source] io::Error),
    /// The client's connection was made by this process itself.
    #[error(
        "{0} leads back to this process, which got a connection that it had made itself: give \
         --upstream the address on which the application itself listens"
    )]
    Loop(Upstream),
    /// The client has gone while the application was waited for.
    #[error("the client has left while {0} was waited for")]
    ClientLeft(Upstream),
    /// Anything else.
    #[error("can't connect to {0}")]
    Other(Upstream, #[source] io::Error),
}

impl ConnectError {
    /// The names of [`ConnectError::reason`], but for that of a client that left: it is no failure.
    pub const REASONS: [&str; 10] = [
        "timeout",
        "not_there",
        "queue_full",
        "ports",
        "emfile",
        "enfile",
        "enobufs",
        "name",
        "loop",
        "other",
    ];

    /// A closed set of names for the metric's label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            ConnectError::Timeout(..) => "timeout",
            ConnectError::NotThere(..) => "not_there",
            ConnectError::QueueFull(..) => "queue_full",
            ConnectError::Ports(..) => "ports",
            ConnectError::ProcessDescriptors(..) => "emfile",
            ConnectError::SystemDescriptors(..) => "enfile",
            ConnectError::Memory(..) => "enobufs",
            ConnectError::Name(..) => "name",
            ConnectError::Loop(..) => "loop",
            ConnectError::ClientLeft(..) => "client_left",
            ConnectError::Other(..) => "other",
        }
    }
}

/// Why one try came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The name has no address.
    Name(io::Error),
    /// What the kernel said, or `TimedOut` when it said nothing for too long.
    Connect(io::Error),
}

/// What can be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing.
    None,
    /// The application is not there: it may come.
    Arrival,
    /// Something is used up, here or there: some of it may be given back.
    Release,
    /// Nobody has answered: another try may be.
    Again,
}

impl Failure {
    pub(super) fn remedy(&self) -> Remedy {
        let Failure::Connect(error) = self else { return Remedy::Arrival };
        if error.kind() == io::ErrorKind::TimedOut {
            return Remedy::Again;
        }
        match Errno::from_io_error(error) {
            Some(Errno::CONNREFUSED | Errno::NOENT) => Remedy::Arrival,
            Some(
                Errno::AGAIN
                | Errno::ADDRNOTAVAIL
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOBUFS
                | Errno::NOMEM,
            ) => Remedy::Release,
            _ => Remedy::None,
        }
    }

    /// Which of the failures of several addresses tells most: what this host has used up, then what is
    /// out of the ordinary, then an address of which nothing was heard, then one where nobody listens.
    /// Last is an address that this host can't reach at all, as ::1 where there is no IPv6.
    pub(super) fn weight(error: &io::Error) -> u8 {
        match (error.kind(), Errno::from_io_error(error)) {
            (_, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => 5,
            (io::ErrorKind::TimedOut, _) => 3,
            (_, Some(Errno::CONNREFUSED)) => 2,
            (_, Some(Errno::ADDRNOTAVAIL | Errno::NETUNREACH | Errno::AFNOSUPPORT)) => 1,
            _ => 4,
        }
    }

    /// The error that is told when nothing more is tried.
    pub(super) fn into_error(
        self,
        upstream: &Upstream,
        timeout: Duration,
        wait: Duration,
    ) -> ConnectError {
        let upstream = upstream.clone();
        let error = match self {
            Failure::Name(error) => return ConnectError::Name(upstream, error),
            Failure::Connect(error) => error,
        };
        if error.kind() == io::ErrorKind::TimedOut {
            return ConnectError::Timeout(upstream, timeout, wait);
        }
        match Errno::from_io_error(&error) {
            Some(Errno::CONNREFUSED | Errno::NOENT) => ConnectError::NotThere(upstream, wait),
            Some(Errno::AGAIN) if matches!(upstream, Upstream::Unix(_)) => {
                ConnectError::QueueFull(upstream, wait)
            }
            Some(Errno::ADDRNOTAVAIL) => ConnectError::Ports(upstream),
            Some(Errno::MFILE) => ConnectError::ProcessDescriptors(upstream),
            Some(Errno::NFILE) => ConnectError::SystemDescriptors(upstream),
            Some(Errno::NOBUFS | Errno::NOMEM) => ConnectError::Memory(upstream),
            _ => ConnectError::Other(upstream, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errno: Errno, upstream: &str) -> ConnectError {
        let upstream = upstream.parse().expect("an upstream");
        let second = Duration::from_secs(1);
        Failure::Connect(errno.into()).into_error(&upstream, second, second)
    }

    /// A guess in the place of what the kernel has said sends whoever reads it the wrong way.
    #[test]
    fn each_error_is_named_as_what_it_is() {
        for (errno, reason, name) in [
            (Errno::CONNREFUSED, "not_there", "no application listens"),
            (Errno::ADDRNOTAVAIL, "ports", "EADDRNOTAVAIL"),
            (Errno::MFILE, "emfile", "EMFILE"),
            (Errno::NFILE, "enfile", "ENFILE"),
            (Errno::NOBUFS, "enobufs", "ENOBUFS"),
            (Errno::NOMEM, "enobufs", "ENOMEM"),
            (Errno::TIMEDOUT, "timeout", "did not accept"),
            (Errno::HOSTUNREACH, "other", "can't connect"),
            (Errno::ACCESS, "other", "can't connect"),
        ] {
            let error = told(errno, "127.0.0.1:1");
            assert_eq!(error.reason(), reason);
            assert!(ConnectError::REASONS.contains(&reason));
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(told(Errno::AGAIN, "unix:/run/a").reason(), "queue_full");
        assert_eq!(told(Errno::NOENT, "unix:/run/a").reason(), "not_there");
    }
}
