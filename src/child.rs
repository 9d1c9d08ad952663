//! The application as our child: started, told of signals, lent the terminal, reaped.

mod terminal;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper,
    test_kill_process_group,
};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::timeout;
use tracing::debug;

use terminal::Terminal;

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

/// Between looks whether the last process of the group has ended. Nobody tells the death of one whose parent
/// has left the group.
const GROUP_INTERVAL: Duration = Duration::from_millis(100);

/// The application: a process, and the group of those that it starts.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    ended: SignalStream,
    status: Option<u8>,
    is_group_gone: bool,
    terminal: Terminal,
}

impl Child {
    /// Starts the application in a process group of its own: a Ctrl-C at the terminal is for us,
    /// who drain first.
    ///
    /// What it leaves behind when it ends becomes our child, so that its end is noticed.
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
        // Refused or not, the group is looked at by itself too.
        let _ = set_child_subreaper(Some(getpid()));
        let child = Command::new(&program).args(args).process_group(0).spawn().map_err(fail)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| fail(io::Error::other("the kernel gave no process id")))?;
        let terminal = Terminal::of_this_process();
        Ok(Child { pid, ended, status: None, is_group_gone: false, terminal })
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

    /// Waits for its end and for that of every process that it has left in its group.
    ///
    /// # Cancel safety
    /// As [`Child::wait`].
    pub async fn wait_for_group(&mut self) -> u8 {
        let status = self.wait().await;
        loop {
            self.reap();
            if self.is_group_gone {
                return status;
            }
            let _ = timeout(GROUP_INTERVAL, self.ended.recv()).await;
        }
    }

    /// Sends it a signal; one that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            note(kill_process(self.pid, signal));
        }
    }

    /// Sends a signal to every process of its group: what a shell has started for it among them.
    pub fn signal_group(&self, signal: Signal) {
        // While somebody is in the group, its number is nobody else's.
        if !self.is_group_gone {
            note(kill_process_group(self.pid, signal));
            // One that the terminal has stopped hears nothing else before.
            if signal != Signal::KILL {
                note(kill_process_group(self.pid, Signal::CONT));
            }
        }
    }

    fn reap(&mut self) {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((pid, status))) = rustix::process::wait(options) {
            if status.stopped() {
                if pid == self.pid {
                    self.terminal.application_stopped(self.pid, status.stopping_signal());
                }
            } else if pid == self.pid {
                let code = status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                self.status = code.map(|code| u8::try_from(code).unwrap_or(u8::MAX));
            } else {
                debug!(pid = pid.as_raw_nonzero().get(), "orphan reaped");
            }
        }
        // At once: the number of a group that nobody is in may soon be somebody else's.
        if self.status.is_some() && test_kill_process_group(self.pid).is_err() {
            self.is_group_gone = true;
        }
    }
}

fn note(sent: rustix::io::Result<()>) {
    if let Err(error) = sent {
        debug!(error = &error as &dyn std::error::Error, "the application takes no signal");
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
