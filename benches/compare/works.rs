//! What a work is: the list of them stands in list.rs.

use super::application::Service;
use super::load::Traffic;
use super::peers::Mode;

pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) mode: Mode,
    pub(super) service: Service,
    pub(super) task: Task,
    pub(super) unit: Unit,
    /// The first decides.
    pub(super) figures: &'static [Figure],
    /// What is wanted of Ebbtide, and what would be better still.
    pub(super) goals: Goals,
    /// The same with `--upstream-reuse`, where that makes a difference.
    pub(super) with_reuse: Option<Goals>,
}

pub(super) enum Task {
    /// CPU time per unit of work.
    Cost(Traffic),
    /// The same, done by h2load and nghttpd.
    Http2,
    /// How long an answer takes, at a pace that is moderate for all.
    Latency(Traffic),
    /// Memory of connections that nothing moves on, each after one exchange.
    Idle(Traffic),
    /// How soon it takes connections, and its memory before any.
    Start,
    /// What a drain loses.
    Drain(Drain),
}

/// How it is begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    /// As the peer does it best, set up for it.
    Best,
    /// By SIGTERM, as a kubelet does, and with nothing set up.
    Terminate,
}

/// What Ebbtide is held against.
#[derive(Clone, Copy)]
pub(super) enum Goals {
    /// The first figure, in parts of what the best rival has.
    Ratio([f64; 2]),
    /// The first figure itself.
    Value([f64; 2]),
}

/// What is counted.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    /// As many of the load's units are one of these.
    pub(super) size: f64,
    /// What its CPU time is told in, and how many of that are a second.
    pub(super) time: &'static str,
    pub(super) times: f64,
}

/// One column of the results.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    Cpu,
    Rate,
    P50,
    P99,
    P999,
    MemoryPerConnection,
    StartTime,
    MemoryAtRest,
    Lost,
    NewcomersLost,
    RequestsLost,
    StreamsCut,
    EndTime,
}

impl Figure {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Figure::Cpu => "cpu",
            Figure::Rate => "rate",
            Figure::P50 => "p50",
            Figure::P99 => "p99",
            Figure::P999 => "p99.9",
            Figure::MemoryPerConnection => "memoryPerConnection",
            Figure::StartTime => "startTime",
            Figure::MemoryAtRest => "memoryAtRest",
            Figure::Lost => "lost",
            Figure::NewcomersLost => "newcomersLost",
            Figure::RequestsLost => "requestsLost",
            Figure::StreamsCut => "streamsCut",
            Figure::EndTime => "endTime",
        }
    }

    /// With its unit.
    pub(super) fn title(self, unit: Unit) -> String {
        match self {
            Figure::Cpu => format!("CPU, {}/{}", unit.time, unit.name),
            Figure::Rate => format!("{}/s on one core", unit.name),
            Figure::P50 | Figure::P99 | Figure::P999 => format!("{}, µs", self.name()),
            Figure::MemoryPerConnection => "PSS per connection, bytes".to_owned(),
            Figure::StartTime => "start to accepting, ms".to_owned(),
            Figure::MemoryAtRest => "PSS at rest, MiB".to_owned(),
            Figure::Lost => "lost, all together".to_owned(),
            Figure::NewcomersLost => "new connections lost".to_owned(),
            Figure::RequestsLost => "requests lost on kept and idle connections".to_owned(),
            Figure::StreamsCut => "streams and long responses cut of 100".to_owned(),
            Figure::EndTime => "last client to exit, s".to_owned(),
        }
    }
}
