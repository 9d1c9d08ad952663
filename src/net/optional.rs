//! Calls that make things better or cheaper and that a kernel or its filter may refuse.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use tracing::warn;

/// A call that is done without where it is refused. That is said once.
#[derive(Debug)]
pub struct Optional {
    call: &'static str,
    without: &'static str,
    is_refused: AtomicBool,
}

/// Moving bulk through pipes.
pub static SPLICE: Optional = Optional::new("splice", "bulk is copied");
/// `TCP_NODELAY`.
pub static NO_DELAY: Optional = Optional::new("TCP_NODELAY", "small messages may be delayed");
/// `SO_KEEPALIVE` and its three times.
pub static KEEP_ALIVE: Optional = Optional::new("SO_KEEPALIVE", "dead peers are found late");
/// `TCP_USER_TIMEOUT`.
pub static USER_TIMEOUT: Optional =
    Optional::new("TCP_USER_TIMEOUT", "unacknowledged bytes are kept as long as the kernel likes");
/// `SO_REUSEPORT`.
pub static REUSE_PORT: Optional = Optional::new(
    "SO_REUSEPORT",
    "an undrain waits until the listener is emptied, and --admit and drop reset newcomers",
);
/// `SO_OOBINLINE`.
pub static URGENT_INLINE: Optional = Optional::new("SO_OOBINLINE", "urgent bytes are lost");

impl Optional {
    const fn new(call: &'static str, without: &'static str) -> Self {
        Optional { call, without, is_refused: AtomicBool::new(false) }
    }

    /// Whether it has been refused.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// It is refused, for good.
    pub fn refused(&self, error: &io::Error) {
        if !self.is_refused.swap(true, Ordering::Relaxed) {
            let error: &dyn std::error::Error = error;
            warn!(call = self.call, without = self.without, error, "the kernel refuses a call");
        }
    }

    /// Whether the caller does without the call after this error: for good if it is refused, this time if
    /// the kernel has no memory for it.
    #[must_use]
    pub fn does_without(&self, error: &io::Error) -> bool {
        if is_refused(error) {
            self.refused(error);
            return true;
        }
        matches!(Errno::from_io_error(error), Some(Errno::NOMEM | Errno::NOBUFS))
    }

    /// Makes the call, unless it has been refused; a failure is not the caller's.
    pub fn attempt(&self, call: impl FnOnce() -> io::Result<()>) {
        if self.is_refused() {
            return;
        }
        if let Err(error) = call()
            && is_refused(&error)
        {
            self.refused(&error);
        }
    }
}

/// Whether an error says that a call is not allowed or not known, whoever makes it.
#[must_use]
pub fn is_refused(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::PERM
                | Errno::ACCESS
                | Errno::NOSYS
                | Errno::INVAL
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_refused_is_not_made_again() {
        let optional = Optional::new("a call", "nothing is missed");
        optional.attempt(|| Err(Errno::CONNRESET.into()));
        assert!(!optional.is_refused());
        optional.attempt(|| Err(Errno::PERM.into()));
        assert!(optional.is_refused());
        optional.attempt(|| panic!("made again"));
    }
}
