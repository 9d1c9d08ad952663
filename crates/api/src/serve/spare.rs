//! A descriptor kept back for when the process has none left.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

/// A descriptor that is given up to take one more client, and taken back when that client is gone.
///
/// Without it nobody could tell a full process to drain, or ask it how it is.
#[derive(Debug)]
pub(super) struct ReservedFd(Mutex<Option<UnixDatagram>>);

impl ReservedFd {
    /// Keeps one back, if there is one.
    pub(super) fn new() -> Self {
        let spare = ReservedFd(Mutex::new(None));
        spare.keep();
        spare
    }

    /// Keeps one back again, if there is one.
    pub(super) fn keep(&self) {
        let mut kept = self.lock();
        if kept.is_none() {
            // Any descriptor will do; this one is of no use to anybody.
            *kept = UnixDatagram::unbound().ok();
        }
    }

    /// Gives it up if that is what `error` asks for; `false` when it does not, or there is none.
    pub(super) fn give_up(&self, error: &io::Error) -> bool {
        let none_left = matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE));
        none_left && self.lock().take().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<UnixDatagram>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_is_given_up_once_and_only_for_want_of_descriptors() {
        let spare = ReservedFd::new();
        let error = |errno: Errno| io::Error::from(errno);
        assert!(!spare.give_up(&error(Errno::NOMEM)));
        assert!(spare.give_up(&error(Errno::MFILE)));
        assert!(!spare.give_up(&error(Errno::MFILE)));
        spare.keep();
        assert!(spare.give_up(&error(Errno::NFILE)));
    }
}
