//! Every target, in bounded memory: the last report of each, and what is done about it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use super::balancer::{Action, Member, Order, Outcome};
use super::check::Checked;
use super::decide::{Fleet, Heard, Stale, Standing, Target};
use super::fall::Fall;
use super::service::{Census, ServiceName, Share};
use super::view::{TargetId, TargetView, Version};
use crate::api::report::{Answer, Directive, Report};
use crate::drain::Phase;

/// A deregistered target that has been silent for this long is forgotten; any silent one, to make room.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Forgotten targets whose going is still told to those who follow the changes.
const MAX_GONE: usize = 4096;

/// Why a report was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Stale(#[from] Stale),
    #[error("{max_targets} targets are remembered already; raise --max-targets")]
    Full { max_targets: usize },
}

/// Why an operator's wish can't be fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WishError {
    #[error("no target `{0}`; GET /v1/targets lists them")]
    Unknown(String),
    #[error("`{0}` was told to leave by a signal: it can't serve again")]
    Leaves(String),
    #[error(
        "{draining} targets of its service drain already, and {allowed} may; try again when one has ended"
    )]
    Limit { draining: usize, allowed: usize },
}

/// The rules for all targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rules {
    pub(super) max_targets: usize,
    pub(super) lost_after: Duration,
    /// How many targets of a service may drain at once because somebody asked.
    pub(super) max_draining: Option<Share>,
}

/// One target and what is known of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) target: Target,
    pub(super) report: Report,
    pub(super) sessions: Option<u64>,
    pub(super) fall: Fall,
    pub(super) version: Version,
    service: ServiceName,
    issued_at: u64,
    queued: bool,
    /// When the order for weight zero was given, until it is confirmed.
    ordered_at: Option<Instant>,
    /// Whoever waits for the order under way.
    waiting: Option<Arc<Notify>>,
    was_lost: bool,
    /// A later target has its address: whatever a balancer is told of that concerns the other one.
    superseded: bool,
    /// The target that had its address before, and whose last order must have ended.
    predecessor: Option<TargetId>,
}

#[derive(Debug)]
pub(super) struct Table {
    rules: Rules,
    targets: BTreeMap<TargetId, Entry>,
    services: BTreeMap<ServiceName, Census>,
    /// Targets that have an order to be given: first those that leave, then those that come.
    leaving: VecDeque<TargetId>,
    coming: VecDeque<TargetId>,
    timers: BTreeSet<(Instant, TargetId)>,
    /// Whose each address is: that of the run which began last.
    addresses: BTreeMap<SocketAddr, TargetId>,
    /// The version of the empty table, unlike any of another controller: see [`first_version`].
    begun: Version,
    version: Version,
    gone: VecDeque<(Version, TargetId)>,
}

/// What a conclusion was about, for logs and metrics.
#[derive(Debug)]
pub(super) struct Concluded {
    pub(super) report: Report,
    /// From the order for weight zero to its confirmation.
    pub(super) acknowledged_after: Option<Duration>,
    /// Whether the same failure was logged already.
    pub(super) repeated: bool,
}

impl Table {
    pub(super) fn new(rules: Rules) -> Self {
        let begun = first_version();
        Table {
            rules,
            targets: BTreeMap::new(),
            services: BTreeMap::new(),
            leaving: VecDeque::new(),
            coming: VecDeque::new(),
            timers: BTreeSet::new(),
            addresses: BTreeMap::new(),
            begun,
            version: begun,
            gone: VecDeque::new(),
        }
    }

    /// Remembers a report and queues what follows from it.
    pub(super) fn store(&mut self, checked: Checked, now: Instant) -> Result<TargetId, Refusal> {
        let Checked { report, heard } = checked;
        let id = TargetId::of(&report.identity);
        let service = ServiceName::of(&report.identity);
        if let Some(entry) = self.targets.get_mut(&id) {
            entry.target.hear(heard, now)?;
            entry.report = report;
            entry.service = service;
        } else {
            self.make_room(now)?;
            self.services.entry(service.clone()).or_default().serving += 1;
            let entry = Entry {
                target: Target::new(heard, now),
                report,
                sessions: None,
                fall: Fall::default(),
                version: self.version,
                service,
                issued_at: 0,
                queued: false,
                ordered_at: None,
                waiting: None,
                was_lost: false,
                superseded: false,
                predecessor: None,
            };
            self.targets.insert(id.clone(), entry);
        }
        self.claim_addresses(&id);
        if !self.targets.contains_key(&id) {
            return Err(Stale::Run.into());
        }
        self.weigh_permit(&id, now);
        self.touch(&id);
        self.queue(&id, now);
        Ok(id)
    }

