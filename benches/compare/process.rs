//! A program with all the processes that it has started: what they cost, and their end.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::confine::{Confined, Restrictions};
use super::measure;

/// As many descriptors as the works need that open thousands of connections.
const DESCRIPTORS: u64 = 1 << 20;

/// Killed when dropped.
pub(super) struct Process {
    child: Child,
    /// After the child: its control groups end with it.
    _confined: Option<Confined>,
}

impl Process {
    /// Starts a program on one core, under the restrictions of a pod like Ebbtide's, whoever's program it
    /// is; what it says goes to a file.
    pub(super) fn start(mut command: Command, core: usize, log: &Path) -> io::Result<Self> {
        let log = File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A profile is written to where user 65532 may not write.
        let confined = std::env::var_os("LLVM_PROFILE_FILE")
            .is_none()
            .then(|| Restrictions::of_a_pod().descriptors(DESCRIPTORS).apply(&mut command));
        let child = measure::on_core(core, || command.spawn())?;
        Ok(Process { child, _confined: confined })
    }

    pub(super) fn cost(&self) -> Tree {
        Tree(self.child.id())
    }

    /// Whether it has ended, and how.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().expect("a child of ours")?;
        Some(status.to_string())
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(pid(self.child.id()), signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if measure::ended_with_profile(&mut self.child) {
            return;
        }
        // Gone already, if it has ended.
        for id in self.cost().ids() {
            let _ = kill_process(pid(id), Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn pid(id: u32) -> Pid {
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id")
}

/// The first of a program's processes, with all that descend from it.
#[derive(Clone, Copy)]
pub(super) struct Tree(pub(super) u32);

impl Tree {
    fn ids(self) -> Vec<u32> {
        let mut ids = vec![self.0];
        let mut next = 0;
        while let Some(id) = ids.get(next) {
            let tasks = std::fs::read_dir(format!("/proc/{id}/task"));
            for task in tasks.into_iter().flatten().flatten() {
                let list = std::fs::read_to_string(task.path().join("children"));
                ids.extend(list.unwrap_or_default().split_whitespace().flat_map(str::parse::<u32>));
            }
            next += 1;
        }
        ids
    }

    /// CPU time of all its threads, user and kernel.
    pub(super) fn cpu_seconds(self) -> f64 {
        self.ids().into_iter().map(measure::cpu_seconds).sum()
    }

    /// Time that its threads were ready and had no core, in seconds.
    pub(super) fn waited_seconds(self) -> f64 {
        self.ids().into_iter().map(waited_seconds).sum()
    }

    pub(super) fn pss_bytes(self) -> u64 {
        self.ids().into_iter().map(pss_bytes).sum()
    }
}

/// The same of one process: the second figure of each thread's schedstat, in nanoseconds.
///
/// # Source
/// Linux, Documentation/scheduler/sched-stats.rst.
pub(super) fn waited_seconds(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let waited = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse::<f64>().ok()
    });
    waited.sum::<f64>() / 1e9
}

/// Memory of a process, with its share of what it has in common with others.
fn pss_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}
