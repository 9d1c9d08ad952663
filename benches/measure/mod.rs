//! What benches share: where a program runs, and what it has cost.

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
