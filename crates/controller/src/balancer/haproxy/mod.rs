//! HAProxy, one or several, by its runtime API.
//!
//! A target is a server of HAProxy's, or one in each of several backends. What HAProxy confirms is what
//! it shows when asked afterwards, not that it took a command without complaint.

mod batch;
mod plan;
mod runtime;
mod servers;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use serde::Deserialize;

use super::{
    Applied, Applying, Balancer, ConfigError, Error, ErrorKind, Limits, Member, Order, Outcome,
    Seeing, Sight,
};
use runtime::Socket;

/// How long an HAProxy may take for a batch, unless the configuration says otherwise. Its commands take
/// microseconds each; one that is stopped or has no connection to spare (`stats maxconn`) takes forever.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the dispatcher waits longer than we do, so that it is told which HAProxy was silent.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(1);

/// How HAProxy is configured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The stats sockets, of level admin, of all HAProxies that know the targets: `unix:/run/haproxy/admin.sock`
    /// or `tcp:host:port`. An order counts as done when all of them have confirmed it.
    pub sockets: Vec<String>,
    /// The backends in which a target is looked for; without them, all.
    #[serde(default)]
    pub backends: Vec<String>,
    /// What makes a server of HAProxy's a target.
    #[serde(default, rename = "match")]
    pub matching: Match,
    /// How a server is kept from new connections.
    #[serde(default)]
    pub weight_zero: WeightZero,
    /// What becomes of a server at the end.
    #[serde(default)]
    pub deregister: Deregister,
    /// Adds servers that HAProxy does not have when they are registered.
    #[serde(default)]
    pub add_server: Option<AddServer>,
    /// How long one HAProxy may take for a batch, such as `5s`.
    #[serde(default)]
    pub timeout: Option<String>,
}

/// What makes a server of HAProxy's a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Match {
    /// It has the target's address and one of the ports that its proxy listens on.
    #[default]
    Address,
    /// It has the pod's name.
    Name,
}

/// How a server is kept from new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightZero {
    /// `set server … state drain`: HAProxy keeps the weight.
    #[default]
    Drain,
    /// `set server … weight 0`.
    Weight,
}

/// What becomes of a server at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deregister {
    /// It stays, in maintenance.
    #[default]
    Maint,
    /// It is deleted, once HAProxy has no connection to it. Needs HAProxy 2.6.
    Delete,
}

/// How servers are added. Needs HAProxy 2.6.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AddServer {
    /// The port that HAProxy connects to, one of those that the proxy listens on; without it, the first.
    #[serde(default)]
    pub port: Option<u16>,
    /// What stands behind the address in a `server` line, such as `check inter 2s weight 10`.
    #[serde(default)]
    pub options: String,
}

impl Config {
    /// The balancer that this describes. No HAProxy is asked yet.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong and what it should be.
    pub fn build(self) -> Result<Haproxy, ConfigError> {
        let wrong = |field: String, message: &str| ConfigError {
            field: format!("haproxy.{field}"),
            message: message.to_owned(),
        };
        if self.sockets.is_empty() {
            return Err(wrong(
                "sockets".into(),
                "name at least one, as unix:/run/haproxy/admin.sock",
            ));
        }
        let mut sockets = Vec::with_capacity(self.sockets.len());
        for (at, text) in self.sockets.iter().enumerate() {
            let socket = text.parse().map_err(|()| {
                let message = format!("`{text}` is no socket; write unix:/PATH or tcp:HOST:PORT");
                wrong(format!("sockets[{at}]"), &message)
            })?;
            if sockets.contains(&socket) {
                return Err(wrong(
                    format!("sockets[{at}]"),
                    &format!("{socket} stands there twice"),
                ));
            }
            sockets.push(socket);
        }
        for (at, backend) in self.backends.iter().enumerate() {
            if !servers::is_name(backend) {
                let message = format!(
                    "`{backend}` is no backend's name; those have letters, digits and _ : . - only"
                );
                return Err(wrong(format!("backends[{at}]"), &message));
            }
        }
        if let Some(add) = &self.add_server {
            self.check_add_server(add).map_err(|(field, message)| wrong(field.into(), &message))?;
        }
        let timeout = match self.timeout.as_deref().map(humantime::parse_duration) {
            None => TIMEOUT,
            Some(Ok(timeout)) if !timeout.is_zero() => timeout,
            Some(_) => return Err(wrong("timeout".into(), "write a duration such as 500ms or 5s")),
        };
        let policy = Policy {
            backends: self.backends,
            matching: self.matching,
            weight_zero: self.weight_zero,
            deregister: self.deregister,
            add_server: self.add_server,
        };
        Ok(Haproxy { sockets, policy, timeout })
    }

