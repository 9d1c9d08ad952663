//! What is to be changed at CLB for an order: pure, from what is bound now.

use std::collections::HashMap;
use std::net::IpAddr;

use super::api::{Backend, ListenerBackend, Target};
use crate::balancer::{Action, Applied, Error, ErrorKind, Member, Order, Outcome};

/// The most targets whose former weights are remembered: some twenty megabytes, and more targets than
/// a load balancer takes.
const MAX_REMEMBERED: usize = 100_000;

/// Where targets can be bound: a listener, or one rule of an HTTP listener, and what is bound there.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) at: At,
    /// The only port of a target that belongs here; without one, any.
    pub(super) port: Option<u16>,
    pub(super) bound: Vec<Backend>,
}

/// A listener, or one of its rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct At {
    pub(super) listener_id: String,
    pub(super) location_id: Option<String>,
}

/// What the configuration says of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) id: String,
    pub(super) locations: Vec<String>,
    pub(super) port: Option<u16>,
}

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) at: At,
    pub(super) what: What,
    /// Whom; with the weight it shall have, unless it is to be unbound.
    pub(super) target: Target,
}

/// In which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Weigh,
    Bind,
    Unbind,
}

/// What an order still needs.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing: this is what became of it.
    Settled(Outcome),
    /// These changes, at least one.
    Change(Vec<Change>),
}

/// The weights that targets had before they were set to zero, each binding its own: by address, then
/// by place and port.
#[derive(Debug, Default)]
pub(super) struct FormerWeights(HashMap<IpAddr, HashMap<(At, u16), u32>>);

/// The places that the configuration names, as they are now.
///
/// # Errors
///
/// Names the listener or rule that the balancer does not have.
pub(super) fn places(
    listeners: &[Listener],
    described: Vec<ListenerBackend>,
) -> Result<Vec<Place>, Error> {
    let missing = |what: &str, id: &str| {
        let message = format!("{what} {id} is not there; look at the ids under listeners");
        Error::new(ErrorKind::Refused, message)
    };
    let mut described: HashMap<String, ListenerBackend> =
        described.into_iter().map(|it| (it.listener_id.clone(), it)).collect();
    let mut places = Vec::new();
    for listener in listeners {
        let found =
            described.remove(&listener.id).ok_or_else(|| missing("listener", &listener.id))?;
        let rules = found.rules.unwrap_or_default();
        for wanted in &listener.locations {
            if !rules.iter().any(|rule| rule.location_id == *wanted) {
                return Err(missing("location", wanted));
            }
        }
        let place = |location_id, targets: Option<Vec<Backend>>| Place {
            at: At { listener_id: listener.id.clone(), location_id },
            port: listener.port,
            bound: targets.unwrap_or_default(),
        };
        if rules.is_empty() {
            places.push(place(None, found.targets));
        }
        let is_wanted =
            |id: &String| listener.locations.is_empty() || listener.locations.contains(id);
        for rule in rules.into_iter().filter(|rule| is_wanted(&rule.location_id)) {
            places.push(place(Some(rule.location_id), rule.targets));
        }
    }
    Ok(places)
}

/// What `order` needs at `places`.
pub(super) fn plan(
    order: &Order,
    places: &[Place],
    former: &FormerWeights,
    default_weight: u32,
) -> Plan {
    let member = &order.member;
    let Some(ip) = member.ip else {
        let message = format!("{member} reports no address; give its proxy POD_IP");
        return settled(Error::new(ErrorKind::Refused, message));
    };
    let ours: Vec<(&Place, &Backend)> = places
        .iter()
        .flat_map(|place| place.bound.iter().map(move |bound| (place, bound)))
        .filter(|(place, bound)| is_bound(member, ip, place, bound))
        .collect();
    let changes = match order.action {
        Action::WeightZero => {
            if ours.is_empty() {
                return settled(unknown(member, ip));
            }
            weigh(&ours, ip, |_, bound| (bound.weight != 0).then_some(0))
        }
        Action::Deregister => ours
            .iter()
            .map(|(place, bound)| change(place, What::Unbind, target(bound, ip, None)))
            .collect(),
        Action::Register => {
            let weight = |place: &Place, port| {
                former.of(&place.at, ip, port).or(order.former_weight).unwrap_or(default_weight)
            };
            let mut changes = weigh(&ours, ip, |place, bound| {
                (bound.weight == 0).then(|| weight(place, bound.port))
            });
            let is_free = |place: &&Place| !ours.iter().any(|(bound, _)| bound.at == place.at);
            let mut fits = !ours.is_empty();
            for place in places.iter().filter(is_free) {
                let Some(port) = port_at(member, place) else { continue };
                fits = true;
                let weight = Some(weight(place, port));
                let target = Target { instance_id: None, eni_ip: Some(ip), port, weight };
                changes.push(change(place, What::Bind, target));
            }
            if !fits {
                return settled(Error::new(
                    ErrorKind::Refused,
                    format!(
                        "{member} listens on {:?}, and none of the listeners says that it takes one of these; set `port` there",
                        member.ports
                    ),
                ));
            }
            changes
        }
    };
    if changes.is_empty() {
        let former_weight = match order.action {
            Action::WeightZero => {
                ours.iter().filter_map(|(place, bound)| former.of(&place.at, ip, bound.port)).max()
            }
            _ => None,
        };
        return settled(Applied { former_weight, ..Applied::default() });
    }
    Plan::Change(changes)
}

