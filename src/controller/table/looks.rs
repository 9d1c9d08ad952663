//! What can be seen of the table: targets, services, and what changed.

use std::time::Instant;

use super::{Entry, MAX_GONE, Table};
use crate::controller::service::{Census, ServiceName};
use crate::controller::view::{TargetId, TargetView, Version};

/// What changed since a version.
#[derive(Debug)]
pub(in crate::controller) struct Changes {
    /// Whoever has seen these has seen everything up to here.
    pub(in crate::controller) version: Version,
    /// Whether these are all the changes; otherwise the follower must forget what it has seen, and they
    /// are the whole table.
    pub(in crate::controller) complete: bool,
    /// Oldest first.
    pub(in crate::controller) list: Vec<(Version, Change)>,
    /// Whether there are more than fitted.
    pub(in crate::controller) more: bool,
}

/// One of them.
#[derive(Debug)]
pub(in crate::controller) enum Change {
    Target(Box<TargetView>),
    Gone(TargetId),
}

impl Table {
    /// Every service as the last sweep counted it.
    pub(in crate::controller) fn services(&self) -> impl Iterator<Item = (&ServiceName, &Census)> {
        self.services.iter()
    }

    /// What changed after `since`, oldest first and at most `max` of it; with none, or one that is not
    /// of this table or from before what it has forgotten, everything there is.
    pub(in crate::controller) fn changes(
        &self,
        since: Option<Version>,
        max: usize,
        now: Instant,
    ) -> Changes {
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
        let changes = latest.into_iter().map(|(version, id, entry)| match entry {
            Some(entry) => (version, Change::Target(Box::new(self.view(id, entry, now)))),
            None => (version, Change::Gone(id.clone())),
        });
        Changes {
            version: if more { last } else { self.version },
            complete,
            list: changes.collect(),
            more,
        }
    }

    /// Whether every target that went after `since` is still known to have gone.
    fn is_told(&self, since: Version) -> bool {
        self.gone.len() < MAX_GONE || self.gone[0].0 <= since.next()
    }

    /// Every target, ordered by namespace and name.
    pub(in crate::controller) fn list(&self, now: Instant) -> Vec<TargetView> {
        self.targets.iter().map(|(id, entry)| self.view(id, entry, now)).collect()
    }

    /// One target.
    pub(in crate::controller) fn get(&self, id: &str, now: Instant) -> Option<TargetView> {
        let (id, entry) = self.targets.get_key_value(id)?;
        Some(self.view(id, entry, now))
    }

    fn view(&self, id: &TargetId, entry: &Entry, now: Instant) -> TargetView {
        TargetView::of(id, entry, &entry.service, self.fleet(&entry.service), now)
    }
}
