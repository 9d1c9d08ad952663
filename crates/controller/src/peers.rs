//! The other replicas: each report and each wish goes to them too.
//!
//! Behind one Service every report of a proxy may meet another replica. One that hears only some of
//! them could take the target for lost; so whoever hears something tells the others, once. Whom a replica
//! believes, its own gate says: it is shown what the sender showed, and, over mutual TLS, our certificate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::view::TargetId;
use ebbtide_api::client::{Call, Client};

/// Says that a replica passes on what it heard, so that the next one does not.
pub(super) const FORWARDED: HeaderName = HeaderName::from_static("ebbtide-forwarded");

/// Says of a 429 that it is the replica that sends too much, and not the target whose report it was.
pub(super) const THROTTLED: HeaderName = HeaderName::from_static("ebbtide-throttled");

/// How long a replica may take. The next report says the same and more.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Requests under way to one replica: over a network that takes a millisecond, 16,000 a second.
const MAX_CALLS: usize = 16;

/// Pause after a replica could not be reached, or has asked for one.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is logged that a replica denies us.
const DENIED_INTERVAL: Duration = Duration::from_secs(60);

/// What is older is not passed on: the next report has come since, or the target has gone, and a replica that hears
/// of it after an outage of its own would take it for alive.
const MAX_AGE: Duration = Duration::from_secs(10);

/// What may wait for one replica: a kilobyte for each of the default of --max-targets, and as much again.
const MAX_UNHEARD_BYTES: usize = 20 * 1024 * 1024;

/// One thing to pass on.
#[derive(Clone, Debug)]
pub(super) struct News {
    path: String,
    body: Bytes,
    /// What the sender showed to prove who it is.
    authorization: Option<HeaderValue>,
    heard_at: Instant,
}

impl News {
    /// Something that was heard now.
    pub(super) fn new(path: String, body: Bytes, authorization: Option<HeaderValue>) -> Self {
        News { path, body, authorization, heard_at: Instant::now() }
    }

    fn size_bytes(&self) -> usize {
        /// An entry of the map, its key, and what it points to.
        const OVERHEAD_BYTES: usize = 512;
        OVERHEAD_BYTES + self.body.len() + self.authorization.as_ref().map_or(0, HeaderValue::len)
    }

    fn is_old(&self) -> bool {
        self.heard_at.elapsed() > MAX_AGE
    }
}

/// What one replica has not heard yet: of each target and path, only the latest.
#[derive(Debug, Default)]
struct Unheard {
    latest: BTreeMap<(TargetId, String), News>,
    size_bytes: usize,
}

impl Unheard {
    /// Whether there is room for it.
    fn put(&mut self, target: TargetId, news: News) -> bool {
        let key = (target, news.path.clone());
        let freed = self.latest.get(&key).map_or(0, News::size_bytes);
        let size_bytes = self.size_bytes - freed + news.size_bytes();
        if size_bytes > MAX_UNHEARD_BYTES {
            return false;
        }
        self.size_bytes = size_bytes;
        self.latest.insert(key, news);
        true
    }

    /// The next that is worth telling.
    fn take(&mut self) -> Option<(TargetId, News)> {
        while let Some(((target, _), news)) = self.latest.pop_first() {
            self.size_bytes -= news.size_bytes();
            if !news.is_old() {
                return Some((target, news));
            }
        }
        None
    }

    /// Gives back what was not heard, unless there is something newer.
    fn put_back(&mut self, target: TargetId, news: News) {
        if !self.latest.contains_key(&(target.clone(), news.path.clone())) {
            let _no_room = self.put(target, news);
        }
    }

    fn forget_old(&mut self) {
        self.latest.retain(|_, news| !news.is_old());
        self.size_bytes = self.latest.values().map(News::size_bytes).sum();
    }
}

/// What we are to tell one replica.
#[derive(Debug, Default)]
struct Mailbox {
    unheard: Mutex<Unheard>,
    stirred: Notify,
}

impl Mailbox {
    /// The next news, when there is some.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn next(&self) -> (TargetId, News) {
        loop {
            let next = self.unheard().take();
            match next {
                Some(next) => return next,
                None => self.stirred.notified().await,
            }
        }
    }

    fn unheard(&self) -> MutexGuard<'_, Unheard> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other replicas. Dropping it stops telling them.
#[derive(Debug)]
pub(super) struct Peers {
    mailboxes: Vec<Arc<Mailbox>>,
    /// Never joined: they end when this is dropped.
    _telling: JoinSet<()>,
}

impl Peers {
    /// Begins to tell them. Needs a tokio runtime around it.
    pub(super) fn new(peers: Vec<Client>) -> Self {
        let mut telling = JoinSet::new();
        let mailboxes = peers
            .into_iter()
            .map(|peer| {
                let mailbox = Arc::new(Mailbox::default());
                telling.spawn(tell(peer, Arc::clone(&mailbox)));
                mailbox
            })
            .collect();
        Peers { mailboxes, _telling: telling }
    }

    /// Passes something on, in the place of what of the same sort a replica has not heard yet.
    pub(super) fn pass_on(&self, target: &TargetId, news: &News) {
        for mailbox in &self.mailboxes {
            if mailbox.unheard().put(target.clone(), news.clone()) {
                mailbox.stirred.notify_one();
            } else {
                tracing::debug!(%target, "too much waits for the other replica, leaving this out");
            }
        }
    }
}

