//! CLB's API: requests, answers, and what its error codes mean to us.

use std::net::IpAddr;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::credentials::Source;
use super::pace::Pace;
use super::sign;
use crate::balancer::signature::now;
use crate::balancer::{Error, ErrorKind};
use ebbtide_api::client::{self, Call, Client};

/// The version of the API whose actions these are.
const VERSION: &str = "2018-03-17";

/// One request: the service answers within a second, and a slow one is better asked anew.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A target of DescribeTargets is about half a kilobyte of JSON: room for sixteen thousand.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// A client of the service, for one region and one load balancer.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) client: Client,
    /// The endpoint's name as the signature covers it.
    pub(super) host: String,
    pub(super) region: HeaderValue,
    pub(super) load_balancer_id: String,
    pub(super) credentials: Source,
    pub(super) pace: Pace,
}

/// Why a request did not do what it should.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// Somebody else changes the balancer at this moment; it wants to be asked again.
    Busy,
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Failed(error)
    }
}

/// A listener with what is bound to it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListenerBackend {
    pub(super) listener_id: String,
    pub(super) rules: Option<Vec<RuleTargets>>,
    pub(super) targets: Option<Vec<Backend>>,
}

/// A forwarding rule of an HTTP listener with what is bound to it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RuleTargets {
    pub(super) location_id: String,
    pub(super) targets: Option<Vec<Backend>>,
}

/// What is bound: a machine or an address, a port, and a weight.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Backend {
    #[serde(default, rename = "Type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) instance_id: Option<String>,
    pub(super) port: u16,
    pub(super) weight: u32,
    #[serde(default)]
    pub(super) private_ip_addresses: Option<Vec<IpAddr>>,
}

/// What a request wants to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) eni_ip: Option<IpAddr>,
    pub(super) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<u32>,
}

/// Targets of one listener or rule whose weights change.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WeightRule {
    pub(super) listener_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) location_id: Option<String>,
    pub(super) targets: Vec<Target>,
}

/// A target with where it is to be bound or unbound.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchTarget {
    pub(super) listener_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) location_id: Option<String>,
    #[serde(flatten)]
    pub(super) target: Target,
}

/// How far an asynchronous task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Succeeded,
    Failed(String),
    Running,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope<T> {
    response: Answer<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<T> {
    error: Option<ServiceError>,
    #[serde(default)]
    request_id: String,
    #[serde(flatten)]
    content: Option<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceError {
    code: String,
    #[serde(default)]
    message: String,
}

/// The answer of the batch calls: the listeners where something was not done, and why.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchAnswer {
    fail_listener_id_set: Option<Vec<String>>,
    message: Option<String>,
}

/// Listeners at which a batch was not carried out, and why.
pub(super) type FailedListeners = Option<(Vec<String>, String)>;

impl Api {
    /// What is bound to `listener_ids`, at most twenty of them.
    pub(super) async fn describe_targets(
        &self,
        listener_ids: &[&str],
    ) -> Result<Vec<ListenerBackend>, Trouble> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listeners {
            listeners: Option<Vec<ListenerBackend>>,
        }
        let (answer, _) = self
            .call::<Listeners>(
                "DescribeTargets",
                serde_json::json!({ "ListenerIds": listener_ids }),
            )
            .await?;
        Ok(answer.listeners.unwrap_or_default())
    }

    /// Begins to change weights; gives the task's id.
    pub(super) async fn modify_weights(&self, rules: &[WeightRule]) -> Result<String, Trouble> {
        #[derive(Deserialize)]
        struct Nothing {}
        let body = serde_json::json!({ "ModifyList": rules });
        let (_, request_id) = self.call::<Nothing>("BatchModifyTargetWeight", body).await?;
        Ok(request_id)
    }

    /// Binds targets.
    pub(super) async fn register(
        &self,
        targets: &[BatchTarget],
    ) -> Result<FailedListeners, Trouble> {
        self.batch("BatchRegisterTargets", targets).await
    }

    /// Unbinds targets.
    pub(super) async fn deregister(
        &self,
        targets: &[BatchTarget],
    ) -> Result<FailedListeners, Trouble> {
        self.batch("BatchDeregisterTargets", targets).await
    }

    async fn batch(
        &self,
        action: &'static str,
        targets: &[BatchTarget],
    ) -> Result<FailedListeners, Trouble> {
        let body = serde_json::json!({ "Targets": targets });
        let (answer, _) = self.call::<BatchAnswer>(action, body).await?;
        let failed = answer.fail_listener_id_set.filter(|set| !set.is_empty());
        Ok(failed.map(|set| (set, answer.message.unwrap_or_default())))
    }

    /// How far the task is.
    pub(super) async fn task(&self, task_id: &str) -> Result<Task, Trouble> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Status {
            status: u32,
            message: Option<String>,
        }
        let body = serde_json::json!({ "TaskId": task_id });
        let (answer, _) = self.call::<Status>("DescribeTaskStatus", body).await?;
        Ok(match answer.status {
            0 => Task::Succeeded,
            1 => Task::Failed(answer.message.unwrap_or_default()),
            _ => Task::Running,
        })
    }

    /// One request, and its answer with the request's id.
    async fn call<T: DeserializeOwned>(
        &self,
        action: &'static str,
        mut body: serde_json::Value,
    ) -> Result<(T, String), Trouble> {
        // The task goes by its own id, everything else by the load balancer's.
        if action != "DescribeTaskStatus" {
            body["LoadBalancerId"] = self.load_balancer_id.clone().into();
        }
        self.pace.turn().await;
        let call = self.sign(action, body.to_string())?;
        let reply = self.client.send(call).await.map_err(|error| unreachable(action, &error))?;
        if reply.status != StatusCode::OK {
            let (status, text) = (reply.status, reply.excerpt());
            let message = format!("{action}: {} answers {status}: {text}", self.client.server());
            return Err(Error::new(ErrorKind::Unreachable, message).into());
        }
        let answer =
            reply.json::<Envelope<T>>().map_err(|_| not_understood(action, &reply))?.response;
        if let Some(error) = answer.error {
            return Err(classify(action, &error));
        }
        let content = answer.content.ok_or_else(|| not_understood(action, &reply))?;
        Ok((content, answer.request_id))
    }

    fn sign(&self, action: &'static str, body: String) -> Result<Call, Error> {
        let credentials = self.credentials.current()?;
        let timestamp = now();
        let body = body.into_bytes();
        let authorization = sign::authorization(&credentials, "clb", &self.host, timestamp, &body);
        let secret = |text: &str| {
            HeaderValue::from_str(text).map(|mut value| {
                value.set_sensitive(true);
                value
            })
        };
        let headers_fit = |_| Error::new(ErrorKind::Denied, "the credentials fit in no header");
        let mut call = Call::post("/")
            .json_bytes(body.into())
            .header(CONTENT_TYPE, HeaderValue::from_static(sign::CONTENT_TYPE))
            .header(AUTHORIZATION, secret(&authorization).map_err(headers_fit)?)
            .header(header("x-tc-action"), HeaderValue::from_static(action))
            .header(header("x-tc-version"), HeaderValue::from_static(VERSION))
            .header(header("x-tc-timestamp"), HeaderValue::from(timestamp))
            .header(header("x-tc-region"), self.region.clone())
            // Its messages go into our logs.
            .header(header("x-tc-language"), HeaderValue::from_static("en-US"))
            .timeout(REQUEST_TIMEOUT)
            .max_bytes(MAX_ANSWER_BYTES);
        if let Some(token) = &credentials.token {
            call = call.header(header("x-tc-token"), secret(token).map_err(headers_fit)?);
        }
        Ok(call)
    }
}

