//! One HAProxy and a batch of orders: look, command, look again.

use std::ops::Range;
use std::time::Duration;

use super::super::{Action, Applied, Error, ErrorKind, Member, Order, Outcome, Sight};
use super::plan::{self, Table};
use super::runtime::{Session, Socket};
use super::servers::{Load, Server};
use super::{Deregister, Policy};

/// When to look again at sessions that wait in a drained server's queue: they leave it within
/// HAProxy's `timeout queue`, seconds as a rule.
const QUEUE_PERIOD: Duration = Duration::from_millis(500);

/// When to try again to delete a server that still has connections. HAProxy drops its idle ones within
/// five seconds (`pool-purge-delay`).
const DELETE_PERIOD: Duration = Duration::from_secs(1);

/// What the checks of one HAProxy say of a target.
///
/// # Errors
///
/// When HAProxy could not be spoken to.
pub(super) async fn look(
    socket: &Socket,
    policy: &Policy,
    member: &Member,
) -> Result<Sight, Error> {
    let mut session = Session::open(socket).await?;
    let table = Table::read(&mut session, &policy.backends).await?;
    let checks = table.find(policy, member).into_iter().map(|server| server.check);
    Ok(checks.reduce(plan::either).unwrap_or(Sight::Unknown))
}

/// Carries out `orders` at one HAProxy; the outcomes are in their order.
///
/// # Errors
///
/// When HAProxy could not be spoken to: what it has done of the orders is not known then.
pub(super) async fn carry_out(
    socket: &Socket,
    policy: &Policy,
    orders: &[Order],
) -> Result<Vec<Outcome>, Error> {
    let mut session = Session::open(socket).await?;
    let mut table = Table::read(&mut session, &policy.backends).await?;
    let mut commands = Vec::new();
    let mut steps = Vec::with_capacity(orders.len());
    for order in orders {
        let former_weight = common_weight(&table.find(policy, &order.member));
        let planned = plan::commands(policy, &table, order);
        let first = commands.len();
        steps.push(planned.map(|planned| {
            commands.extend(planned);
            Step { commands: first..commands.len(), former_weight }
        }));
    }
    let replies = session.ask(&commands).await?;
    if !commands.is_empty() {
        table = Table::read(&mut session, &policy.backends).await?;
    }
    let mut outcomes = Vec::with_capacity(orders.len());
    let mut loads = loads(&mut session, policy, &table, orders).await?.into_iter();
    for (order, step) in orders.iter().zip(steps) {
        let load = loads.next().unwrap_or_default();
        let outcome = step.and_then(|step| {
            let of = step.commands;
            let complaint = complaint(&commands[of.clone()], &replies[of]);
            let former_weight = step.former_weight;
            let seen = Seen { table: &table, load, complaint, former_weight };
            seen.judge(policy, order)
        });
        outcomes.push(outcome.unwrap_or_else(|error| at(socket, &error).into()));
    }
    Ok(outcomes)
}

/// What an order led to.
struct Step {
    /// Where its commands stand among all of the batch.
    commands: Range<usize>,
    former_weight: Option<u32>,
}

/// The error, with the HAProxy that it comes from.
fn at(socket: &Socket, error: &Error) -> Error {
    Error::new(error.kind, format!("{socket}: {}", error.message))
}

/// The weight of all of them that have any, if they agree.
fn common_weight(servers: &[&Server]) -> Option<u32> {
    let mut weights = servers.iter().map(|it| it.weight).filter(|it| *it != 0);
    let first = weights.next()?;
    weights.all(|it| it == first).then_some(first)
}

/// What the servers of each target have to do together, asked only where somebody wants to know.
async fn loads(
    session: &mut Session<'_>,
    policy: &Policy,
    table: &Table,
    orders: &[Order],
) -> Result<Vec<Load>, Error> {
    let servers = |order: &Order| match order.action {
        Action::WeightZero => table.find(policy, &order.member),
        Action::Register | Action::Deregister => Vec::new(),
    };
    let wanted: Vec<Vec<&Server>> = orders.iter().map(servers).collect();
    let commands: Vec<String> = wanted.iter().flatten().map(|it| it.show_load()).collect();
    let mut replies = session.ask(&commands).await?.into_iter();
    let mut loads = Vec::with_capacity(orders.len());
    for servers in wanted {
        let mut sum = Load::default();
        for server in servers {
            let reply = replies.next().unwrap_or_default();
            let load = Load::parse(&reply, server)
                .ok_or_else(|| session.nonsense(&server.show_load(), &reply))?;
            sum.sessions += load.sessions;
            sum.queued += load.queued;
        }
        loads.push(sum);
    }
    Ok(loads)
}

