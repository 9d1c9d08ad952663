//! Asks whether a silent target is there: itself, and its balancer.
//!
//! Each replica asks before it acts, so several of them need not know of each other. Whether a pod can be asked at all
//! is found out while it reports, since silence from one that never answered proves nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::{StatusCode, Uri};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};

use super::Shared;
use super::balancer::{Balancer, Member, Sight};
use super::table::{Look, Seen};
use ebbtide_api::client::{Call, Client, Error};
use ebbtide_api::report::Identity;

/// How often targets are looked through for whom to look at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks under way at once: ten thousand pods that answer are greeted within seconds, and what none of them answers
/// costs so many sockets.
const MAX_LOOKS: usize = 64;

/// How long a pod may take to answer. Connecting is given up after two seconds.
const POD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a balancer may take.
const BALANCER_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks at targets until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, balancer: Arc<dyn Balancer>) {
    let places = Arc::new(Semaphore::new(MAX_LOOKS));
    let mut looks = JoinSet::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        while looks.try_join_next().is_some() {}
        let due = shared.table().take_looks(places.available_permits(), Instant::now());
        for look in due {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let (shared, balancer) = (Arc::clone(&shared), Arc::clone(&balancer));
            looks.spawn(async move {
                take(&shared, balancer.as_ref(), look).await;
                drop(place);
            });
        }
    }
}

async fn take(shared: &Shared, balancer: &dyn Balancer, look: Look) {
    let mut seen = match look.addr {
        Some(addr) => ask(addr, &look.identity).await,
        None => Seen::Nothing,
    };
    if let (Some(member), Seen::Nobody | Seen::Busy | Seen::Nothing) = (&look.member, seen) {
        seen = ask_balancer(balancer, member, seen).await;
    }
    let Identity { namespace, pod_name, .. } = &look.identity;
    let silent = look.member.is_some();
    tracing::debug!(%namespace, pod = %pod_name, silent, ?seen, "looked at");
    let is_news = shared.table().seen(&look, seen, Instant::now());
    if is_news {
        tracing::warn!(
            %namespace,
            pod = %pod_name,
            "no report for too long, and nobody can tell whether it is there: it keeps its place at the balancer. Let \
             the controller reach the pod's --admin port and set POD_IP by the downward API"
        );
    }
    shared.stirred.notify_one();
}

/// What a status says of who gives it.
#[derive(Deserialize)]
struct Status {
    #[serde(flatten)]
    identity: Identity,
}

/// Asks a pod.
async fn ask(addr: SocketAddr, expected: &Identity) -> Seen {
    let base: Option<Uri> = format!("http://{addr}").parse().ok();
    let Some(client) = base.and_then(|base| Client::new(&base, None).ok()) else {
        return Seen::Nothing;
    };
    match client.send(Call::get("/status").timeout(POD_TIMEOUT)).await {
        Ok(reply) if reply.status == StatusCode::OK => match reply.json::<Status>() {
            Ok(Status { identity }) if is_same(&identity, expected) => Seen::Answers,
            Ok(Status { identity }) if !identity.pod_name.is_empty() => Seen::Another,
            _ => Seen::Nothing,
        },
        Err(Error::NobodyThere { .. }) => Seen::Nobody,
        // The kernel has connected us, and the process has no CPU to answer.
        Err(Error::Timeout { .. }) => Seen::Busy,
        _ => Seen::Nothing,
    }
}

fn is_same(one: &Identity, other: &Identity) -> bool {
    let name = |it: &Identity| (it.namespace.clone(), it.pod_name.clone(), it.pod_uid.clone());
    name(one) == name(other)
}

async fn ask_balancer(balancer: &dyn Balancer, member: &Member, otherwise: Seen) -> Seen {
    match timeout(BALANCER_TIMEOUT, balancer.sees(member)).await {
        Ok(Sight::Up) => Seen::CheckedUp,
        Ok(Sight::Down) => Seen::CheckedDown,
        Ok(Sight::Unknown) | Err(_) => otherwise,
    }
}
