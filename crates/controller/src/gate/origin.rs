//! Where a request was made up; the check is one with the proxy's control port.

pub(super) use ebbtide_api::serve::origin::{is_ours, names_an_address};

use hyper::HeaderMap;
use hyper::header::ORIGIN;

/// Whether a browser sent this, whoever made it.
pub(super) fn is_of_a_browser(headers: &HeaderMap) -> bool {
    headers.contains_key("sec-fetch-site") || headers.contains_key(ORIGIN)
}
