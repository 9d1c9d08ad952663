//! The page for people: a few files as they are, no external assets, nothing to build.

use std::future::ready;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};

use ebbtide_api::serve::{Request, Response, Router, respond, segment};

const PAGE: &str = include_str!("page/page.html");
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the page consists of, below `/page/`.
const PARTS: [(&str, &str, &str); 6] = [
    ("page.css", CSS, include_str!("page/page.css")),
    ("page.js", SCRIPT, include_str!("page/page.js")),
    ("fleet.js", SCRIPT, include_str!("page/fleet.js")),
    ("list.js", SCRIPT, include_str!("page/list.js")),
    ("target.js", SCRIPT, include_str!("page/target.js")),
    ("words.js", SCRIPT, include_str!("page/words.js")),
];

/// Where a part's name stands in `/page/{}`.
const PART: usize = 1;

/// The page runs and asks only what came from here, nothing that is written into it; nobody may frame it.
/// What it shows of others it shows as text.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Adds the page. It holds nothing that anyone may not see: what it shows it asks for like any client.
pub(super) fn routes(router: Router) -> Router {
    router
        .get("/", |_| ready(part(HTML, PAGE)))
        .get("/page/{}", |request: Request| ready(named(segment(&request, PART))))
}

fn named(name: &str) -> Response {
    match PARTS.iter().find(|(it, ..)| *it == name) {
        Some((_, content_type, text)) => part(content_type, text),
        None => respond::not_found(),
    }
}

fn part(content_type: &'static str, text: &'static str) -> Response {
    let text = Bytes::from_static(text.as_bytes());
    let mut response = respond::with_type(StatusCode::OK, content_type, text);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Another version of the controller may stand behind the same name in a minute.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
