//! What changed since a follower looked last.

use std::ops::Bound;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{Entry, MAX_GONE, Table};
use crate::view::{TargetId, TargetView, Version};

/// What changed since a version.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Whoever has seen these has seen everything up to here.
    pub(crate) version: Version,
    /// Whether these are all the changes; otherwise the follower must forget what it has seen, and they
    /// are the whole table.
    pub(crate) complete: bool,
    /// Oldest first.
    pub(crate) latest: Vec<(Version, Change)>,
    /// Whether there are more than fitted.
    pub(crate) more: bool,
}

/// One of them.
#[derive(Debug)]
pub(crate) enum Change {
    Target(Box<TargetView>),
    Gone(TargetId),
}

impl Table {
    /// What changed after `since`, oldest first and at most `max` of it; with none, or one that is not
    /// of this table or from before what it has forgotten, everything there is.
    pub(crate) fn changes(&self, since: Option<Version>, max: usize, now: Instant) -> Changes {
        let told = |since: &Version| self.begun <= *since && *since <= self.version;
        let (since, complete) = match since.filter(|since| told(since) && self.is_told(*since)) {
            Some(since) => (since, true),
            None => (self.begun, false),
        };
        let gone = self.gone.iter().filter(|(version, _)| complete && *version > since);
        let gone = gone.filter(|(_, id)| !self.targets.contains_key(id));
        let behind = (Bound::Excluded(since), Bound::Unbounded);
        // One more than fits says that there are more.
        let changed = self.changed.range(behind).take(max + 1);
        let changed = changed.filter_map(|(_, id)| self.targets.get_key_value(id));
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
}

/// Microseconds since 1970. No table changes a million times a second, so that whoever has followed an
/// earlier run, or another replica, has not seen a version that this table also has.
pub(super) fn first_version() -> Version {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Version(u64::try_from(since.as_micros()).unwrap_or(0))
}
