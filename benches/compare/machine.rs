//! What this is measured on, and who else uses it meanwhile.

use std::fs;
use std::time::Instant;

use serde::Serialize;

use super::process::Tree;

#[derive(Serialize)]
pub(super) struct Machine {
    processor: String,
    cores: usize,
    memory_gib: f64,
    kernel: String,
    /// Of the last minute, when the run began.
    load_average: String,
}

impl Machine {
    pub(super) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').unwrap_or_default().1.trim().to_owned()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kibibytes: f64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let load = read("/proc/loadavg");
        Machine {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: super::measure::cores().len(),
            memory_gib: (kibibytes / 1_048_576.0).round(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl Machine {
    pub(super) fn words(&self) -> String {
        let Machine { processor, cores, memory_gib, kernel, load_average } = self;
        format!(
            "{cores} cores of {processor}, {memory_gib:.0} GiB, Linux {kernel}, load {load_average}"
        )
    }
}

/// How much of the machine others use.
pub(super) struct Foreign {
    began: Instant,
    before: f64,
}

impl Foreign {
    /// Watches from now on.
    pub(super) fn begin() -> Self {
        Foreign { began: Instant::now(), before: others_seconds() }
    }

    /// The part of one core that they have used.
    pub(super) fn share(&self) -> f64 {
        let used = others_seconds() - self.before;
        (used / self.began.elapsed().as_secs_f64()).max(0.0)
    }
}

fn others_seconds() -> f64 {
    // Of what we have started, what runs and what has ended.
    let ours = Tree(std::process::id()).cpu_seconds() + ended_seconds();
    busy_seconds() - ours
}

/// What our children had used when they ended.
fn ended_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc is mounted");
    // The name in brackets may hold anything; cutime and cstime stand behind it (proc(5)).
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let fields = fields.split_whitespace().skip(13).take(2);
    let ticks: f64 = fields.map(|ticks| ticks.parse().unwrap_or(0.0)).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// Of all cores together: user, nice, system, irq, softirq, steal (proc(5)).
fn busy_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("/proc is mounted");
    let line = text.lines().next().unwrap_or_default();
    let ticks = line.split_whitespace().skip(1).map(|ticks| ticks.parse().unwrap_or(0.0));
    let ticks: Vec<f64> = ticks.take(8).collect();
    let busy: f64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum();
    busy / rustix::param::clock_ticks_per_second() as f64
}
