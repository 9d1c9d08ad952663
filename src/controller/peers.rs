//! The other replicas: each report and each wish goes to them too.
//!
//! Behind one Service every report of a proxy may meet another replica. One that hears only some of
//! them could take the target for lost; so whoever hears something tells the others, once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::view::TargetId;
use crate::api::client::{Call, Client};

/// Says that a replica passes on what it heard, so that the next one does not.
pub(super) const FORWARDED: HeaderName = HeaderName::from_static("ebbtide-forwarded");

/// How long a replica may take. The next report says the same and more.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Requests under way to one replica: over a network that takes a millisecond, 16,000 a second.
const MAX_CALLS: usize = 16;

/// Pause after a replica could not be reached.
const PAUSE: Duration = Duration::from_secs(1);

/// One thing to pass on.
#[derive(Clone, Debug)]
pub(super) struct News {
    pub(super) path: String,
    pub(super) body: Bytes,
    /// What the sender showed to prove who it is.
    pub(super) authorization: Option<HeaderValue>,
}

/// Everything that one replica has not heard yet: of each target and path, only the latest.
#[derive(Debug, Default)]
struct Unheard {
    news: Mutex<BTreeMap<(TargetId, String), News>>,
    stirred: Notify,
}

/// The other replicas. Dropping it stops telling them.
#[derive(Debug)]
pub(super) struct Peers {
    unheard: Vec<Arc<Unheard>>,
    /// Never joined: they end when this is dropped.
    _telling: JoinSet<()>,
}

impl Peers {
    /// Begins to tell them. Needs a tokio runtime around it.
    pub(super) fn new(peers: Vec<Client>) -> Self {
        let mut telling = JoinSet::new();
        let unheard = peers
            .into_iter()
            .map(|peer| {
                let unheard = Arc::new(Unheard::default());
                telling.spawn(tell(peer, Arc::clone(&unheard)));
                unheard
            })
            .collect();
        Peers { unheard, _telling: telling }
    }

    /// Passes something on, in the place of what of the same sort a replica has not heard yet.
    pub(super) fn pass_on(&self, target: &TargetId, news: &News) {
        for unheard in &self.unheard {
            let key = (target.clone(), news.path.clone());
            unheard.news.lock().unwrap_or_else(PoisonError::into_inner).insert(key, news.clone());
            unheard.stirred.notify_one();
        }
    }
}

async fn tell(peer: Client, unheard: Arc<Unheard>) {
    let mut calls = JoinSet::new();
    let mut reachable = true;
    loop {
        while calls.len() >= MAX_CALLS {
            calls.join_next().await;
        }
        let next = unheard.news.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
        let Some((_, news)) = next else {
            unheard.stirred.notified().await;
            continue;
        };
        let sent = if reachable {
            let peer = peer.clone();
            calls.spawn(async move { send(&peer, news).await.is_ok() });
            calls.try_join_next().is_none_or(|ended| ended.unwrap_or(false))
        } else {
            // One at a time until it is back.
            send(&peer, news).await.is_ok()
        };
        if sent != reachable {
            let server = peer.server();
            if sent {
                tracing::info!(peer = %server, "the other replica can be reached again");
            } else {
                tracing::warn!(peer = %server, "cannot reach the other replica, trying again");
            }
            reachable = sent;
        }
        if !reachable {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whatever it answers, it has heard.
async fn send(peer: &Client, news: News) -> Result<(), crate::api::client::Error> {
    let mut call = Call::post(news.path)
        .json_bytes(news.body)
        .header(FORWARDED, HeaderValue::from_static("1"))
        .timeout(TIMEOUT);
    if let Some(authorization) = news.authorization {
        call = call.header(AUTHORIZATION, authorization);
    }
    peer.send(call).await.map(|_| ())
}
