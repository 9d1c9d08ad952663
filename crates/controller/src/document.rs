//! The API's own description, for programs and for those who write them.

use std::future::ready;

use bytes::Bytes;
use hyper::StatusCode;

use ebbtide_api::serve::{Router, respond};

/// OpenAPI 3.1. Tests hold it against the routes, against what is answered, and against what proxies send.
pub(super) const DOCUMENT: &str = include_str!("../../../docs/openapi.yaml");

/// Adds the document. It holds nothing that anyone may not see.
pub(super) fn routes(router: Router) -> Router {
    let text = Bytes::from_static(DOCUMENT.as_bytes());
    router.get("/openapi.yaml", move |_| {
        ready(respond::with_type(StatusCode::OK, "application/yaml", text.clone()))
    })
}