    /// A pod's address goes to another pod when it is gone. Balancers know addresses, so nothing may be
    /// said any more of the one that had it.
    fn claim_addresses(&mut self, id: &TargetId) {
        let Some(entry) = self.targets.get(id) else {
            return;
        };
        let run = entry.target.heard().run;
        let Member { ip, ports, .. } = member(&entry.report, &entry.service);
        for addr in ip.into_iter().flat_map(|ip| ports.iter().map(move |port| (ip, *port).into())) {
            let former = self.addresses.get(&addr).filter(|former| *former != id).cloned();
            let Some(former) = former else {
                self.addresses.insert(addr, id.clone());
                continue;
            };
            let is_later =
                self.targets.get(&former).is_some_and(|former| former.target.heard().run > run);
            if is_later {
                self.supersede(id);
                return;
            }
            self.addresses.insert(addr, id.clone());
            self.supersede(&former);
            if let Some(entry) = self.targets.get_mut(id) {
                entry.predecessor = Some(former);
            }
        }
    }

    /// Gives no more orders for a target, and forgets it when the one under way has ended.
    fn supersede(&mut self, id: &TargetId) {
        let Some(entry) = self.targets.get_mut(id) else {
            return;
        };
        entry.superseded = true;
        if entry.target.under_way().is_none() {
            self.forget(id);
        }
    }

    /// Whether nothing may be said of a target, for good or until its predecessor's order has ended.
    fn is_muted(&self, entry: &Entry) -> bool {
        let predecessor = entry.predecessor.as_ref().and_then(|id| self.targets.get(id));
        entry.superseded || predecessor.is_some_and(|it| it.target.under_way().is_some())
    }

    /// Lets a drain that was asked for go on if there is room for it.
    fn weigh_permit(&mut self, id: &TargetId, now: Instant) {
        let Some(share) = self.rules.max_draining else {
            return;
        };
        let Some(entry) = self.targets.get(id) else {
            return;
        };
        if !entry.target.asks_leave() {
            return;
        }
        let others = self.draining_of(&entry.service, id, now);
        let granted = others.draining < share.of(others.targets + 1);
        if let Some(entry) = self.targets.get_mut(id) {
            entry.target.permit(granted);
        }
    }

    /// How many of `service` there are, and drain, apart from `id`.
    fn draining_of(&self, service: &ServiceName, id: &TargetId, now: Instant) -> Others {
        let fleet = self.fleet(service);
        let mut others = Others { targets: 0, draining: 0 };
        for (other, entry) in &self.targets {
            if other == id || entry.service != *service || entry.target.is_lost(fleet, now) {
                continue;
            }
            others.targets += usize::from(entry.target.heard().phase != Phase::Drained);
            others.draining += usize::from(entry.target.is_draining(now));
        }
        others
    }

    fn fleet(&self, service: &ServiceName) -> Fleet {
        let deaf = self.services.get(service).is_some_and(Census::is_deaf);
        Fleet { lost_after: self.rules.lost_after, deaf }
    }

    /// Forgets the target that has been silent longest, of those that will not be missed, if the
    /// table is full.
    fn make_room(&mut self, now: Instant) -> Result<(), Refusal> {
        if self.targets.len() < self.rules.max_targets {
            return Ok(());
        }
        let gone = self
            .targets
            .iter()
            .filter(|(_, entry)| entry.is_done_with() || entry.silence(now) >= FORGET_AFTER)
            .min_by_key(|(_, entry)| entry.target.heard_at())
            .map(|(id, _)| id.clone());
        match gone {
            Some(id) => {
                self.forget(&id);
                Ok(())
            }
            None => Err(Refusal::Full { max_targets: self.rules.max_targets }),
        }
    }