impl FormerWeights {
    fn of(&self, at: &At, ip: IpAddr, port: u16) -> Option<u32> {
        self.0.get(&ip)?.get(&(at.clone(), port)).copied()
    }

    /// Keeps the weights that `order` is about to take away.
    pub(super) fn remember(&mut self, order: &Order, places: &[Place]) {
        let (Action::WeightZero, Some(ip)) = (order.action, order.member.ip) else { return };
        if self.0.len() >= MAX_REMEMBERED && !self.0.contains_key(&ip) {
            return;
        }
        for place in places {
            for bound in &place.bound {
                if bound.weight > 0 && is_bound(&order.member, ip, place, bound) {
                    let weights = self.0.entry(ip).or_default();
                    weights.insert((place.at.clone(), bound.port), bound.weight);
                }
            }
        }
    }

    /// Forgets what a target had that has its weight back or is gone.
    pub(super) fn forget(&mut self, order: &Order) {
        if order.action == Action::WeightZero {
            return;
        }
        let Some(ip) = order.member.ip else { return };
        let Some(weights) = self.0.get_mut(&ip) else { return };
        weights.retain(|(_, port), _| !order.member.ports.contains(port));
        if weights.is_empty() {
            self.0.remove(&ip);
        }
    }
}

fn settled(outcome: impl Into<Outcome>) -> Plan {
    Plan::Settled(outcome.into())
}

fn unknown(member: &Member, ip: IpAddr) -> Error {
    let message = format!(
        "{member} ({ip}, ports {:?}) is bound to none of the listeners; look at load-balancer-id, \
         listeners and their port",
        member.ports
    );
    Error::new(ErrorKind::UnknownTarget, message)
}

fn is_bound(member: &Member, ip: IpAddr, place: &Place, bound: &Backend) -> bool {
    let is_port = place.port.is_none_or(|port| port == bound.port);
    let has_ip = bound.private_ip_addresses.as_ref().is_some_and(|all| all.contains(&ip));
    is_port && has_ip && member.ports.contains(&bound.port)
}

/// The port by which `member` is to be bound at `place`, if it has one that belongs there.
fn port_at(member: &Member, place: &Place) -> Option<u16> {
    match (place.port, member.ports.as_slice()) {
        (Some(port), ports) => ports.contains(&port).then_some(port),
        (None, [only]) => Some(*only),
        (None, _) => None,
    }
}

fn weigh(
    ours: &[(&Place, &Backend)],
    ip: IpAddr,
    weight: impl Fn(&Place, &Backend) -> Option<u32>,
) -> Vec<Change> {
    let change = |(place, bound): &(&Place, &Backend)| {
        let weight = weight(place, bound)?;
        Some(change(place, What::Weigh, target(bound, ip, Some(weight))))
    };
    ours.iter().filter_map(change).collect()
}

fn change(place: &Place, what: What, target: Target) -> Change {
    Change { at: place.at.clone(), what, target }
}

/// What is bound, as a request names it: machines by their id, addresses by themselves.
fn target(bound: &Backend, ip: IpAddr, weight: Option<u32>) -> Target {
    let instance_id = bound.instance_id.clone().filter(|id| bound.kind == "CVM" && !id.is_empty());
    let eni_ip = instance_id.is_none().then_some(ip);
    Target { instance_id, eni_ip, port: bound.port, weight }
}
