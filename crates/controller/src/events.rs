//! The stream of changes: server-sent events, for the page and for programs that follow the fleet.
//!
//! A follower is a version and nothing else: whenever its connection takes more, it is given what has
//! changed since, at most [`MAX_BATCH`] targets at once. So a slow one is only told less often, and costs
//! no memory; one that takes nothing at all is closed by the server's write time-out.
//!
//! # Source
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{StatusCode, Uri};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior};

use super::Shared;
use super::table::{Change, Changes};
use super::view::Version;
use ebbtide_api::serve::{Request, Response, respond};

/// Followers at once: the pages of an operations team. Each costs a scan of the table twice a second.
pub(super) const MAX_FOLLOWERS: usize = 64;

/// How often changes are looked for; a target that changed twice in between is told once.
const INTERVAL: Duration = Duration::from_millis(500);

/// A comment after so long without an event, so that middle boxes, most of which cut after 30 s or 60 s,
/// see the connection live.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Events at once, of about 1 KiB each.
const MAX_BATCH: usize = 32;

/// Text at once, and one event more: what one follower's connection may hold back.
const MAX_BATCH_BYTES: usize = 64 * 1024;

/// What a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);

/// Answers with the changes since the version in `Last-Event-ID`, or else in `?since=`; without
/// either, with everything.
pub(super) fn follow(shared: &Arc<Shared>, request: &Request) -> Response {
    let since = match asked_since(request) {
        Ok(since) => since,
        Err(complaint) => return respond::text(StatusCode::BAD_REQUEST, complaint),
    };
    let Ok(place) = Arc::clone(&shared.followers).try_acquire_owned() else {
        let text = format!("{MAX_FOLLOWERS} follow the changes already; try again later\n");
        let mut response = respond::text(StatusCode::SERVICE_UNAVAILABLE, text);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        return response;
    };
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let body = Body {
        shared: Arc::clone(shared),
        follower: Follower::new(since),
        ticks,
        spoke_at: None,
        _place: place,
    };
    let mut response = Response::new(body.boxed());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The version that a follower has seen. A header that is none of ours means that it has seen nothing.
fn asked_since(request: &Request) -> Result<Option<Version>, String> {
    if let Some(header) = request.headers().get("last-event-id") {
        let number = header.to_str().ok().and_then(|text| text.parse().ok());
        return Ok(number.map(Version));
    }
    match since_of(request.uri()) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(Version(number))),
            Err(_) => Err("since is no version: give the id of the last event\n".to_owned()),
        },
    }
}

fn since_of(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("since="))
}

/// Where one follower is.
#[derive(Debug)]
struct Follower {
    /// What it has seen; none: nothing, or nothing that still counts.
    since: Option<Version>,
    /// Whether it is being told everything, and is to hear when that is done.
    catches_up: bool,
    /// Whether more waits that did not fit.
    more: bool,
}

impl Follower {
    fn new(since: Option<Version>) -> Self {
        Follower { since, catches_up: false, more: false }
    }

    /// Writes what it has not seen yet. Nothing is written when there is nothing.
    fn tell(&mut self, changes: Changes, text: &mut String) {
        let Changes { version, complete, latest, more } = changes;
        if !complete {
            self.catches_up = true;
            write_event(text, "reset", None, "{}");
        }
        let mut told = version;
        let mut left = latest.len();
        for (version, change) in latest {
            left -= 1;
            told = version;
            match change {
                Change::Target(view) => write_json(text, "target", version, &view),
                Change::Gone(id) => write_json(text, "gone", version, id.as_str()),
            }
            if text.len() >= MAX_BATCH_BYTES {
                break;
            }
        }
        let more = more || left > 0;
        self.since = Some(if left > 0 { told } else { version });
        self.more = more;
        if self.catches_up && !more {
            self.catches_up = false;
            write_event(text, "current", Some(version), "{}");
        }
    }
}

fn write_json(text: &mut String, event: &str, version: Version, value: &(impl Serialize + ?Sized)) {
    match serde_json::to_string(value) {
        Ok(data) => write_event(text, event, Some(version), &data),
        Err(error) => tracing::error!(%error, "cannot write an event as JSON; this is a bug"),
    }
}

/// `data` is one line.
fn write_event(text: &mut String, event: &str, version: Option<Version>, data: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "event: {event}");
    if let Some(Version(id)) = version {
        let _ = writeln!(text, "id: {id}");
    }
    let _ = write!(text, "data: {data}\n\n");
}

/// What a follower is answered, for as long as both live.
struct Body {
    shared: Arc<Shared>,
    follower: Follower,
    ticks: Interval,
    /// When something was last sent.
    spoke_at: Option<Instant>,
    /// Given back when the connection ends.
    _place: OwnedSemaphorePermit,
}

impl Body {
    /// What is to be sent now; empty: nothing.
    fn next_text(&mut self) -> String {
        let now = Instant::now();
        let mut text = String::new();
        if self.spoke_at.is_none() {
            let _ = write!(text, "retry: {}\n\n", RETRY.as_millis());
        }
        let changes = self.shared.table().changes(self.follower.since, MAX_BATCH, now);
        self.follower.tell(changes, &mut text);
        let silent = self.spoke_at.is_none_or(|at| now.duration_since(at) >= HEARTBEAT_INTERVAL);
        if text.is_empty() && silent {
            text.push_str(": still here\n\n");
        }
        if !text.is_empty() {
            self.spoke_at = Some(now);
        }
        text
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let body = self.get_mut();
        loop {
            if !body.follower.more {
                ready!(body.ticks.poll_tick(cx));
            }
            if body.shared.stopping.load(Ordering::Relaxed) {
                return Poll::Ready(None);
            }
            let text = body.next_text();
            if !text.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(text.into()))));
            }
        }
    }
}
