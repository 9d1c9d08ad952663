//! The query protocol: a form goes out, XML comes back.

use std::fmt::Write as _;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::credentials::Credentials;
use super::sign::{self, amz_date};
use crate::balancer::signature::now;
use crate::balancer::{Error, ErrorKind};
use ebbtide_api::client::{self, Call, Client, Reply};

/// One request: the services answer within a second, and a slow one is better asked anew.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A target's health is about half a kilobyte of XML: room for eight thousand, where a group takes one.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// The parameters of a call, in the order in which they are sent.
#[derive(Debug, Default)]
pub(super) struct Form(String);

impl Form {
    /// The form that calls `action` in the service's `version`.
    pub(super) fn new(action: &str, version: &str) -> Self {
        let mut form = Form::default();
        form.field("Action", action);
        form.field("Version", version);
        form
    }

    /// Adds a parameter.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.0.push(char::from(byte));
            } else {
                // Writing to a String does not fail.
                let _ = write!(self.0, "%{byte:02X}");
            }
        }
    }
}

/// A service of AWS's in one region.
#[derive(Debug)]
pub(super) struct Service {
    client: Client,
    host: String,
    name: &'static str,
    region: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorResponse {
    error: Option<ServiceError>,
    /// Around the error, where the answer comes from in front of the service.
    errors: Option<Errors>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Errors {
    error: ServiceError,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceError {
    code: String,
    #[serde(default)]
    message: String,
}

/// A request that the service refused, or that did not reach it.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// The service's own code; empty if it gave none.
    pub(super) code: String,
    pub(super) error: Error,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal { code: String::new(), error }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl Service {
    pub(super) fn new(client: Client, uri: &Uri, name: &'static str, region: &str) -> Self {
        let host = uri.authority().map_or_else(String::new, |it| it.as_str().to_owned());
        Service { client, host, name, region: region.to_owned() }
    }

    /// One request, signed unless nobody signs it.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        action: &str,
        form: Form,
        credentials: Option<&Credentials>,
    ) -> Result<T, Refusal> {
        let body = form.0.into_bytes();
        let timestamp = now();
        let mut call = Call::post("/").timeout(REQUEST_TIMEOUT).max_bytes(MAX_ANSWER_BYTES);
        if let Some(credentials) = credentials {
            let request = sign::Request {
                service: self.name,
                region: &self.region,
                host: &self.host,
                timestamp,
                body: &body,
            };
            call = call
                .header(AUTHORIZATION, secret(&request.authorization(credentials))?)
                .header(header("x-amz-date"), secret(&amz_date(timestamp))?);
            if let Some(token) = &credentials.session_token {
                call = call.header(header("x-amz-security-token"), secret(token)?);
            }
        }
        let call = call
            .json_bytes(body.into())
            .header(CONTENT_TYPE, HeaderValue::from_static(sign::CONTENT_TYPE));
        let reply = self.client.send(call).await.map_err(|error| unreachable(action, &error))?;
        let text = String::from_utf8_lossy(&reply.body);
        if !reply.status.is_success() {
            let answer = quick_xml::de::from_str::<ErrorResponse>(&text).ok();
            let error = answer.and_then(|it| it.error.or(it.errors.map(|errors| errors.error)));
            return Err(match error {
                Some(error) => classify(action, error),
                None => not_understood(action, &reply),
            });
        }
        quick_xml::de::from_str(&text).map_err(|_| not_understood(action, &reply))
    }
}

fn header(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

fn secret(text: &str) -> Result<HeaderValue, Refusal> {
    let message =
        "the credentials hold a character that no header carries; look for quotes and line ends";
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| refusal(String::new(), ErrorKind::Denied, message.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn refusal(code: String, kind: ErrorKind, message: String) -> Refusal {
    Refusal { code, error: Error::new(kind, message) }
}

fn unreachable(action: &str, error: &client::Error) -> Refusal {
    let kind = match error {
        client::Error::Timeout { .. } => ErrorKind::Timeout,
        _ => ErrorKind::Unreachable,
    };
    let advice = "look at `endpoint` and at the way out of the cluster, or make a VPC endpoint";
    refusal(String::new(), kind, format!("{action}: {error}; {advice}"))
}

fn not_understood(action: &str, reply: &Reply) -> Refusal {
    let kind = match reply.status.as_u16() {
        429 | 503 => ErrorKind::Throttled,
        500.. => ErrorKind::Unreachable,
        _ => ErrorKind::Refused,
    };
    let message =
        format!("{action}: the answer ({}) is none of AWS's: {}", reply.status, reply.excerpt());
    refusal(String::new(), kind, message)
}

/// What an error code means to us.
fn classify(action: &str, error: ServiceError) -> Refusal {
    let (kind, advice) = match error.code.as_str() {
        "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException" => (
            ErrorKind::Throttled,
            "it is tried again more slowly; other users of the account count too",
        ),
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
            (ErrorKind::Denied, "allow the role the actions that docs/balancers.md lists")
        }
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
            (ErrorKind::Denied, "the credentials are over, or this machine's clock is wrong")
        }
        "SignatureDoesNotMatch"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "IncompleteSignature"
        | "AuthFailure"
        | "MissingAuthenticationToken"
        | "InvalidIdentityToken" => {
            (ErrorKind::Denied, "look at the credentials, and at this machine's clock")
        }
        "TargetGroupNotFound" => (ErrorKind::Refused, "look at target-groups"),
        "InvalidTarget" => (
            ErrorKind::Refused,
            "the target group must be of type ip, and the target in its VPC or in a private range",
        ),
        "TooManyTargets" | "TooManyRegistrationsForTargetId" => {
            (ErrorKind::Refused, "the load balancer's quota is used up; have it raised")
        }
        "ServiceUnavailable" | "InternalFailure" | "InternalError" => {
            (ErrorKind::Unreachable, "it is tried again")
        }
        _ => (ErrorKind::Refused, "it is tried again"),
    };
    let message = format!("{action}: {}: {} ({advice})", error.code, error.message);
    refusal(error.code, kind, message)
}
