//! The phases of a drain and what may start one, as reports, logs and metrics name them.

use std::fmt;

/// Where the proxy is in the life of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// No drain is under way.
    Serving,
    /// A drain has begun; new connections are still served, because the balancer may still send them.
    LameDuck,
    /// New connections are rejected, existing ones go on.
    Draining,
    /// The deadline is near: survivors are asked to leave, and are force-closed at the deadline.
    Closing,
    /// Nothing that blocks a drain is left.
    Drained,
}

impl Phase {
    /// Every phase, in the order of a drain.
    pub const ALL: [Phase; 5] =
        [Phase::Serving, Phase::LameDuck, Phase::Draining, Phase::Closing, Phase::Drained];

    /// The phase's name as reports, logs and metrics spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Serving => "Serving",
            Phase::LameDuck => "LameDuck",
            Phase::Draining => "Draining",
            Phase::Closing => "Closing",
            Phase::Drained => "Drained",
        }
    }

    /// The phase of that name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Phase::ALL.into_iter().find(|phase| phase.name() == name)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What started a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// SIGTERM, SIGQUIT or SIGINT: the process is to exit when the drain is over.
    Signal,
    /// POST /drain on the control address, which is also what `ebbtide drain` sends.
    Endpoint,
    /// A directive in the controller's answer to a report.
    Controller,
}

impl Trigger {
    /// The trigger's name as reports and logs spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Trigger::Signal => "Signal",
            Trigger::Endpoint => "Endpoint",
            Trigger::Controller => "Controller",
        }
    }
}
