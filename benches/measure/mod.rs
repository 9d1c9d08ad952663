//! What benches share: where a program runs, and what it has cost.

use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The program that is measured: `EBBTIDE_BIN`, or the one that cargo has built.
pub fn ebbtide() -> String {
    let program = std::env::var("EBBTIDE_BIN");
    program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_ebbtide").to_owned())
}

/// The cores that we may use.
pub fn cores() -> Vec<usize> {
    let cores = sched_getaffinity(None).expect("our cores");
    (0..CpuSet::MAX_CPU).filter(|core| cores.is_set(*core)).collect()
}

/// What is started meanwhile runs on one core, so that it does not pay for moving about.
pub fn on_core<T>(core: usize, start: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).expect("our cores");
    let mut one = CpuSet::new();
    one.set(core);
    sched_setaffinity(None, &one).expect("a core of ours");
    let started = start();
    sched_setaffinity(None, &before).expect("our cores");
    started
}

/// Ends a program that is to leave a profile, which it writes only where it ends by itself. `false`, with
/// nothing done, when none is asked for; and when it does not end.
///
/// # Source
/// <https://clang.llvm.org/docs/SourceBasedCodeCoverage.html#running-the-instrumented-program>
#[expect(clippy::disallowed_methods, reason = "a bench is a program of its own, with a real clock")]
pub fn ended_with_profile(child: &mut Child) -> bool {
    if std::env::var_os("LLVM_PROFILE_FILE").is_none() {
        return false;
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    // A second one ends Ebbtide at once. Two that come together are one.
    (0..200).any(|_| {
        let _ = kill_process(pid, Signal::INT);
        std::thread::sleep(Duration::from_millis(10));
        !matches!(child.try_wait(), Ok(None))
    })
}

/// Time that the threads of a process have been on a processor, in seconds: user and kernel. Nothing,
/// if it has ended.
pub fn cpu_seconds(pid: u32) -> f64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let nanoseconds: u64 = tasks
        .filter_map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        })
        .sum();
    nanoseconds as f64 / 1e9
}
