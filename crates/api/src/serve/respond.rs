//! Answers, and the bounded reading of what a client sends.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Serialize;

use super::Response;

/// The body of an answer.
pub type ResponseBody = BoxBody<Bytes, Infallible>;

/// How long a client may take for a body. What we take is at most 64 KiB, and it holds a place.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer in JSON, ended by a line break for those who read it in a terminal.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            with_type(status, "application/json", body.into())
        }
        Err(error) => {
            tracing::error!(%error, "cannot write an answer as JSON");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer cannot be written as JSON; this is a bug\n",
            )
        }
    }
}

/// An answer in plain text, as it is.
#[must_use]
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    with_type(status, "text/plain; charset=utf-8", text.into())
}

/// An answer of any type.
#[must_use]
pub fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Full::new(body).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// 404.
#[must_use]
pub fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "nothing here\n")
}

/// 405, with what would have been allowed.
#[must_use]
pub fn method_not_allowed(allow: &[Method]) -> Response {
    let names: Vec<&str> = allow.iter().map(Method::as_str).collect();
    let names = names.join(", ");
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {names} here\n"));
    if let Ok(value) = HeaderValue::from_str(&names) {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}

/// Why a client's body was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than the endpoint takes.
    #[error("the body is longer than {max_bytes} bytes")]
    TooLarge {
        /// What the endpoint takes.
        max_bytes: usize,
    },
    /// It did not come in time.
    #[error("the body did not arrive within {} s", timeout.as_secs())]
    TooSlow {
        /// What it was given.
        timeout: Duration,
    },
    /// The connection broke.
    #[error("the body broke off: {reason}")]
    Broken {
        /// What the connection said.
        reason: String,
    },
}

impl BodyError {
    /// The answer that says so: 413, 408 or 400.
    #[must_use]
    pub fn response(&self) -> Response {
        let status = match self {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken { .. } => StatusCode::BAD_REQUEST,
        };
        text(status, format!("{self}\n"))
    }
}

/// Reads a whole body of at most `max_bytes`, within ten seconds.
///
/// # Errors
///
/// Says which bound was broken; [`BodyError::response`] tells the client.
pub async fn read_body<B>(body: B, max_bytes: usize) -> Result<Bytes, BodyError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = Limited::new(body, max_bytes).collect();
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { max_bytes }),
        Ok(Err(error)) => Err(BodyError::Broken { reason: error.to_string() }),
        Err(_elapsed) => Err(BodyError::TooSlow { timeout: BODY_TIMEOUT }),
    }
}
