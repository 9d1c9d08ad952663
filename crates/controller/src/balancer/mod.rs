//! What the controller asks of a load balancer, and a file for each kind of it.
//!
//! An adapter knows one balancer's API and nothing of reports, phases or retries: it carries out
//! [`Order`]s and says of each what became of it. When to try again is the dispatcher's business, so
//! every order may come again, and must do no harm then.

pub mod aws;
pub mod haproxy;
mod log;
mod signature;
pub mod tencent;
pub mod tke;
pub mod webhook;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use serde::Deserialize;

pub use aws::Elbv2;
pub use haproxy::Haproxy;
pub use log::Log;
pub use tencent::TencentClb;
pub use tke::Tke;
pub use webhook::Webhook;

/// What the balancer is told about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send it connections, by its former weight.
    Register,
    /// Send it no new connections, and leave those that it has alone.
    WeightZero,
    /// Forget it.
    Deregister,
}

impl Action {
    /// The name as logs, metrics and webhooks spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Action::Register => "register",
            Action::WeightZero => "weight-zero",
            Action::Deregister => "deregister",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A target as a balancer knows it: where it can be reached, and its names for those that go by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The pod's namespace; empty outside Kubernetes.
    pub namespace: String,
    /// The pod's or the host's name; never empty.
    pub pod_name: String,
    /// The pod's UID; empty outside Kubernetes.
    pub pod_uid: String,
    /// The service that it belongs to, as far as the controller knows.
    pub service: String,
    /// The pod's address; absent when the report did not say.
    pub ip: Option<IpAddr>,
    /// The ports that its proxy listens on.
    pub ports: Vec<u16>,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.pod_name)
        } else {
            write!(f, "{}/{}", self.namespace, self.pod_name)
        }
    }
}

/// One thing to be done for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What.
    pub action: Action,
    /// For whom.
    pub member: Member,
    /// The weight it had before it was set to zero, if anybody remembers; [`Action::Register`] restores it.
    pub former_weight: Option<u32>,
    /// Grows with every order for this target, also over restarts of the controller: the milliseconds
    /// since the epoch when it was given. A receiver of several controllers' orders keeps the newest.
    pub issued_at: u64,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The balancer confirms it.
    Applied(Applied),
    /// The balancer has taken it and does not act by it yet; it wants to be given again after this long.
    NotYet(Duration),
    /// It was not done.
    Failed(Error),
}

/// What the balancer said when it confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// After [`Action::WeightZero`]: the weight that the target had before, if it was not zero.
    pub former_weight: Option<u32>,
    /// Sessions that the balancer still has with the target, if it tells.
    pub sessions: Option<u64>,
    /// From when on it acts by it.
    pub effective: Effective,
}

/// From when on a balancer acts by what it has confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effective {
    /// It does so already.
    #[default]
    Now,
    /// After this long.
    After(Duration),
    /// Nobody knows, so nothing is claimed.
    Unknown,
}

impl From<Applied> for Outcome {
    fn from(applied: Applied) -> Self {
        Outcome::Applied(applied)
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        Outcome::Failed(error)
    }
}

/// Why an order was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The sort, for the metric and for the pace of the next attempt.
    pub kind: ErrorKind,
    /// What happened and what to do about it, for people.
    pub message: String,
    /// When the balancer said that it may be asked again.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error of this kind; the message says what to do.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), retry_after: None }
    }
}

/// Sorts of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No answer in time: it may have been done or not.
    Timeout,
    /// Nobody there, or the connection broke.
    Unreachable,
    /// Asked too often.
    Throttled,
    /// Credentials that are wrong, expired or not enough.
    Denied,
    /// The balancer does not know the target. (Not an error for [`Action::Deregister`]: that is what it wants.)
    UnknownTarget,
    /// Anything else that the balancer said no to.
    Refused,
}

impl ErrorKind {
    /// The value of the metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Timeout => "timeout",
            ErrorKind::Unreachable => "unreachable",
            ErrorKind::Throttled => "throttled",
            ErrorKind::Denied => "denied",
            ErrorKind::UnknownTarget => "unknown_target",
            ErrorKind::Refused => "refused",
        }
    }
}

/// How hard a balancer may be asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Orders in one call.
    pub max_batch: usize,
    /// Calls under way at once.
    pub max_calls: usize,
    /// Calls begun in a second, on average over a few seconds.
    pub calls_per_second: f64,
    /// How long one call may take before its orders count as failed by [`ErrorKind::Timeout`].
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_batch: 100,
            max_calls: 4,
            calls_per_second: 20.0,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A call under way.
pub type Applying<'a> = Pin<Box<dyn Future<Output = Vec<Outcome>> + Send + 'a>>;

/// What a balancer's own health check says of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It succeeds.
    Up,
    /// It fails.
    Down,
    /// There is none, or the balancer can't be asked.
    Unknown,
}

/// A question under way.
pub type Seeing<'a> = Pin<Box<dyn Future<Output = Sight> + Send + 'a>>;

/// A load balancer.
pub trait Balancer: Send + Sync {
    /// Its name, as the configuration spells it.
    fn name(&self) -> &'static str;

    /// How hard it may be asked.
    fn limits(&self) -> Limits;

    /// Carries out `orders`, at most [`Limits::max_batch`] of them and each for another target, and says
    /// of each, in their order, what became of it.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when [`Limits::timeout`] is over; the orders then come again.
    fn apply<'a>(&'a self, orders: &'a [Order]) -> Applying<'a>;

    /// Says what the balancer's own health check says of a target that is silent. Most can't tell.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped.
    fn sees<'a>(&'a self, _member: &'a Member) -> Seeing<'a> {
        Box::pin(std::future::ready(Sight::Unknown))
    }
}

/// The balancer's part of the configuration: its kind, and what that kind wants to know.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Config {
    /// Drives nothing and says in the log what it would do.
    #[default]
    Log,
    /// Drives HAProxy by its runtime API.
    Haproxy(haproxy::Config),
    /// Tells somebody else by HTTP.
    Webhook(webhook::Config),
    /// Drives target groups of AWS's by their API.
    AwsElbv2(aws::Config),
    /// Drives a CLB of Tencent Cloud's by its API.
    TencentClb(tencent::Config),
    /// Sets the weights of pods on TKE by their annotations.
    Tke(tke::Config),
}

impl Config {
    /// The balancer that this describes.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong and what it should be. Nothing is asked of the balancer yet.
    pub fn build(self) -> Result<Box<dyn Balancer>, ConfigError> {
        Ok(match self {
            Config::Log => Box::new(Log::default()),
            Config::Haproxy(config) => Box::new(config.build()?),
            Config::Webhook(config) => Box::new(config.build()?),
            Config::AwsElbv2(config) => Box::new(config.build(&|name| std::env::var(name).ok())?),
            Config::TencentClb(config) => Box::new(config.build()?),
            Config::Tke(config) => Box::new(config.build()?),
        })
    }
}

/// Why a balancer can't be made of its configuration.
#[derive(Debug, thiserror::Error)]
#[error("balancer: {field}: {message}")]
pub struct ConfigError {
    /// The field's path below `balancer`, such as `haproxy.sockets[1]`.
    pub field: String,
    /// What is wrong with it and what to write instead.
    pub message: String,
}