    fn forget(&mut self, id: &TargetId) {
        self.targets.remove(id);
        self.addresses.retain(|_, owner| owner != id);
        self.version = self.version.next();
        self.gone.push_back((self.version, id.clone()));
        if self.gone.len() > MAX_GONE {
            self.gone.pop_front();
        }
    }

    fn touch(&mut self, id: &TargetId) {
        self.version = self.version.next();
        if let Some(entry) = self.targets.get_mut(id) {
            entry.version = self.version;
        }
    }

    /// Puts the target in the queue if an order is due, or sets its timer.
    fn queue(&mut self, id: &TargetId, now: Instant) {
        let Some(entry) = self.targets.get(id) else {
            return;
        };
        if self.is_muted(entry) {
            return;
        }
        let fleet = self.fleet(&entry.service);
        let due = entry.target.order(fleet, now);
        if let Some(at) = entry.target.resumes_at(fleet, now) {
            self.timers.insert((at, id.clone()));
        }
        let Some(action) = due else {
            return;
        };
        let Some(entry) = self.targets.get_mut(id).filter(|entry| !entry.queued) else {
            return;
        };
        entry.queued = true;
        match action {
            Action::Register => self.coming.push_back(id.clone()),
            Action::WeightZero | Action::Deregister => self.leaving.push_back(id.clone()),
        }
    }

    /// The orders to be given now, at most `max`; they count as given.
    pub(super) fn take_orders(&mut self, max: usize, now: Instant) -> Vec<(TargetId, Order)> {
        self.ring(now);
        let mut orders = Vec::new();
        while orders.len() < max {
            let Some(id) = self.leaving.pop_front().or_else(|| self.coming.pop_front()) else {
                break;
            };
            orders.extend(self.take_order(&id, now).map(|order| (id, order)));
        }
        orders
    }

    fn take_order(&mut self, id: &TargetId, now: Instant) -> Option<Order> {
        let entry = self.targets.get(id)?;
        let (service, is_muted) = (entry.service.clone(), self.is_muted(entry));
        let fleet = self.fleet(&service);
        let entry = self.targets.get_mut(id)?;
        entry.queued = false;
        if is_muted {
            return None;
        }
        // What was due when it was queued may have changed since.
        let action = entry.target.order(fleet, now)?;
        entry.target.begin(action);
        if action == Action::WeightZero {
            entry.ordered_at.get_or_insert(now);
        }
        entry.issued_at = milliseconds_now().max(entry.issued_at + 1);
        Some(Order {
            action,
            member: member(&entry.report, &service),
            former_weight: entry.target.former_weight(),
            issued_at: entry.issued_at,
        })
    }

    /// Queues the targets whose pause is over.
    fn ring(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.pop_first() {
            if at > now {
                self.timers.insert((at, id));
                return;
            }
            self.queue(&id, now);
        }
    }

    /// When the next pause is over.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many orders wait to be given.
    pub(super) fn queued(&self) -> usize {
        self.leaving.len() + self.coming.len()
    }

    /// What became of an order that was taken.
    pub(super) fn conclude(
        &mut self,
        id: &TargetId,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Concluded> {
        let entry = self.targets.get_mut(id)?;
        let mut acknowledged_after = None;
        let mut repeated = false;
        match &outcome {
            Outcome::Applied(applied) => {
                entry.sessions = applied.sessions;
                acknowledged_after = entry.ordered_at.take().map(|at| now.duration_since(at));
            }
            Outcome::Failed(error) => {
                let same = entry.target.trouble().filter(|trouble| trouble.error == *error);
                repeated = same.is_some();
            }
            Outcome::NotYet(_) => {}
        }
        entry.target.conclude(outcome, now, fastrand::f64());
        if let Some(waiting) = entry.waiting.take() {
            waiting.notify_waiters();
        }
        let report = entry.report.clone();
        if entry.superseded {
            self.forget(id);
            self.queue_heirs(id, now);
        } else {
            self.touch(id);
            self.queue(id, now);
        }
        Some(Concluded { report, acknowledged_after, repeated })
    }

    /// Queues those that waited for a target's last order.
    fn queue_heirs(&mut self, predecessor: &TargetId, now: Instant) {
        let is_heir = |entry: &Entry| entry.predecessor.as_ref() == Some(predecessor);
        let heirs = self.targets.iter().filter(|(_, entry)| is_heir(entry));
        let heirs: Vec<TargetId> = heirs.map(|(id, _)| id.clone()).collect();
        for id in heirs {
            self.queue(&id, now);
        }
    }

    /// Told when the order that is under way or queued for the target has ended; none when there is none.
    pub(super) fn waiting_for(&mut self, id: &TargetId) -> Option<Arc<Notify>> {
        let entry = self.targets.get_mut(id)?;
        let busy = entry.queued || entry.target.under_way().is_some();
        busy.then(|| Arc::clone(entry.waiting.get_or_insert_default()))
    }

    /// What the target's proxy is answered.
    pub(super) fn answer(&self, id: &TargetId, now: Instant) -> Option<Answer> {
        self.targets.get(id).map(|entry| entry.target.answer(now))
    }

    /// Looks at every target for what the clock alone has changed. Returns those that it lost now.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<Report> {
        self.services = self.count(now);
        let ids: Vec<TargetId> = self.targets.keys().cloned().collect();
        let mut lost = Vec::new();
        for id in ids {
            lost.extend(self.look_at(&id, now));
        }
        lost
    }

