//! Finds out whether the application takes connections, for the controller, which registers the pod only then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::port::until_open;
use crate::net::Upstream;
use crate::report::Reached;

/// How long one that is reached waits for the application's other ports: a port that is there for debugging, and
/// mostly not open, must not keep the pod out for ever.
const OTHERS_PERIOD: Duration = Duration::from_secs(10);

/// Looks at all `upstreams` until they take connections, and tells the reporter.
pub(super) async fn find_out(upstreams: Vec<Upstream>, reached: Reached, news: Arc<Notify>) {
    let (ended, mut ends) = tokio::sync::mpsc::channel::<()>(upstreams.len().max(1));
    let count = upstreams.len();
    let mut looks = tokio::task::JoinSet::new();
    for upstream in upstreams {
        let ended = ended.clone();
        looks.spawn(async move {
            until_open(&upstream).await;
            let _nobody_waits = ended.send(()).await;
        });
    }
    let mut deadline = None;
    for _ in 0..count {
        let end = match deadline {
            None => ends.recv().await,
            Some(at) => timeout_at(at, ends.recv()).await.unwrap_or(None),
        };
        if end.is_none() {
            break;
        }
        deadline.get_or_insert_with(|| Instant::now() + OTHERS_PERIOD);
    }
    reached.store(true, Ordering::Release);
    news.notify_one();
}
