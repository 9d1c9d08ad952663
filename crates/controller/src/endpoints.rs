//! The controller's thin HTTP side.

use std::future::{Ready, ready};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, StatusCode, Uri};
use tokio::sync::Notify;

use super::Shared;
use super::check::{Now, check};
use super::events;
use super::gate::Denied;
use super::list;
use super::peers::{FORWARDED, News, THROTTLED};
use super::table::{Refusal, WishError};
use super::view::TargetId;
use ebbtide_api::report::Directive;
use ebbtide_api::serve::{Caller, Request, Response, Router, read_body, respond, segment};

/// A report of a proxy with a handful of listeners and classes is one kilobyte.
const MAX_REPORT_BYTES: usize = 64 * 1024;

/// How long an answer waits for the order that its report led to: most balancers need milliseconds,
/// and a lame duck that hears of it at once ends at once.
const ANSWER_PATIENCE: Duration = Duration::from_millis(250);

/// Always answered: a kubelet has the address of every pod that shares its node's, and would restart us.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// Where a target's name stands in a path: `/v1/targets/{}/drain`.
const TARGET: usize = 2;

pub(super) fn router(shared: &Arc<Shared>) -> Router {
    let (posted, scraped) = (Arc::clone(shared), Arc::clone(shared));
    let operators = |answer: Answer| for_operators(shared, answer);
    Router::new()
        .post("/v1/reports", move |request| take(Arc::clone(&posted), request))
        .get("/v1/targets", operators(|shared, _| list::answer(shared)))
        .get("/v1/targets/{}", operators(|shared, request| show(shared, request)))
        .get("/v1/events", operators(events::follow))
        .post(
            "/v1/targets/{}/drain",
            operators(|shared, request| wish(shared, request, Directive::Drain)),
        )
        .post(
            "/v1/targets/{}/undrain",
            operators(|shared, request| wish(shared, request, Directive::Undrain)),
        )
        .get("/metrics", move |_| ready(exposition(&scraped)))
        .get("/livez", |_| ready(ok()))
        .get("/readyz", |_| ready(ok()))
}

type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Lets `handler` answer what a source may ask, and nothing beyond.
pub(super) fn bounded<H>(
    shared: &Arc<Shared>,
    handler: H,
) -> impl Fn(Request) -> Answering + Clone + Send + Sync + use<H> + 'static
where
    H: Fn(Request) -> Answering + Clone + Send + Sync + 'static,
{
    let shared = Arc::clone(shared);
    move |request| {
        let is_bounded = !PROBES.contains(&request.uri().path());
        let caller = request.extensions().get::<Caller>().filter(|_| is_bounded);
        match caller.map(|caller| caller.addr.ip()) {
            Some(source) if !shared.sources.take(source, Instant::now()) => {
                Box::pin(ready(too_many(&shared, source)))
            }
            _ => handler(request),
        }
    }
}

fn too_many(shared: &Shared, source: IpAddr) -> Response {
    if let Some(fleet) = &shared.fleet {
        fleet.throttled();
    }
    let per_second = shared.sources.per_second();
    let text = format!(
        "more than {per_second} requests a second come from {source}; come again in a second, and see \
         --max-source-rate\n"
    );
    let mut response = respond::text(StatusCode::TOO_MANY_REQUESTS, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response.headers_mut().insert(THROTTLED, HeaderValue::from_static("source"));
    response
}

/// Answers an operator.
type Answer = fn(&Arc<Shared>, &Request) -> Response;

/// What answers operators, and nobody else.
fn for_operators(
    shared: &Arc<Shared>,
    answer: Answer,
) -> impl Fn(Request) -> Ready<Response> + Send + Sync + use<> + 'static {
    let shared = Arc::clone(shared);
    move |request| {
        ready(match shared.gate.admit_operator(&request) {
            Ok(()) => answer(&shared, &request),
            Err(denied) => denied.response(),
        })
    }
}

fn ok() -> Response {
    respond::text(StatusCode::OK, "ok\n")
}

