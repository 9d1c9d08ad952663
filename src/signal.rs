//! The signals that the process answers to.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM, or SIGQUIT, which nginx-like images send: drain, then exit.
    Drain,
    /// SIGINT: drain, then exit; a second one ends the process at once.
    Interrupt,
}

/// The handlers, in place from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the system gives no descriptor for it.
    pub fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    /// No signal is lost by a call that was dropped.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Drain,
            _ = self.quit.recv() => Request::Drain,
            _ = self.interrupt.recv() => Request::Interrupt,
        }
    }
}

/// What a signal asks for that ends nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// SIGHUP: read again what can be read again.
    Reload,
    /// SIGUSR1: say in the log how things stand.
    Report,
}

/// The handlers of SIGHUP, SIGUSR1 and SIGUSR2, whose default is to kill the process without a drain.
///
/// SIGUSR2 asks for nothing: it is taken over to be ignored.
#[derive(Debug)]
pub struct Chores {
    hang_up: Signal,
    user_1: Signal,
    _user_2: Signal,
}

impl Chores {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the system gives no descriptor for it.
    pub fn new() -> io::Result<Self> {
        Ok(Chores {
            hang_up: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            _user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next of them.
    ///
    /// # Cancel safety
    /// No signal is lost by a call that was dropped.
    pub async fn next(&mut self) -> Chore {
        tokio::select! {
            _ = self.hang_up.recv() => Chore::Reload,
            _ = self.user_1.recv() => Chore::Report,
        }
    }
}