/// How a replica takes what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hearing {
    /// It has heard, whatever it thinks of it.
    Well,
    /// It does not believe us, or those who told us.
    Denies(StatusCode),
    /// It asks us to come again.
    Busy,
    /// It cannot be reached.
    Away,
}

async fn tell(peer: Client, mailbox: Arc<Mailbox>) {
    let mut calls = JoinSet::new();
    let mut hearing = Hearing::Well;
    let mut denied_at: Option<Instant> = None;
    loop {
        // One at a time until it is back.
        let places = if hearing == Hearing::Well { MAX_CALLS } else { 1 };
        let now = tokio::select! {
            Some(ended) = calls.join_next() => ended.unwrap_or(Hearing::Away),
            (target, news) = mailbox.next(), if calls.len() < places => {
                calls.spawn(send(peer.clone(), Arc::clone(&mailbox), target, news));
                continue;
            }
        };
        if let Hearing::Denies(status) = now {
            if denied_at.is_none_or(|at| at.elapsed() >= DENIED_INTERVAL) {
                denied_at = Some(Instant::now());
                warn_of_denial(&peer, status);
            }
        } else if now != hearing {
            log(&peer, now);
        }
        hearing = if matches!(now, Hearing::Denies(_)) { Hearing::Well } else { now };
        if hearing != Hearing::Well && calls.is_empty() {
            tokio::time::sleep(PAUSE).await;
            mailbox.unheard().forget_old();
        }
    }
}

fn log(peer: &Client, hearing: Hearing) {
    let peer = peer.server();
    match hearing {
        Hearing::Busy => {
            tracing::warn!(%peer, "the other replica takes no more now, see its --max-source-rate");
        }
        Hearing::Away => tracing::warn!(%peer, "cannot reach the other replica, trying again"),
        Hearing::Well | Hearing::Denies(_) => {
            tracing::info!(%peer, "the other replica can be reached again");
        }
    }
}

fn warn_of_denial(peer: &Client, status: StatusCode) {
    tracing::warn!(
        peer = %peer.server(),
        status = status.as_u16(),
        "the other replica denies what we pass on: give it the same tokens, and, under mutual TLS, a --client-ca that \
         vouches for our --peer-cert"
    );
}

/// Tells one thing; what was not heard waits again.
async fn send(peer: Client, mailbox: Arc<Mailbox>, target: TargetId, news: News) -> Hearing {
    let mut call = Call::post(news.path.clone())
        .json_bytes(news.body.clone())
        .header(FORWARDED, HeaderValue::from_static("1"))
        .timeout(TIMEOUT);
    if let Some(authorization) = news.authorization.clone() {
        call = call.header(AUTHORIZATION, authorization);
    }
    let hearing = match peer.send(call).await {
        Err(_) => Hearing::Away,
        Ok(reply) if reply.headers.contains_key(THROTTLED) => Hearing::Busy,
        Ok(reply) => match reply.status {
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Hearing::Denies(status),
            _ => Hearing::Well,
        },
    };
    if matches!(hearing, Hearing::Busy | Hearing::Away) {
        mailbox.unheard().put_back(target, news);
    }
    hearing
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_api::report::Identity;

    fn target(number: usize) -> TargetId {
        TargetId::of(&Identity { pod_name: number.to_string(), ..Identity::default() })
    }

    fn news(body: &'static [u8]) -> News {
        News::new("/v1/reports".to_owned(), Bytes::from_static(body), None)
    }

    #[test]
    fn what_waits_for_a_replica_has_a_bound_and_the_latest_is_what_it_hears() {
        static LARGE: [u8; 64 * 1024] = [b' '; 64 * 1024];
        let mut unheard = Unheard::default();
        let taken = (0..1000).filter(|number| unheard.put(target(*number), news(&LARGE))).count();
        assert!(taken > 100 && taken * LARGE.len() <= MAX_UNHEARD_BYTES, "{taken}");
        assert!(unheard.put(target(0), news(b"newer")), "in the place of the older one");
        unheard.put_back(target(0), news(&LARGE));
        let heard: Vec<_> = std::iter::from_fn(|| unheard.take()).collect();
        assert_eq!(heard.len(), taken);
        let first = heard.iter().find(|(it, _)| *it == target(0)).expect("told");
        assert_eq!(first.1.body.as_ref(), b"newer");
        assert_eq!(unheard.size_bytes, 0);
    }

    #[test]
    fn what_is_old_is_not_passed_on() {
        let mut unheard = Unheard::default();
        let mut old = news(b"old");
        let Some(long_ago) = old.heard_at.checked_sub(2 * MAX_AGE) else {
            return;
        };
        old.heard_at = long_ago;
        assert!(unheard.put(target(0), old.clone()));
        assert!(unheard.take().is_none());
        assert!(unheard.put(target(0), old));
        assert!(unheard.put(target(1), news(b"new")));
        unheard.forget_old();
        assert_eq!((unheard.latest.len(), unheard.size_bytes), (1, news(b"new").size_bytes()));
    }
}