    fn look_at(&mut self, id: &TargetId, now: Instant) -> Option<Report> {
        let fleet = self.fleet(&self.targets.get(id)?.service.clone());
        let entry = self.targets.get_mut(id)?;
        if entry.is_done_with() && entry.silence(now) >= FORGET_AFTER {
            self.forget(id);
            return None;
        }
        if entry.target.heard().phase == Phase::Serving {
            entry.fall.clear();
        } else {
            entry.fall.note(entry.report.drain_blocking_connections);
        }
        let is_lost = entry.target.is_lost(fleet, now);
        let was_lost = std::mem::replace(&mut entry.was_lost, is_lost);
        let news = (is_lost && !was_lost).then(|| entry.report.clone());
        if is_lost != was_lost {
            self.touch(id);
        }
        self.queue(id, now);
        news
    }

    /// Every service, counted.
    fn count(&self, now: Instant) -> BTreeMap<ServiceName, Census> {
        let mut services: BTreeMap<ServiceName, Census> = BTreeMap::new();
        for entry in self.targets.values() {
            if !services.contains_key(&entry.service) {
                services.insert(entry.service.clone(), Census::default());
            }
            let Some(census) = services.get_mut(&entry.service) else { continue };
            let silence = entry.silence(now);
            match entry.target.heard().phase {
                Phase::Serving if silence >= self.rules.lost_after / 2 => census.silent += 1,
                Phase::Serving => census.serving += 1,
                Phase::Drained => census.drained += 1,
                _ => census.draining += 1,
            }
        }
        services
    }

    /// Every service as the last sweep counted it.
    pub(super) fn services(&self) -> impl Iterator<Item = (&ServiceName, &Census)> {
        self.services.iter()
    }

    /// What changed after `since`, oldest first and at most `max` of it; with none, or one that is not
    /// of this table or from before what it has forgotten, everything there is.
    pub(super) fn changes(&self, since: Option<Version>, max: usize, now: Instant) -> Changes {
        let told = |since: &Version| self.begun <= *since && *since <= self.version;
        let (since, complete) = match since.filter(|since| told(since) && self.is_told(*since)) {
            Some(since) => (since, true),
            None => (self.begun, false),
        };
        let gone = self.gone.iter().filter(|(version, _)| complete && *version > since);
        let gone = gone.filter(|(_, id)| !self.targets.contains_key(id));
        let changed = self.targets.iter().filter(|(_, entry)| entry.version > since);
        let mut latest: Vec<(Version, &TargetId, Option<&Entry>)> = gone
            .map(|(version, id)| (*version, id, None))
            .chain(changed.map(|(id, entry)| (entry.version, id, Some(entry))))
            .collect();
        let more = latest.len() > max;
        if more {
            latest.select_nth_unstable_by_key(max, |(version, ..)| *version);
            latest.truncate(max);
        }
        latest.sort_unstable_by_key(|(version, ..)| *version);
        let last = latest.last().map_or(since, |(version, ..)| *version);
        let latest = latest.into_iter().map(|(version, id, entry)| match entry {
            Some(entry) => (version, Change::Target(Box::new(self.view(id, entry, now)))),
            None => (version, Change::Gone(id.clone())),
        });
        Changes {
            version: if more { last } else { self.version },
            complete,
            latest: latest.collect(),
            more,
        }
    }

