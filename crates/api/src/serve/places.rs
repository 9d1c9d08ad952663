//! As many connections as a server holds, and who gives way when there are more.
//!
//! A connection without a request under way, or one whose client does not take its answer, gives way to a new
//! one: the one that has been so for the longest. Requests under way never fill the last places, but for probes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Places that requests under way leave to probes, and to whoever comes next: a kubelet, a scraper and an
/// operator at once are a handful.
const KEPT_PLACES: usize = 16;

/// What a connection does, as far as that decides whether it may be closed for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing yet, or nothing any more: no head of a request has come.
    Silent,
    /// It waits for the client to take its answer.
    Stuck,
    /// A request is under way.
    Answering,
}

/// The places of one server.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    open: usize,
    answering: usize,
    /// Counts what happens, so that the oldest is the first.
    clock: u64,
    /// Who may be closed for another, by when that began.
    silent: BTreeMap<u64, Arc<Notify>>,
    stuck: BTreeMap<u64, Arc<Notify>>,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Places { most, held: Mutex::default(), freed: Notify::new() })
    }

    /// A place, for which the one that has been silent for the longest gives its own up if there is no other.
    ///
    /// # Cancel safety
    /// No place is lost.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.give_way();
            self.freed.notified().await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut held = self.held();
        if held.open >= self.most {
            return None;
        }
        held.open += 1;
        let evicted = Arc::new(Notify::new());
        let since = held.note(Doing::Silent, &evicted);
        Some(Place {
            places: Arc::clone(self),
            evicted,
            now: Mutex::new(Now { since, under_way: None, is_stuck: false, count: 0 }),
        })
    }

    /// Has one connection closed that nobody would miss. `false` when every one has a request under way.
    pub(super) fn give_way(&self) -> bool {
        let mut held = self.held();
        let oldest = held.silent.pop_first().or_else(|| held.stuck.pop_first());
        drop(held);
        if let Some((_, evicted)) = &oldest {
            evicted.notify_one();
        }
        oldest.is_some()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn note(&mut self, doing: Doing, evicted: &Arc<Notify>) -> u64 {
        self.clock += 1;
        match doing {
            Doing::Silent => _ = self.silent.insert(self.clock, Arc::clone(evicted)),
            Doing::Stuck => _ = self.stuck.insert(self.clock, Arc::clone(evicted)),
            Doing::Answering => self.answering += 1,
        }
        self.clock
    }

    fn forget(&mut self, doing: Doing, since: u64) {
        match doing {
            Doing::Silent => _ = self.silent.remove(&since),
            Doing::Stuck => _ = self.stuck.remove(&since),
            Doing::Answering => self.answering -= 1,
        }
    }
}

/// One connection's place, given up on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    evicted: Arc<Notify>,
    now: Mutex<Now>,
}

#[derive(Clone, Copy, Debug)]
struct Now {
    /// When it began to do what it does.
    since: u64,
    /// The request whose answer is not written yet.
    under_way: Option<u64>,
    is_stuck: bool,
    /// Requests so far: the end of an older one says nothing about a newer.
    count: u64,
}

impl Now {
    fn doing(&self) -> Doing {
        match self.under_way {
            _ if self.is_stuck => Doing::Stuck,
            Some(_) => Doing::Answering,
            None => Doing::Silent,
        }
    }
}

impl Place {
    /// Resolves when it must give way.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// A request has come; gives its number. `None` when too many are under way and this is no probe.
    pub(super) fn begin(&self, is_probe: bool) -> Option<u64> {
        let most = self.places.most.saturating_sub(KEPT_PLACES).max(1);
        let mut held = self.places.held();
        if !is_probe && held.answering >= most {
            return None;
        }
        let mut number = 0;
        self.change(&mut held, |now| {
            now.count += 1;
            number = now.count;
            now.under_way = Some(number);
        });
        Some(number)
    }

    /// The answer to that request is written, or nobody wants it any more.
    pub(super) fn end(&self, request: u64) {
        self.change(&mut self.places.held(), |now| {
            now.under_way = now.under_way.filter(|under_way| *under_way != request);
        });
    }

    /// The client does not take what is written to it.
    pub(super) fn stuck(&self) {
        self.change(&mut self.places.held(), |now| now.is_stuck = true);
    }

    /// It takes it again.
    pub(super) fn moves(&self) {
        self.change(&mut self.places.held(), |now| now.is_stuck = false);
    }

    fn change(&self, held: &mut Held, change: impl FnOnce(&mut Now)) {
        let mut now = self.now();
        let before = now.doing();
        change(&mut now);
        if now.doing() != before {
            held.forget(before, now.since);
            now.since = held.note(now.doing(), &self.evicted);
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = *self.now();
        let mut held = self.places.held();
        held.forget(now.doing(), now.since);
        held.open -= 1;
        drop(held);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_evicted(place: &Place) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, place.evicted()).await.is_ok()
    }

    #[tokio::test]
    async fn the_oldest_silent_one_gives_way_and_a_request_under_way_never() {
        let places = Places::new(3);
        let [asked, first, second] =
            [places.take().await, places.take().await, places.take().await];
        let request = asked.begin(false).expect("it may");
        assert!(places.give_way());
        assert!(is_evicted(&first).await);
        assert!(!is_evicted(&second).await && !is_evicted(&asked).await);
        asked.end(request);
        assert!(places.give_way());
        assert!(is_evicted(&second).await, "it has been silent for longer");
        assert!(places.give_way());
        assert!(is_evicted(&asked).await);
        assert!(!places.give_way(), "nobody is told twice");
        drop(first);
        let _next = places.take().await;
    }

    #[tokio::test]
    async fn who_takes_nothing_gives_way_after_the_silent_ones() {
        let places = Places::new(2);
        let [stuck, silent] = [places.take().await, places.take().await];
        stuck.begin(false).expect("it may");
        stuck.stuck();
        assert!(places.give_way());
        assert!(is_evicted(&silent).await && !is_evicted(&stuck).await);
        assert!(places.give_way());
        assert!(is_evicted(&stuck).await);
    }

    #[tokio::test]
    async fn the_last_places_are_for_probes() {
        let places = Places::new(KEPT_PLACES + 2);
        let mut all = Vec::new();
        for _ in 0..KEPT_PLACES + 2 {
            all.push(places.take().await);
        }
        let begun = all.iter().filter(|place| place.begin(false).is_some()).count();
        assert_eq!(begun, 2);
        assert!(all[2].begin(true).is_some());
        drop(all.remove(0));
        assert_eq!(
            all.iter().filter(|place| place.begin(false).is_some()).count(),
            0,
            "two are under way"
        );
    }
}
