//! The controller's thin HTTP side.

use std::future::ready;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use hyper::StatusCode;

use super::check::check;
use super::decide::Decision;
use super::table::Refusal;
use super::{Action, Shared};
use crate::api::report::Report;
use crate::api::serve::{Request, Response, Router, read_body, respond};

/// A report of a proxy with a handful of listeners and classes is one kilobyte.
const MAX_REPORT_BYTES: usize = 64 * 1024;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let (posted, listed, also_listed) = (Arc::clone(&shared), Arc::clone(&shared), shared);
    Router::new()
        .post("/v1/reports", move |request| take(Arc::clone(&posted), request))
        .get("/targets", move |_| ready(list(&listed)))
        .get("/v1/targets", move |_| ready(list(&also_listed)))
        .get("/livez", |_| ready(ok()))
        .get("/readyz", |_| ready(ok()))
}

fn ok() -> Response {
    respond::text(StatusCode::OK, "ok\n")
}

fn list(shared: &Shared) -> Response {
    let targets = {
        let table = shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.list(Instant::now())
    };
    respond::json(StatusCode::OK, &targets)
}

async fn take(shared: Arc<Shared>, request: Request) -> Response {
    let body = match read_body(request.into_body(), MAX_REPORT_BYTES).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let checked = match check(&body) {
        Ok(checked) => checked,
        Err(error) => return respond::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let report = checked.report.clone();
    let decided = {
        // The actions are told under the lock, so that they are told in the order of the reports.
        let mut table = shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        let decided = table.store(checked, Instant::now());
        if let Ok(Decision { actions, .. }) = &decided {
            for action in actions {
                apply(*action, &report);
                (shared.on_action)(*action, &report);
            }
        }
        decided
    };
    match decided {
        Ok(decision) => respond::json(StatusCode::OK, &decision.answer),
        Err(refusal) => {
            let status = match refusal {
                Refusal::Stale { .. } | Refusal::StaleRun { .. } => StatusCode::CONFLICT,
                Refusal::Phase { .. } => StatusCode::BAD_REQUEST,
                Refusal::Full { .. } => StatusCode::SERVICE_UNAVAILABLE,
            };
            respond::text(status, format!("{refusal}\n"))
        }
    }
}

/// The `log` balancer: everything is applied as soon as it is said.
fn apply(action: Action, report: &Report) {
    let identity = &report.identity;
    tracing::info!(
        namespace = %identity.namespace,
        pod = %identity.pod_name,
        phase = %report.phase,
        blocking = report.drain_blocking_connections,
        balancer = "log",
        %action,
        "told the balancer",
    );
}