fn show(shared: &Shared, request: &Request) -> Response {
    let id = segment(request, TARGET);
    let target = shared.table().get(id, Instant::now());
    match target {
        Some(target) => respond::json(StatusCode::OK, &target),
        None => wrong(&WishError::Unknown(id.to_owned())),
    }
}

fn wrong(error: &WishError) -> Response {
    let status = match error {
        WishError::Unknown(_) => StatusCode::NOT_FOUND,
        WishError::Leaves(_) | WishError::Limit { .. } => StatusCode::CONFLICT,
    };
    respond::text(status, format!("{error}\n"))
}

fn exposition(shared: &Shared) -> Response {
    let text = shared.fleet.as_ref().map(|fleet| {
        let table = shared.table();
        let services = table.services();
        let services = services.map(|(it, census)| (it.namespace(), it.name(), census.states()));
        fleet.render(&services.collect::<Vec<_>>())
    });
    let text = text.unwrap_or_default();
    respond::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

async fn take(shared: Arc<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let speaker = match shared.gate.admit_proxy(&head).await {
        Ok(speaker) => speaker,
        Err(denied) => return denied_report(&shared, &denied),
    };
    let body = match read_body(body, MAX_REPORT_BYTES).await {
        Ok(body) => body,
        Err(error) => {
            shared.count("refused");
            return error.response();
        }
    };
    let now = Now::read();
    let checked = match check(&body, now) {
        Ok(checked) => checked,
        Err(error) => {
            shared.count("refused");
            return respond::text(StatusCode::BAD_REQUEST, format!("{error}\n"));
        }
    };
    if let Err(denied) = speaker.speak_as(&checked.report.identity) {
        return denied_report(&shared, &denied);
    }
    let (stored, concluded) = {
        let mut table = shared.table();
        let stored = table.store(checked, now.instant);
        let waiting = stored.as_ref().ok().and_then(|id| table.waiting_for(id));
        // Listening begins here, under the lock, so that no conclusion is missed.
        (stored, waiting.map(Notify::notified_owned))
    };
    let id = match stored {
        Ok(id) => id,
        Err(refusal) => {
            let (status, result) = match refusal {
                Refusal::Stale(_) => (StatusCode::CONFLICT, "stale"),
                Refusal::TooOften { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_often"),
                Refusal::Full { .. } => (StatusCode::SERVICE_UNAVAILABLE, "full"),
            };
            shared.count(result);
            let mut response = respond::text(status, format!("{refusal}\n"));
            if status != StatusCode::CONFLICT {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            return response;
        }
    };
    shared.count("stored");
    pass_on(&shared, &id, &head.uri, &head.headers, body);
    if let Some(concluded) = concluded {
        shared.stirred.notify_one();
        let _in_time = tokio::time::timeout(ANSWER_PATIENCE, concluded).await;
    }
    match shared.table().answer(&id, Instant::now()) {
        Some(answer) => respond::json(StatusCode::OK, &answer),
        None => ok(),
    }
}

fn denied_report(shared: &Shared, denied: &Denied) -> Response {
    shared.count(denied.result());
    denied.response()
}

/// Tells the other replicas, unless one of them told us.
fn pass_on(shared: &Shared, id: &TargetId, uri: &Uri, headers: &HeaderMap, body: Bytes) {
    if !headers.contains_key(FORWARDED) {
        let authorization = headers.get(AUTHORIZATION).cloned();
        shared.peers.pass_on(id, &News::new(uri.path().to_owned(), body, authorization));
    }
}

/// Asks a target to drain or to serve again.
fn wish(shared: &Shared, request: &Request, directive: Directive) -> Response {
    let id = segment(request, TARGET);
    let wished = shared.table().wish(id, directive, Instant::now());
    match wished {
        Ok((id, target)) => {
            pass_on(shared, &id, request.uri(), request.headers(), Bytes::new());
            respond::json(StatusCode::ACCEPTED, &target)
        }
        Err(error) => wrong(&error),
    }
}
