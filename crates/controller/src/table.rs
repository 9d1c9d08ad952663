//! Every target, in bounded memory: the last report of each, and what is done about it.

mod addresses;
mod changes;
mod looks;
mod orders;
mod wishes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::allowance::Allowance;
use super::balancer::Member;
use super::check::Checked;
use super::decide::{Fleet, Stale, Standing, Target};
use super::fall::Fall;
use super::service::{Census, ServiceName, Share};
use super::view::{TargetId, TargetView, Version};
use ebbtide_api::phase::Phase;
use ebbtide_api::report::{Answer, Report};

pub(super) use changes::{Change, Changes};
pub(super) use looks::{Look, Seen};
pub(super) use orders::Concluded;
pub(super) use wishes::WishError;

use addresses::Addresses;
use changes::first_version;
use looks::Asking;
use orders::Line;

/// A deregistered target that has been silent for this long is forgotten; any silent one, to make room.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Forgotten targets whose going is still told to those who follow the changes.
const MAX_GONE: usize = 4096;

/// How long a full table is not looked through again for who has been silent for long: at 10,000 targets that takes
/// ten times as long as a report, and strangers come by the thousand.
const FULL_FOR: Duration = Duration::from_secs(1);

/// Why a report was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Stale(#[from] Stale),
    #[error("{max_targets} targets are remembered already; raise --max-targets")]
    Full { max_targets: usize },
    #[error(
        "this target reports more often than {per_second} times a second; see --max-report-rate"
    )]
    TooOften { per_second: u32 },
}

/// The rules for all targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rules {
    pub(super) max_targets: usize,
    /// Reports of one target in a second.
    pub(super) max_report_rate: u32,
    pub(super) lost_after: Duration,
    /// How many targets of a service may drain at once because somebody asked.
    pub(super) max_draining: Option<Share>,
}

/// One target and what is known of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) target: Target,
    pub(super) report: Report,
    allowance: Allowance,
    pub(super) sessions: Option<u64>,
    pub(super) fall: Fall,
    pub(super) version: Version,
    service: ServiceName,
    issued_at: u64,
    queued: Option<Line>,
    /// When the order for weight zero was given, until it is confirmed.
    ordered_at: Option<Instant>,
    /// Whoever waits for the order under way.
    waiting: Option<Arc<Notify>>,
    was_lost: bool,
    asking: Asking,
    /// A later target has its address: whatever a balancer is told of that concerns the other one.
    superseded: bool,
    /// The target that had its address before, and whose last order must have ended.
    predecessor: Option<TargetId>,
}

/// A part of the list of targets.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) views: Vec<TargetView>,
    pub(super) last: Option<TargetId>,
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
    addresses: Addresses,
    /// The version of the empty table, unlike any of another controller: see [`first_version`].
    begun: Version,
    version: Version,
    /// The target of each last change, so that followers need not look through all of them.
    changed: BTreeMap<Version, TargetId>,
    gone: VecDeque<(Version, TargetId)>,
    /// Until when there is no room unless a target is deregistered.
    full_until: Option<Instant>,
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
            addresses: Addresses::default(),
            begun,
            version: begun,
            changed: BTreeMap::new(),
            gone: VecDeque::new(),
            full_until: None,
        }
    }

    /// Remembers a report and queues what follows from it.
    pub(super) fn store(&mut self, checked: Checked, now: Instant) -> Result<TargetId, Refusal> {
        let Checked { report, heard } = checked;
        let id = TargetId::of(&report.identity);
        let service = ServiceName::of(&report.identity);
        let rate = f64::from(self.rules.max_report_rate);
        if let Some(entry) = self.targets.get_mut(&id) {
            if !entry.allowance.take(rate, now) {
                return Err(Refusal::TooOften { per_second: self.rules.max_report_rate });
            }
            entry.target.hear(heard, now)?;
            entry.report = report;
            entry.service = service;
        } else {
            self.make_room(now)?;
            self.services.entry(service.clone()).or_default().serving += 1;
            let entry = Entry {
                target: Target::new(heard, now),
                report,
                allowance: Allowance::new(rate, now),
                sessions: None,
                fall: Fall::default(),
                // Of no change yet.
                version: Version(0),
                service,
                issued_at: 0,
                queued: None,
                ordered_at: None,
                waiting: None,
                was_lost: false,
                asking: Asking::default(),
                superseded: false,
                predecessor: None,
            };
            self.targets.insert(id.clone(), entry);
        }
        self.claim_addresses(&id, now);
        if !self.targets.contains_key(&id) {
            return Err(Stale::Run.into());
        }
        self.weigh_permit(&id, now);
        self.touch(&id);
        self.queue(&id, now);
        Ok(id)
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
        let full = Refusal::Full { max_targets: self.rules.max_targets };
        if self.full_until.is_some_and(|until| now < until) {
            return Err(full);
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
            None => {
                self.full_until = Some(now + FULL_FOR);
                Err(full)
            }
        }
    }

    fn forget(&mut self, id: &TargetId) {
        if let Some(entry) = self.targets.remove(id) {
            self.changed.remove(&entry.version);
        }
        self.addresses.forget(id);
        self.version = self.version.next();
        self.gone.push_back((self.version, id.clone()));
        if self.gone.len() > MAX_GONE {
            self.gone.pop_front();
        }
    }

    fn touch(&mut self, id: &TargetId) {
        self.version = self.version.next();
        if let Some((id, _)) = self.targets.get_key_value(id) {
            self.changed.insert(self.version, id.clone());
        }
        if let Some(entry) = self.targets.get_mut(id) {
            let before = std::mem::replace(&mut entry.version, self.version);
            self.changed.remove(&before);
        }
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
            let quiet = now.saturating_duration_since(entry.target.alive_at());
            match entry.target.heard().phase {
                Phase::Serving if quiet >= self.rules.lost_after / 2 => census.silent += 1,
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

    /// At most `max` targets behind `after`, or the first ones, ordered by namespace and name.
    pub(super) fn page(&self, after: Option<&TargetId>, max: usize, now: Instant) -> Page {
        let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_str()));
        let range = self.targets.range::<str, _>((from, Bound::Unbounded)).take(max);
        let mut page = Page { views: Vec::with_capacity(max), last: None };
        for (id, entry) in range {
            page.views.push(self.view(id, entry, now));
            page.last = Some(id.clone());
        }
        page
    }

    /// Every target, ordered by namespace and name.
    #[cfg(test)]
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
