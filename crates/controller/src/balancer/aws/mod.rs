//! AWS's load balancers (NLB, ALB), by target groups of type `ip`.
//!
//! A target has no weight there. What stops new connections and leaves those that exist alone is
//! deregistration: the target is then `draining`. So weight zero deregisters, and is confirmed when
//! the service shows it; what follows at zero remaining has been done by then.

mod config;
mod credentials;
mod query;
mod sign;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use super::{
    Action, Applied, Applying, Balancer, Error, ErrorKind, Limits, Member, Order, Outcome,
};
pub use config::{Config, TargetGroup};
use credentials::Provider;
use query::{Form, Refusal, Service};

/// Of the API that these actions belong to.
const VERSION: &str = "2015-12-01";

/// Targets in one request: an API documents no limit, and a hundred are ten kilobytes of form.
const MAX_TARGETS: usize = 100;

/// The most targets of which is remembered that we deregistered them: some twenty megabytes.
const MAX_REMEMBERED: usize = 100_000;

/// When to look again for a target that was registered while it was still draining.
const REGISTER_RETRY: Duration = Duration::from_secs(5);

/// A target at a group: the group's place in the configuration, address and port.
type Key = (usize, IpAddr, u16);

/// Target groups that we drive.
#[derive(Debug)]
pub struct Elbv2 {
    service: Service,
    credentials: Provider,
    groups: Vec<TargetGroup>,
    register: bool,
    /// Whom we have deregistered, and which pod it was then: addresses are given to others later.
    removed: Mutex<HashMap<Key, String>>,
}

/// What a target group says of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// It is registered, healthy or not.
    Registered,
    /// It is deregistered and keeps what it has.
    Draining,
    /// It is not there, or no longer.
    Absent,
}

/// An order's target at one group.
#[derive(Debug)]
struct Want {
    order: usize,
    key: Key,
}

impl Balancer for Elbv2 {
    fn name(&self) -> &'static str {
        "aws-elbv2"
    }

    fn limits(&self) -> Limits {
        Limits {
            // A look shows the whole group, for however many orders.
            max_batch: 5 * MAX_TARGETS,
            // Orders for the same groups would only see each other half done.
            max_calls: 1,
            // Three requests a group; an account has ten in a second, for everybody in it.
            calls_per_second: 1.0,
            timeout: Duration::from_secs(25),
        }
    }

    fn apply<'a>(&'a self, orders: &'a [Order]) -> Applying<'a> {
        Box::pin(self.carry_out(orders))
    }
}

impl Elbv2 {
    async fn carry_out(&self, orders: &[Order]) -> Vec<Outcome> {
        let mut failed: HashMap<usize, Error> = HashMap::new();
        let mut health: HashMap<Key, Health> = HashMap::new();
        let wants = self.wants(orders);
        for at in 0..self.groups.len() {
            let ours: Vec<&Want> = wants.iter().filter(|want| want.key.0 == at).collect();
            if ours.is_empty() {
                continue;
            }
            let seen = self.at_group(at, orders, &ours).await;
            match seen {
                Ok((seen, refused)) => {
                    health.extend(seen);
                    failed.extend(refused);
                }
                Err(error) => failed.extend(ours.iter().map(|want| (want.order, error.clone()))),
            }
        }
        let outcome = |(at, order): (usize, &Order)| match failed.remove(&at) {
            Some(error) => error.into(),
            None => {
                let health = |key: &Key| health.get(key).copied().unwrap_or(Health::Absent);
                let its = wants.iter().filter(|want| want.order == at);
                let seen: Vec<_> = its.map(|want| (want.key, health(&want.key))).collect();
                self.outcome(order, &seen)
            }
        };
        orders.iter().enumerate().map(outcome).collect()
    }

    /// Which target at which group each order is about.
    fn wants(&self, orders: &[Order]) -> Vec<Want> {
        let mut wants = Vec::new();
        for (order, Order { member, .. }) in orders.iter().enumerate() {
            for (at, group) in self.groups.iter().enumerate() {
                if let (Some(ip), Some(port)) = (member.ip, port_at(member, group)) {
                    wants.push(Want { order, key: (at, ip, port) });
                }
            }
        }
        wants
    }

    /// Does what is wanted at one group; gives what the group says afterwards, and who was refused.
    async fn at_group(
        &self,
        at: usize,
        orders: &[Order],
        wants: &[&Want],
    ) -> Result<(HashMap<Key, Health>, Vec<(usize, Error)>), Error> {
        let before = self.look(at).await?;
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for &want in wants {
            let is_registered = before.get(&want.key) == Some(&Health::Registered);
            let order = &orders[want.order];
            match order.action {
                Action::Register if !is_registered && self.registers(want.key, order) => {
                    add.push(want);
                }
                Action::WeightZero | Action::Deregister if is_registered => remove.push(want),
                _ => {}
            }
        }
        if add.is_empty() && remove.is_empty() {
            return Ok((before, Vec::new()));
        }
        let mut refused = self.change("DeregisterTargets", at, &remove).await;
        for want in &remove {
            self.remember(want.key, &orders[want.order]);
        }
        refused.extend(self.change("RegisterTargets", at, &add).await);
        Ok((self.look(at).await?, refused))
    }

    /// Whether a target that is not registered is ours to register.
    fn registers(&self, key: Key, order: &Order) -> bool {
        self.register || self.removed().get(&key) == Some(&identity(&order.member))
    }

    fn remember(&self, key: Key, order: &Order) {
        let mut removed = self.removed();
        if removed.len() < MAX_REMEMBERED {
            removed.insert(key, identity(&order.member));
        }
    }