/// What HAProxy shows after the commands for one order.
struct Seen<'a> {
    table: &'a Table,
    load: Load,
    complaint: Option<Error>,
    former_weight: Option<u32>,
}

impl Seen<'_> {
    /// What became of the order, by what HAProxy shows. A complaint counts only if the servers are not as they should be:
    /// another controller may have been quicker.
    fn judge(self, policy: &Policy, order: &Order) -> Result<Outcome, Error> {
        let servers = self.table.find(policy, &order.member);
        match order.action {
            // Another controller may have deleted it since.
            Action::WeightZero if servers.is_empty() => Err(plan::unknown(policy, &order.member)),
            Action::WeightZero => {
                if let Some(server) = servers.iter().find(|it| !policy.is_at_zero(it)) {
                    return Err(self.complaint.unwrap_or_else(|| somebody_else(server)));
                }
                if self.load.queued > 0 {
                    return Ok(Outcome::NotYet(QUEUE_PERIOD));
                }
                let sessions = Some(self.load.sessions);
                let former_weight = self.former_weight;
                Ok(Applied { former_weight, sessions, ..Applied::default() }.into())
            }
            Action::Register => {
                if let Some(server) = servers.iter().find(|it| !policy.is_registered(it)) {
                    return Err(self.complaint.unwrap_or_else(|| kept_away(server)));
                }
                let lacks_one = servers.is_empty() || !policy.lacking(&servers).is_empty();
                if lacks_one {
                    let unknown = || plan::unknown(policy, &order.member);
                    return Err(self.complaint.unwrap_or_else(unknown));
                }
                Ok(Applied::default().into())
            }
            Action::Deregister => {
                let is_gone = |it: &Server| match policy.deregister {
                    Deregister::Maint => it.is_in_maintenance(),
                    Deregister::Delete => false,
                };
                let Some(server) = servers.iter().find(|it| !is_gone(it)) else {
                    return Ok(Applied::default().into());
                };
                match self.complaint {
                    Some(complaint) if complaint.message.contains("connections attached") => {
                        Ok(Outcome::NotYet(DELETE_PERIOD))
                    }
                    Some(complaint) => Err(complaint),
                    None => Err(somebody_else(server)),
                }
            }
        }
    }
}

fn somebody_else(server: &Server) -> Error {
    let path = server.path();
    let message =
        format!("{path} took the command and does not show it; who else commands HAProxy?");
    Error::new(ErrorKind::Refused, message)
}

fn kept_away(server: &Server) -> Error {
    let message = format!(
        "{} gets no traffic although it is `ready` (srv_admin_state {}): it follows another server by \
         `track`, its name does not resolve, or somebody else commands HAProxy",
        server.path(),
        server.admin
    );
    Error::new(ErrorKind::Refused, message)
}

/// The first of the replies that is no good one.
fn complaint(commands: &[String], replies: &[String]) -> Option<Error> {
    let is_bad = |reply: &str| !["", "New server registered.", "Server deleted."].contains(&reply);
    let (command, reply) =
        commands.iter().zip(replies.iter().map(|it| it.trim())).find(|(_, reply)| is_bad(reply))?;
    let (kind, advice) = if reply.starts_with("Permission denied") {
        (ErrorKind::Denied, "; give HAProxy's `stats socket` line `level admin`")
    } else if reply.contains("dynamic load balanc") {
        (ErrorKind::Refused, " `add-server` wants `balance roundrobin` or `leastconn` there")
    } else if reply.contains("other configuration elements") {
        (ErrorKind::Refused, " Remove those, or set `deregister: maint`")
    } else if reply.contains("Unknown command") || reply.contains("experimental") {
        (ErrorKind::Refused, "; it takes HAProxy 2.6 or later")
    } else {
        (ErrorKind::Refused, "")
    };
    let reply = reply.lines().next().unwrap_or_default();
    Some(Error::new(kind, format!("`{command}` was answered by `{reply}`{advice}")))
}
