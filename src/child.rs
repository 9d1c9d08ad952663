//! The application as our child: started, told of signals, reaped.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;

use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tracing::debug;

/// A signal by its name, with or without `SIG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSignal(pub Signal);

impl FromStr for StopSignal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        let signal = match upper.strip_prefix("SIG").unwrap_or(&upper) {
            "TERM" => Signal::TERM,
            "QUIT" => Signal::QUIT,
            "INT" => Signal::INT,
            "HUP" => Signal::HUP,
            "USR1" => Signal::USR1,
            "USR2" => Signal::USR2,
            "WINCH" => Signal::WINCH,
            "KILL" => Signal::KILL,
            _ => {
                return Err(format!(
                    "`{text}` is no stop signal; write TERM, QUIT, INT, HUP, USR1, USR2, WINCH or KILL"
                ));
            }
        };
        Ok(StopSignal(signal))
    }
}

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
#[error("can't start `{command}`; is it in the image, on PATH and executable?")]
pub struct SpawnError {
    command: String,
    #[source]
    source: io::Error,
}

/// The application.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    ended: SignalStream,
    status: Option<u8>,
}

impl Child {
    /// Starts the application in a process group of its own: a Ctrl-C at the terminal is for us,
    /// who drain first.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(command: &[OsString]) -> Result<Self, SpawnError> {
        let (program, args) = match command.split_first() {
            Some((program, args)) => (program.clone(), args),
            None => (OsString::new(), &[][..]),
        };
        let fail = |source| SpawnError { command: program.to_string_lossy().into_owned(), source };
        // Before the child, so that even one that dies at once is heard.
        let ended = signal(SignalKind::child()).map_err(fail)?;
        let child = Command::new(&program).args(args).process_group(0).spawn().map_err(fail)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| fail(io::Error::other("the kernel gave no process id")))?;
        Ok(Child { pid, ended, status: None })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for its end, and reaps whatever else ended: as PID 1 we inherit every orphan.
    ///
    /// The status is what a shell would say: 128 and the signal's number for one that was killed.
    ///
    /// # Cancel safety
    /// A status that was read is kept for the next call.
    pub async fn wait(&mut self) -> u8 {
        loop {
            self.reap();
            if let Some(status) = self.status {
                return status;
            }
            self.ended.recv().await;
        }
    }

    /// Sends it a signal; one that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none()
            && let Err(error) = kill_process(self.pid, signal)
        {
            debug!(error = &error as &dyn std::error::Error, "the application takes no signal");
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                let code = status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                self.status = code.map(|code| u8::try_from(code).unwrap_or(u8::MAX));
            } else {
                debug!(pid = pid.as_raw_nonzero().get(), "orphan reaped");
            }
        }
    }
}

/// Signals that are passed on to the application as they come.
#[derive(Debug)]
pub struct Forwarded([(SignalStream, Signal); 4]);

impl Forwarded {
    /// Takes HUP, USR1, USR2 and WINCH over.
    ///
    /// # Errors
    /// When the system gives no descriptor for it.
    pub fn new() -> io::Result<Self> {
        let stream = |signal: Signal| {
            Ok::<_, io::Error>((
                tokio::signal::unix::signal(SignalKind::from_raw(signal.as_raw()))?,
                signal,
            ))
        };
        Ok(Forwarded([
            stream(Signal::HUP)?,
            stream(Signal::USR1)?,
            stream(Signal::USR2)?,
            stream(Signal::WINCH)?,
        ]))
    }

    /// The next signal to pass on.
    ///
    /// # Cancel safety
    /// No signal is lost by a call that was dropped.
    pub async fn next(&mut self) -> Signal {
        let [hup, usr1, usr2, winch] = &mut self.0;
        tokio::select! {
            _ = hup.0.recv() => hup.1,
            _ = usr1.0.recv() => usr1.1,
            _ = usr2.0.recv() => usr2.1,
            _ = winch.0.recv() => winch.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name() {
        for text in ["TERM", "SIGTERM", "sigterm", "Term"] {
            assert_eq!(text.parse(), Ok(StopSignal(Signal::TERM)));
        }
        let error = "STOP".parse::<StopSignal>().expect_err("does not stop for good");
        assert!(error.contains("write TERM"), "{error}");
    }
}
