//! The terminal, lent to an application that asks for it.
//!
//! The application is a process group of its own, which is in the background: a Ctrl-C reaches us, who drain.
//! One that reads from the terminal, or sets its modes, is stopped by the kernel (SIGTTIN, SIGTTOU). It then
//! gets the foreground, as a shell gives it to a job; from there on a Ctrl-C is its own. Whoever uses this ignores
//! SIGTTOU, or could not take the terminal back.
//!
//! # Source
//! termios(3), tcsetpgrp(3); the GNU C library's manual, "Implementing a Job Control Shell".

use std::io;

use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process, kill_process_group};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use tracing::{debug, info, warn};

/// The controlling terminal on standard input, if there is one.
#[derive(Debug)]
pub(super) struct Terminal {
    /// Our own process group, where standard input is a terminal.
    ours: Option<Pid>,
    is_lent: bool,
}

impl Terminal {
    pub(super) fn of_this_process() -> Self {
        // Fails where standard input is no terminal, or another session's.
        let ours = tcgetpgrp(io::stdin()).ok().map(|_| getpgrp());
        Terminal { ours, is_lent: false }
    }

    /// The application was stopped. Lends it the terminal if that is what it was stopped for, and stops with
    /// it when somebody at the terminal has stopped it.
    pub(super) fn application_stopped(&mut self, application: Pid, by: Option<i32>) {
        let wants = by == Some(Signal::TTIN.as_raw()) || by == Some(Signal::TTOU.as_raw());
        let is_suspended = by == Some(Signal::TSTP.as_raw());
        let Some(ours) = self.ours.filter(|_| wants || is_suspended) else {
            // SIGSTOP, or no terminal of ours: whoever did it undoes it.
            return;
        };
        if is_suspended || !is_foreground(ours) {
            self.take_back();
            // Our shell takes the terminal, and gives it back with SIGCONT. Where there is no shell to do so,
            // the kernel ignores this signal, and so does process one.
            let signal = if is_suspended { Signal::TSTP } else { Signal::TTIN };
            let _ = kill_process(getpid(), signal);
        }
        if is_foreground(ours) {
            self.lend(application);
        } else if wants {
            warn!("the application waits for the terminal, which is somebody else's");
            return;
        }
        let _ = kill_process_group(application, Signal::CONT);
    }

    fn lend(&mut self, application: Pid) {
        match tcsetpgrp(io::stdin(), application) {
            Ok(()) => {
                self.is_lent = true;
                info!("the application has the terminal: Ctrl-C is for it alone");
            }
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "the terminal can't be lent");
            }
        }
    }

    /// Takes it back, so that whoever started us finds it as before.
    fn take_back(&mut self) {
        let Some(ours) = self.ours.filter(|_| std::mem::take(&mut self.is_lent)) else { return };
        if let Err(error) = tcsetpgrp(io::stdin(), ours) {
            debug!(error = &error as &dyn std::error::Error, "the terminal can't be taken back");
        }
    }
}

/// Whether a process group is the one that may use the terminal.
fn is_foreground(group: Pid) -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground == group)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}
