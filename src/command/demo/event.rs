//! What can be observed, and how it is said.

use std::process::ExitStatus;
use std::time::Instant;

use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::newcomers::Met;
use crate::api::report::Report;
use crate::controller::{Action, TargetView};

/// Where everything that is observed goes.
pub type Tell = UnboundedSender<Event>;

/// Something observed.
#[derive(Debug)]
pub enum Event {
    /// A client's first bytes came back.
    Begun,
    /// A client is done.
    Ended(Ended),
    /// A newcomer has met something.
    Newcomer(Met),
    /// The proxy's own view.
    Status(Box<Report>),
    /// What the controller has.
    Reported(Box<TargetView>),
    /// What the controller tells its balancer.
    Action { action: Action, report: Box<Report>, at: Instant },
    /// A line of the proxy's log.
    Log(Value),
    /// The proxy's process is gone.
    Exited { status: ExitStatus, at: Instant },
}

/// How a client ended.
#[derive(Debug)]
pub struct Ended {
    pub whole: Result<(), String>,
    pub verified_bytes: u64,
    pub at: Instant,
}

/// How something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Dim,
    Strong,
    Good,
    Water,
    Warm,
    Bad,
}

/// Something said.
#[derive(Debug)]
pub struct Line {
    pub topic: &'static str,
    pub text: String,
    pub tone: Tone,
}

impl Line {
    pub fn new(topic: &'static str, text: impl Into<String>) -> Self {
        Line { topic, text: text.into(), tone: Tone::Plain }
    }

    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}
