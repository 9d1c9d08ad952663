//! Where a request was made up: by a program, by our own page, or by somebody else's.
//!
//! # Source
//! Fetch Metadata, <https://www.w3.org/TR/fetch-metadata/>; `Origin`, RFC 6454 §7. Programs send neither.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN};
use hyper::http::uri::Authority;

/// Whether no page of somebody else's made a browser send this.
pub(super) fn is_ours(headers: &HeaderMap) -> bool {
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
pub(super) fn names_an_address(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else {
        // Every browser says whom it calls.
        return host.is_none();
    };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}
