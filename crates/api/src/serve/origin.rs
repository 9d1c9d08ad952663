//! Where a request was made up: by a program, by our own page, or by somebody else's.
//!
//! # Source
//! Fetch Metadata, <https://www.w3.org/TR/fetch-metadata/>; `Origin`, RFC 6454 §7. Programs send neither.

use std::net::IpAddr;

use hyper::header::{HOST, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, StatusCode};

use super::{Request, Response, respond};

/// Whether no page of somebody else's made a browser send this.
#[must_use]
pub fn is_ours(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match (origin, host) {
        (Some((_scheme, authority)), Some(host)) => authority.eq_ignore_ascii_case(host),
        // `null`, of a file or a sandbox.
        _ => false,
    }
}

/// Whether we were called by an address or as localhost, which nobody can let point to us.
#[must_use]
pub fn names_an_address(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else {
        // Every browser says whom it calls; a field that is no authority is nobody's name.
        return !headers.contains_key(HOST);
    };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// The answer to a request that a browser may have sent for somebody else's page: 403. `None` when it may pass.
///
/// For a server on a loopback address without any authentication: whoever reaches it may ask, and a browser on
/// the same host reaches it for every page that it shows. A page's own name may resolve to loopback (DNS
/// rebinding), so the request must call us by an address or as localhost, whatever its method.
#[must_use]
pub fn refuse_foreign(request: &Request) -> Option<Response> {
    let headers = request.headers();
    let reason = if !request.method().is_safe() && !is_ours(headers) {
        "a page from somewhere else may not ask for this\n"
    } else if !names_an_address(headers) {
        "this port answers only to an address or localhost as its name\n"
    } else {
        return None;
    };
    Some(respond::text(StatusCode::FORBIDDEN, reason))
}
