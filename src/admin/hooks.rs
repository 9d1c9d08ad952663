//! `/hooks/wait`: an application's preStop hook blocks here until the drain is over.

use hyper::StatusCode;

use super::view::View;
use crate::api::serve::{Response, Router, respond};
use crate::drain::{Drain, Phase};

pub(super) fn routes(router: Router, view: &View) -> Router {
    let view = view.clone();
    router.get("/hooks/wait", move |_| {
        let view = view.clone();
        async move { wait(&view).await }
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