fn header(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

fn unreachable(action: &str, error: &client::Error) -> Error {
    let kind = match error {
        client::Error::Timeout { .. } => ErrorKind::Timeout,
        _ => ErrorKind::Unreachable,
    };
    Error::new(
        kind,
        format!("{action}: {error}; look at `endpoint` and at the way out of the cluster"),
    )
}

fn not_understood(action: &str, reply: &client::Reply) -> Error {
    let message = format!("{action}: the answer is none of CLB's: {}", reply.excerpt());
    Error::new(ErrorKind::Refused, message)
}

/// What an error code means to us.
fn classify(action: &str, error: &ServiceError) -> Trouble {
    let code = error.code.as_str();
    let (kind, advice) = match code {
        "FailedOperation.ResourceInOperating" | "FailedOperation.ResourceInCloning" => {
            return Trouble::Busy;
        }
        "AuthFailure.SignatureExpire" => {
            (ErrorKind::Denied, "set this machine's clock: it is off by more than five minutes")
        }
        "AuthFailure.TokenFailure" => {
            (ErrorKind::Denied, "the temporary credentials are over or wrong; renew them")
        }
        _ if code.starts_with("AuthFailure") => (
            ErrorKind::Denied,
            "look at the secret id and key, and whether the key is still enabled",
        ),
        _ if code.starts_with("UnauthorizedOperation") => {
            (ErrorKind::Denied, "allow the key the actions that docs/balancers.md lists")
        }
        _ if code.starts_with("RequestLimitExceeded") || code.ends_with(".RateLimitExceeded") => (
            ErrorKind::Throttled,
            "it is tried again more slowly; other users of the account count too",
        ),
        "InvalidParameter.LBIdNotFound" => {
            (ErrorKind::Refused, "look at load-balancer-id and region")
        }
        "InvalidParameter.ListenerIdNotFound" | "InvalidParameter.LocationNotFound" => {
            (ErrorKind::Refused, "look at the ids under listeners")
        }
        _ if code.starts_with("ResourceNotFound") => {
            (ErrorKind::Refused, "look at load-balancer-id, listeners and region")
        }
        _ if code.starts_with("InternalError") => (ErrorKind::Refused, "it is tried again"),
        _ if code.starts_with("InvalidParameter") || code.starts_with("MissingParameter") => {
            (ErrorKind::Refused, "look at the configuration of tencent-clb")
        }
        _ => (ErrorKind::Refused, "it is tried again"),
    };
    let message = format!("{action}: {code}: {} ({advice})", error.message);
    Trouble::Failed(Error::new(kind, message))
}