    fn check_add_server(&self, add: &AddServer) -> Result<(), (&'static str, String)> {
        let needs = |what: &str| Err(("add-server", format!("needs {what}")));
        if self.backends.is_empty() {
            return needs("`backends`: the ones that servers are added to");
        }
        if self.matching != Match::Address {
            return needs(
                "`match: address`: it makes names of its own, of the pod's and its address",
            );
        }
        if self.deregister != Deregister::Delete {
            return needs("`deregister: delete`: servers of pods that are gone would pile up");
        }
        if add.port == Some(0) {
            return Err(("add-server.port", "0 is no port; write 1 to 65535".to_owned()));
        }
        // A `;` would end the command, a `\` or a `<<` would change how it is read.
        let is_plain = |it: char| (it.is_ascii_graphic() || it == ' ') && !r";\<".contains(it);
        if !add.options.chars().all(is_plain) {
            let message =
                "write the words that stand behind the address in a `server` line, without ; \\ <";
            return Err(("add-server.options", message.to_owned()));
        }
        Ok(())
    }
}

/// What the operator decided, the same for every HAProxy.
#[derive(Clone, Debug)]
struct Policy {
    backends: Vec<String>,
    matching: Match,
    weight_zero: WeightZero,
    deregister: Deregister,
    add_server: Option<AddServer>,
}

/// One or several HAProxies that have the same servers.
#[derive(Clone, Debug)]
pub struct Haproxy {
    sockets: Vec<Socket>,
    policy: Policy,
    timeout: Duration,
}

impl Balancer for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn limits(&self) -> Limits {
        let timeout = self.timeout + TIMEOUT_MARGIN;
        // Each call takes one of the socket's ten connections (`stats maxconn`); others want some too.
        Limits { max_calls: 2, timeout, ..Limits::default() }
    }

    fn apply<'a>(&'a self, orders: &'a [Order]) -> Applying<'a> {
        Box::pin(async move {
            let answers = join_all(self.sockets.iter().map(|it| self.ask(it, orders))).await;
            let mut answers = answers.into_iter();
            let mut outcomes = answers.next().unwrap_or_default();
            for others in answers {
                outcomes = outcomes.into_iter().zip(others).map(|(a, b)| both(a, b)).collect();
            }
            outcomes
        })
    }

    /// Up where one check of one HAProxy succeeds, down where all of them fail.
    fn sees<'a>(&'a self, member: &'a Member) -> Seeing<'a> {
        Box::pin(async move {
            let looks = self.sockets.iter().map(|it| batch::look(it, &self.policy, member));
            let looks = tokio::time::timeout(self.timeout, join_all(looks)).await;
            let checks = looks.into_iter().flatten().map(|look| look.unwrap_or(Sight::Unknown));
            checks.reduce(plan::either).unwrap_or(Sight::Unknown)
        })
    }
}

impl Haproxy {
    /// Has one HAProxy carry out the orders.
    async fn ask(&self, socket: &Socket, orders: &[Order]) -> Vec<Outcome> {
        let batch = batch::carry_out(socket, &self.policy, orders);
        let error = match tokio::time::timeout(self.timeout, batch).await {
            Ok(Ok(outcomes)) => return outcomes,
            Ok(Err(error)) => error,
            Err(_elapsed) => Error::new(
                ErrorKind::Timeout,
                format!(
                    "{socket}: no answer within {}; is HAProxy stopped or overloaded, or are its \
                     socket's connections used up (`stats maxconn`)?",
                    humantime::format_duration(self.timeout)
                ),
            ),
        };
        vec![error.into(); orders.len()]
    }
}

/// What became of an order that two were given: what the one says that is further from done.
fn both(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Outcome::Failed(one), Outcome::Failed(other)) => {
            let message = format!("{}; {}", one.message, other.message);
            Error { message, ..one }.into()
        }
        (Outcome::Failed(error), _) | (_, Outcome::Failed(error)) => error.into(),
        (Outcome::NotYet(one), Outcome::NotYet(other)) => Outcome::NotYet(one.max(other)),
        (Outcome::NotYet(delay), _) | (_, Outcome::NotYet(delay)) => Outcome::NotYet(delay),
        (Outcome::Applied(one), Outcome::Applied(other)) => Outcome::Applied(Applied {
            former_weight: match (one.former_weight, other.former_weight) {
                // One number can't stand for both; HAProxy's own configuration does.
                (Some(one), Some(other)) if one != other => None,
                // One of them was at zero since an earlier attempt.
                (one, other) => one.or(other),
            },
            sessions: match (one.sessions, other.sessions) {
                (Some(one), Some(other)) => Some(one + other),
                (one, other) => one.or(other),
            },
            ..Applied::default()
        }),
    }
}

/// Runs them all at once to their ends; few enough that each may be asked whenever one wakes.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
