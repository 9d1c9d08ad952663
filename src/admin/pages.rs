//! What can be looked at: probes, metrics, the status, and one page for people.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, X_CONTENT_TYPE_OPTIONS};

use super::ReadinessOnDrain;
use super::view::{View, shown};
use crate::api::connections::Live;
use crate::api::serve::{Response, Router, respond};
use crate::drain::Phase;

/// The page: no external assets, nothing to build.
const PAGE: &str = include_str!("page.html");

/// The page may run what is written in it and ask where it came from; it loads nothing, sends
/// nothing, and nobody may frame it. What it shows of others it shows as text.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Connections that the page lists.
const OLDEST: usize = 10;

pub(super) fn routes(router: Router, view: &View) -> Router {
    let router = status_route(router, view)
        .get("/livez", |_| async { respond::text(StatusCode::OK, "ok\n") })
        .get("/", |_| async { page() });
    let router = on(router, "/readyz", view, ready);
    let router = on(router, "/live", view, live);
    on(router, "/metrics", view, |view| {
        let text = view.metrics.render(&view.levels());
        respond::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
    })
}

pub(super) fn status_route(router: Router, view: &View) -> Router {
    on(router, "/status", view, |view| respond::json(StatusCode::OK, &(view.report)()))
}

fn on(
    router: Router,
    path: &'static str,
    view: &View,
    answer: impl Fn(&View) -> Response + Copy + Send + Sync + 'static,
) -> Router {
    let view = view.clone();
    router.get(path, move |_| {
        let response = answer(&view);
        async move { response }
    })
}

fn page() -> Response {
    let page = Bytes::from_static(PAGE.as_bytes());
    let mut response = respond::with_type(StatusCode::OK, "text/html; charset=utf-8", page);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn ready(view: &View) -> Response {
    let phase = view.drain.state().phase;
    let fails = match view.promises.readiness_on_drain {
        ReadinessOnDrain::Keep => false,
        ReadinessOnDrain::FailAfterDelay => phase >= Phase::Draining,
        ReadinessOnDrain::FailNow => phase >= Phase::LameDuck,
    };
    if fails {
        respond::text(StatusCode::SERVICE_UNAVAILABLE, format!("draining: {phase}\n"))
    } else if view.is_listening() {
        respond::text(StatusCode::OK, "ok\n")
    } else {
        respond::text(StatusCode::SERVICE_UNAVAILABLE, "the application does not listen yet\n")
    }
}

fn live(view: &View) -> Response {
    let live = Live {
        status: (view.report)(),
        history: view.history.samples(),
        oldest: view.table.list().iter().take(OLDEST).map(|entry| shown(entry)).collect(),
    };
    respond::json(StatusCode::OK, &live)
}