    /// What became of an order, by what its groups say now.
    fn outcome(&self, order: &Order, seen: &[(Key, Health)]) -> Outcome {
        let member = &order.member;
        let is = |wanted: Health| seen.iter().any(|(_, health)| *health == wanted);
        let removed_by_us = |key: &Key| self.removed().get(key) == Some(&identity(member));
        match order.action {
            Action::Register if self.register && seen.is_empty() => {
                let message = format!(
                    "{member} listens on {:?}, and none of the target groups takes one of these; set `port` there",
                    member.ports
                );
                Error::new(ErrorKind::Refused, message).into()
            }
            Action::Register => {
                let mut awaited = seen.iter().filter(|(key, _)| self.registers(*key, order));
                if awaited.any(|(_, health)| *health != Health::Registered) {
                    return Outcome::NotYet(REGISTER_RETRY);
                }
                self.removed().retain(|key, _| !seen.iter().any(|(its, _)| its == key));
                Applied::default().into()
            }
            _ if is(Health::Registered) => {
                let message = format!(
                    "{member} is registered again right after DeregisterTargets; look who registers it, \
                     such as the AWS load balancer controller for a pod that is not being deleted"
                );
                Error::new(ErrorKind::Refused, message).into()
            }
            Action::WeightZero
                if !is(Health::Draining) && !seen.iter().any(|(key, _)| removed_by_us(key)) =>
            {
                let message = format!(
                    "{member} ({:?}, ports {:?}) is in none of the target groups; look at target-groups and \
                     their port. (Or it had no connections and has left already, which cannot be told apart.)",
                    member.ip, member.ports
                );
                Error::new(ErrorKind::UnknownTarget, message).into()
            }
            Action::WeightZero | Action::Deregister => Applied::default().into(),
        }
    }

    /// What a group says of all of its targets.
    async fn look(&self, at: usize) -> Result<HashMap<Key, Health>, Error> {
        let mut form = Form::new("DescribeTargetHealth", VERSION);
        form.field("TargetGroupArn", &self.groups[at].arn);
        let answer: HealthResponse = self.call("DescribeTargetHealth", form).await?;
        let list = answer.result.descriptions.unwrap_or_default().member;
        let known = |it: Description| {
            let health = match (it.health.state.as_str(), it.health.reason.as_deref()) {
                (_, Some("Target.NotRegistered")) => Health::Absent,
                ("draining", _) => Health::Draining,
                _ => Health::Registered,
            };
            Some(((at, it.target.id.parse().ok()?, it.target.port?), health))
        };
        Ok(list.into_iter().filter_map(known).collect())
    }

    /// Registers or deregisters; tells which orders were refused, and why.
    async fn change(&self, action: &str, at: usize, wants: &[&Want]) -> Vec<(usize, Error)> {
        let mut refused = Vec::new();
        // One order may have one port at a group only, so nobody is named twice, unless two targets
        // claim the same address.
        for batch in wants.chunks(MAX_TARGETS) {
            let Err(refusal) = self.change_batch(action, at, batch).await else { continue };
            if refusal.code != "InvalidTarget" || batch.len() == 1 {
                refused.extend(batch.iter().map(|want| (want.order, refusal.error.clone())));
                continue;
            }
            // One of them spoils it for all, and the service does not say which.
            for want in batch {
                if let Err(refusal) = self.change_batch(action, at, &[*want]).await {
                    refused.push((want.order, refusal.error));
                }
            }
        }
        refused
    }

    async fn change_batch(&self, action: &str, at: usize, wants: &[&Want]) -> Result<(), Refusal> {
        #[derive(Deserialize)]
        struct Nothing {}
        let mut form = Form::new(action, VERSION);
        form.field("TargetGroupArn", &self.groups[at].arn);
        let targets: HashSet<Key> = wants.iter().map(|want| want.key).collect();
        for (number, (_, ip, port)) in targets.into_iter().enumerate() {
            let number = number + 1;
            form.field(&format!("Targets.member.{number}.Id"), &ip.to_string());
            form.field(&format!("Targets.member.{number}.Port"), &port.to_string());
        }
        self.call::<Nothing>(action, form).await.map(drop)
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        action: &str,
        form: Form,
    ) -> Result<T, Refusal> {
        let credentials = self.credentials.current().await?;
        self.service.call(action, form, Some(&credentials)).await
    }

    fn removed(&self) -> MutexGuard<'_, HashMap<Key, String>> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port by which `member` is known at `group`, if it has one that belongs there.
fn port_at(member: &Member, group: &TargetGroup) -> Option<u16> {
    match (group.port, member.ports.as_slice()) {
        (Some(port), ports) => ports.contains(&port).then_some(port),
        (None, [only]) => Some(*only),
        (None, _) => None,
    }
}

/// What tells a pod from a later one with the same address.
fn identity(member: &Member) -> String {
    if member.pod_uid.is_empty() { member.to_string() } else { member.pod_uid.clone() }
}

#[derive(Deserialize)]
struct HealthResponse {
    #[serde(rename = "DescribeTargetHealthResult")]
    result: HealthResult,
}

#[derive(Deserialize)]
struct HealthResult {
    #[serde(rename = "TargetHealthDescriptions")]
    descriptions: Option<Descriptions>,
}

#[derive(Default, Deserialize)]
struct Descriptions {
    #[serde(default)]
    member: Vec<Description>,
}

#[derive(Deserialize)]
struct Description {
    #[serde(rename = "Target")]
    target: Target,
    #[serde(rename = "TargetHealth")]
    health: TargetHealth,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Target {
    id: String,
    port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TargetHealth {
    state: String,
    reason: Option<String>,
}
