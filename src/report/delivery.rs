//! One report on its way, and what became of it.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use super::attempt::Attempt;
use super::pace::REQUEST_TIMEOUT;
use super::token::TokenFile;
use crate::api::client::{Call, Client, Error, Reply};
use crate::api::error_chain;
use crate::api::report::Answer;

/// What became of one report.
#[derive(Debug)]
pub(super) struct Outcome {
    /// For the metric.
    pub(super) attempt: Attempt,
    /// The answer's status, if there was one.
    pub(super) status: Option<u16>,
    /// What it answered, if we understood it.
    pub(super) answer: Option<Answer>,
    /// What went wrong, for people; empty when nothing did.
    pub(super) error: String,
}

impl Outcome {
    /// Of a report that could not even be written.
    pub(super) fn unsendable(error: &serde_json::Error) -> Self {
        Outcome {
            attempt: Attempt::Garbage,
            status: None,
            answer: None,
            error: format!("the report cannot be written as JSON: {error}"),
        }
    }
}

/// A report on its way. Dropping it abandons it.
pub(super) type InFlight = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Carries reports. The reporter's tests have one without sockets.
pub(super) trait Carrier: Send {
    /// Sends one report, which is JSON already.
    fn send(&mut self, report: Bytes) -> InFlight;
}

/// Carries reports to the controller.
#[derive(Debug)]
pub(super) struct Post {
    client: Client,
    path: String,
    token: Option<TokenFile>,
}

impl Post {
    pub(super) fn new(client: Client, path: String, token: Option<TokenFile>) -> Self {
        Post { client, path, token }
    }
}

impl Carrier for Post {
    fn send(&mut self, report: Bytes) -> InFlight {
        let call = Call::post(self.path.as_str())
            .json_bytes(report)
            .bearer(self.token.as_mut().map(TokenFile::current))
            .timeout(REQUEST_TIMEOUT);
        let client = self.client.clone();
        Box::pin(async move { judge(client.send(call).await) })
    }
}

fn judge(reply: Result<Reply, Error>) -> Outcome {
    match reply {
        Ok(reply) if reply.status.is_success() => stored(&reply),
        Ok(reply) => Outcome {
            attempt: Attempt::HttpError,
            status: Some(reply.status.as_u16()),
            answer: None,
            error: refusal(&reply),
        },
        Err(
            ref
            error @ (Error::TooLarge { status, .. } | Error::Broken { status: Some(status), .. }),
        ) if status.is_success() => Outcome {
            attempt: Attempt::Unreadable,
            status: Some(status.as_u16()),
            answer: None,
            error: error_chain(error),
        },
        Err(error) => Outcome {
            attempt: match &error {
                Error::Timeout { .. } => Attempt::Timeout,
                Error::TooLarge { .. } => Attempt::HttpError,
                Error::NotHttp { .. } => Attempt::Garbage,
                _ => Attempt::ConnectError,
            },
            status: None,
            answer: None,
            error: error_chain(&error),
        },
    }
}

/// A success without a body is an answer without news: that is all a minimal controller needs to say.
fn stored(reply: &Reply) -> Outcome {
    let answer = if reply.body.trim_ascii().is_empty() {
        Ok(Answer::default())
    } else {
        reply.json::<Answer>()
    };
    let (attempt, answer, error) = match answer {
        Ok(answer) => (Attempt::Ok, Some(answer), String::new()),
        Err(error) => (Attempt::Unreadable, None, error_chain(&error)),
    };
    Outcome { attempt, status: Some(reply.status.as_u16()), answer, error }
}

fn refusal(reply: &Reply) -> String {
    let hint = if reply.status.is_redirection() {
        "; redirects are not followed, give --controller the final URL".to_owned()
    } else {
        match reply.excerpt() {
            text if text.is_empty() => text,
            text => format!(": {text}"),
        }
    };
    format!("status {}{hint}", reply.status)
}
