//! The list of targets, written as fast as it is read.
//!
//! Ten thousand targets are tens of megabytes: as one answer they would be in memory as a whole, for each who asks.
//! So the table is only ever locked and written out for a few of them, from where the last ones ended. Targets that
//! come and go meanwhile are in the list or not.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Frame;

use super::Shared;
use super::view::TargetId;
use ebbtide_api::serve::{Response, respond};

/// Targets that are written at once, of about 1 KiB each.
const BATCH: usize = 64;

/// Answers with every target.
pub(super) fn answer(shared: &Arc<Shared>) -> Response {
    let body = Body { shared: Arc::clone(shared), next: Next::First };
    let mut response = respond::with_type(StatusCode::OK, "application/json", Bytes::new());
    *response.body_mut() = body.boxed();
    response
}

/// What is to be written next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    First,
    After(TargetId),
    Nothing,
}

struct Body {
    shared: Arc<Shared>,
    next: Next,
}

impl Body {
    fn write(&mut self) -> Vec<u8> {
        let (after, mut text) = match &self.next {
            Next::First => (None, b"[".to_vec()),
            Next::After(id) => (Some(id.clone()), Vec::new()),
            Next::Nothing => return Vec::new(),
        };
        let batch = self.shared.table().page(after.as_ref(), BATCH, Instant::now());
        for view in &batch.views {
            if text.last() != Some(&b'[') {
                text.push(b',');
            }
            let begun = text.len();
            if let Err(error) = serde_json::to_writer(&mut text, view) {
                tracing::error!(%error, "cannot write a target as JSON; this is a bug");
                text.truncate(begun);
                text.extend_from_slice(b"null");
            }
        }
        self.next = match batch.last {
            Some(last) if batch.views.len() == BATCH => Next::After(last),
            _ => {
                text.extend_from_slice(b"]\n");
                Next::Nothing
            }
        };
        text
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let text = self.get_mut().write();
        Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.next == Next::Nothing
    }
}