    /// Whether every target that went after `since` is still known to have gone.
    fn is_told(&self, since: Version) -> bool {
        self.gone.len() < MAX_GONE || self.gone[0].0 <= since.next()
    }

    /// Every target, ordered by namespace and name.
    pub(super) fn list(&self, now: Instant) -> Vec<TargetView> {
        self.targets.iter().map(|(id, entry)| self.view(id, entry, now)).collect()
    }

    /// One target.
    pub(super) fn get(&self, id: &str, now: Instant) -> Option<TargetView> {
        let (id, entry) = self.targets.get_key_value(id)?;
        Some(self.view(id, entry, now))
    }

    fn view(&self, id: &TargetId, entry: &Entry, now: Instant) -> TargetView {
        TargetView::of(id, entry, &entry.service, self.fleet(&entry.service), now)
    }

    /// Asks a target to drain or to serve again, in its next answers.
    pub(super) fn wish(
        &mut self,
        id: &str,
        directive: Directive,
        now: Instant,
    ) -> Result<(TargetId, TargetView), WishError> {
        let (id, entry) =
            self.targets.get_key_value(id).ok_or_else(|| WishError::Unknown(id.to_owned()))?;
        let id = id.clone();
        let Heard { phase, must_leave, .. } = entry.target.heard();
        if directive == Directive::Undrain && must_leave && phase != Phase::Serving {
            return Err(WishError::Leaves(id.to_string()));
        }
        if directive == Directive::Drain
            && phase == Phase::Serving
            && let Some(share) = self.rules.max_draining
        {
            let others = self.draining_of(&entry.service, &id, now);
            let allowed = share.of(others.targets + 1);
            if others.draining >= allowed {
                return Err(WishError::Limit { draining: others.draining, allowed });
            }
        }
        let there = match directive {
            Directive::Drain => phase != Phase::Serving,
            _ => phase == Phase::Serving,
        };
        let directive = if there { Directive::None } else { directive };
        if let Some(entry) = self.targets.get_mut(&id) {
            entry.target.wish(directive, now);
        }
        self.touch(&id);
        let view = self.get(id.as_str(), now);
        view.map(|view| (id.clone(), view)).ok_or(WishError::Unknown(id.to_string()))
    }
}

struct Others {
    targets: usize,
    draining: usize,
}

/// What changed since a version.
#[derive(Debug)]
pub(super) struct Changes {
    /// Whoever has seen these has seen everything up to here.
    pub(super) version: Version,
    /// Whether these are all the changes; otherwise the follower must forget what it has seen, and they
    /// are the whole table.
    pub(super) complete: bool,
    /// Oldest first.
    pub(super) latest: Vec<(Version, Change)>,
    /// Whether there are more than fitted.
    pub(super) more: bool,
}

/// One of them.
#[derive(Debug)]
pub(super) enum Change {
    Target(Box<TargetView>),
    Gone(TargetId),
}

impl Entry {
    /// Whether the balancer has forgotten it, so that nothing is lost when we do.
    fn is_done_with(&self) -> bool {
        self.target.under_way().is_none() && self.target.standing() == Standing::Deregistered
    }

    fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.target.heard_at())
    }
}

fn member(report: &Report, service: &ServiceName) -> Member {
    let identity = &report.identity;
    let mut ports: Vec<u16> = report.listeners.iter().map(|listener| listener.port).collect();
    ports.sort_unstable();
    ports.dedup();
    Member {
        namespace: identity.namespace.clone(),
        pod_name: identity.pod_name.clone(),
        pod_uid: identity.pod_uid.clone(),
        service: service.name().to_owned(),
        ip: identity.pod_ip.parse().ok(),
        ports,
    }
}

fn milliseconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Microseconds since 1970. No table changes a million times a second, so that whoever has followed an
/// earlier run, or another replica, has not seen a version that this table also has.
fn first_version() -> Version {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Version(u64::try_from(since.as_micros()).unwrap_or(0))
}
