//! `/hooks/wait`: an application's preStop hook blocks here until the drain is over.

use std::sync::Arc;

use hyper::StatusCode;
use tokio::sync::Semaphore;

use super::view::View;
use crate::api::serve::{Response, Router, respond};
use crate::drain::{Drain, Phase};

/// Those who wait at once, on each of the two addresses: half of a server's connections, so that they leave the
/// other half to those who are answered at once. A pod has a handful of hooks.
const MAX_WAITS: usize = 256;

pub(super) fn routes(router: Router, view: &View) -> Router {
    let view = view.clone();
    let places = Arc::new(Semaphore::new(MAX_WAITS));
    router.get("/hooks/wait", move |_| {
        let view = view.clone();
        let place = Arc::clone(&places).try_acquire_owned();
        async move {
            let Ok(_place) = place else {
                let text = format!("{MAX_WAITS} wait already; ask /status from time to time\n");
                return respond::text(StatusCode::SERVICE_UNAVAILABLE, text);
            };
            wait(&view).await
        }
    })
}

/// Answers when the drain is over or its deadline has come, or when none begins in time: preStop
/// also runs when a container is merely restarted. The kubelet may ask twice, break the
/// connection, and looks at no status (docs/kubernetes.md); none of that touches the drain.
async fn wait(view: &View) -> Response {
    let begun = tokio::time::timeout(view.promises.wait_for_drain, begun(&view.drain)).await;
    if begun.is_ok() {
        tokio::select! {
            () = over(&view.drain) => {}
            () = view.drain.deadline() => {}
        }
    }
    respond::json(StatusCode::OK, &(view.report)())
}

async fn begun(drain: &Drain) {
    // We hold the drain, so its sender lives.
    let _ = drain.watch().wait_for(|state| state.phase != Phase::Serving).await;
}

/// Drained, or undone.
async fn over(drain: &Drain) {
    let is_over = |phase| matches!(phase, Phase::Drained | Phase::Serving);
    let _ = drain.watch().wait_for(|state| is_over(state.phase)).await;
}
