//! A balancer that somebody else drives, told by HTTP what to do: `docs/webhook.md`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{StatusCode, Uri};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{
    Action, Applied, Applying, Balancer, ConfigError, Error, ErrorKind, Limits, Order, Outcome,
};
use ebbtide_api::client::{self, Call, Client, Reply};

/// `sha256=` and the code of time stamp, dot and body.
const SIGNATURE: HeaderName = HeaderName::from_static("ebbtide-signature");
/// Seconds since the epoch at which the request was signed.
const TIMESTAMP: HeaderName = HeaderName::from_static("ebbtide-timestamp");

/// How long a receiver may take to answer, unless the configuration says otherwise: most wait for an API
/// of their own.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the dispatcher waits longer than we do, so that it is told who was silent.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(1);

/// When to ask again after `pending`, unless the receiver says.
const PENDING_PERIOD: Duration = Duration::from_secs(1);

/// The longest wait that a receiver may ask for: a drain of minutes must not be held up by a mistake.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// A secret is some dozens of bytes; a file that is longer is another one.
const MAX_SECRET_BYTES: u64 = 4096;

/// The end of the year 9999, after which a time cannot be written as RFC 3339 has it.
const LAST_MILLISECOND: u64 = 253_402_300_799_999;

/// How a webhook is configured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where the orders are sent, by POST: `http://` or `https://`, with its path.
    pub url: String,
    /// The file with the secret that requests are signed with; white space around it does not count. It is
    /// read again for each request.
    pub secret_file: PathBuf,
    /// A PEM file with the certificates that vouch for the receiver; without it, the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How long the receiver may take to answer, such as `10s`.
    #[serde(default)]
    pub timeout: Option<String>,
}

impl Config {
    /// The balancer that this describes.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong and what it should be.
    pub fn build(self) -> Result<Webhook, ConfigError> {
        let wrong = |field: &str, message: String| ConfigError {
            field: format!("webhook.{field}"),
            message,
        };
        let no_url = || wrong("url", format!("`{}` is no URL; write https://HOST/PATH", self.url));
        let url: Uri = self.url.parse().map_err(|_| no_url())?;
        let client = Client::new(&url, self.ca.as_deref()).map_err(|error| match &error {
            client::Error::Base { .. } => wrong("url", error.to_string()),
            client::Error::NoRoots { .. } => {
                wrong("ca", "name a PEM file: this system has no root certificates".to_owned())
            }
            client::Error::Ca { path, source, .. } => {
                wrong("ca", format!("{} is no PEM file of certificates: {source}", path.display()))
            }
            client::Error::EmptyCa { path, .. } => {
                wrong("ca", format!("there is no certificate in {}", path.display()))
            }
            _ => wrong("ca", error.to_string()),
        })?;
        let timeout = match self.timeout.as_deref().map(humantime::parse_duration) {
            None => TIMEOUT,
            Some(Ok(timeout)) if !timeout.is_zero() => timeout,
            Some(_) => return Err(wrong("timeout", "write a duration such as 500ms or 5s".into())),
        };
        let path = url.path_and_query().map_or("/", |it| it.as_str()).to_owned();
        let webhook = Webhook { client, path, secret_file: self.secret_file, timeout };
        // Better to know at the start than in a drain.
        webhook.secret().map_err(|error| wrong("secret-file", error.message))?;
        Ok(webhook)
    }
}

/// A receiver of orders.
#[derive(Clone, Debug)]
pub struct Webhook {
    client: Client,
    path: String,
    secret_file: PathBuf,
    timeout: Duration,
}

impl Balancer for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn limits(&self) -> Limits {
        // One order is one request, and the dispatcher knows best how many to have under way.
        let timeout = self.timeout + TIMEOUT_MARGIN;
        Limits { max_batch: 1, max_calls: 8, calls_per_second: 100.0, timeout }
    }

    fn apply<'a>(&'a self, orders: &'a [Order]) -> Applying<'a> {
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(orders.len());
            for order in orders {
                outcomes.push(self.tell(order).await.unwrap_or_else(Outcome::Failed));
            }
            outcomes
        })
    }
}

impl Webhook {
    async fn tell(&self, order: &Order) -> Result<Outcome, Error> {
        let body = serde_json::to_vec(&Body::of(order)).expect("text and numbers are JSON");
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = since.as_secs().to_string();
        let signature = self.secret()?.sign(&timestamp, &body);
        let call = Call::post(&self.path)
            .json_bytes(body.into())
            .header(TIMESTAMP, ascii(&timestamp))
            .header(SIGNATURE, ascii(&signature))
            .timeout(self.timeout);
        let reply = self.client.send(call).await.map_err(|error| self.unanswered(&error))?;
        self.understand(order.action, &reply)
    }

    fn secret(&self) -> Result<Secret, Error> {
        let path = self.secret_file.display();
        Secret::read(&self.secret_file).map_err(|error| {
            let message = format!("cannot read the secret in {path}: {error}");
            Error::new(ErrorKind::Denied, message)
        })
    }

    fn unanswered(&self, error: &client::Error) -> Error {
        let kind = match error {
            client::Error::NobodyThere { .. } | client::Error::Broken { .. } => {
                ErrorKind::Unreachable
            }
            client::Error::Timeout { .. } => ErrorKind::Timeout,
            client::Error::Handshake { .. } => ErrorKind::Denied,
            _ => ErrorKind::Refused,
        };
        let advice = match error {
            client::Error::Handshake { .. } => "; does webhook.ca vouch for the receiver?",
            client::Error::Timeout { .. } => {
                "; answer `{\"state\":\"pending\"}` at once, or raise webhook.timeout"
            }
            _ => "",
        };
        Error::new(kind, format!("{}: {error}: {}{advice}", self.client.server(), root(error)))
    }

    fn understand(&self, action: Action, reply: &Reply) -> Result<Outcome, Error> {
        let status = reply.status;
        let retry_after = retry_after(reply);
        let (kind, advice) = match status {
            _ if status.is_success() => return self.confirmed(reply, retry_after),
            StatusCode::NOT_FOUND | StatusCode::GONE if action == Action::Deregister => {
                return Ok(Applied::default().into());
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => (
                ErrorKind::UnknownTarget,
                "; the receiver does not know the target, or webhook.url is wrong",
            ),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
                ErrorKind::Denied,
                "; compare the receiver's secret with webhook.secret-file, and both clocks",
            ),
            StatusCode::TOO_MANY_REQUESTS => (ErrorKind::Throttled, ""),
            StatusCode::SERVICE_UNAVAILABLE if retry_after.is_some() => (ErrorKind::Throttled, ""),
            _ if status.is_redirection() => {
                (ErrorKind::Refused, "; redirects are not followed, give webhook.url the final URL")
            }
            _ => (ErrorKind::Refused, ""),
        };
        let said = match reply.excerpt() {
            text if text.is_empty() => text,
            text => format!(" ({text})"),
        };
        let message = format!("{}: status {status}{said}{advice}", self.client.server());
        Err(Error { kind, message, retry_after })
    }

    /// What a 2xx means: done, unless its body says otherwise. A body that is no JSON object says nothing.
    fn confirmed(&self, reply: &Reply, retry_after: Option<Duration>) -> Result<Outcome, Error> {
        if !reply.body.trim_ascii_start().starts_with(b"{") {
            return Ok(Applied::default().into());
        }
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|error| {
            let server = self.client.server();
            let message = format!("{server}: the answer is not as docs/webhook.md has it: {error}");
            Error::new(ErrorKind::Refused, message)
        })?;
        Ok(match answer.state {
            State::Pending => Outcome::NotYet(retry_after.unwrap_or(PENDING_PERIOD)),
            State::Applied => {
                let Answer { former_weight, sessions, .. } = answer;
                Applied { former_weight, sessions, ..Applied::default() }.into()
            }
        })
    }
}

/// What is sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    schema_version: &'static str,
    action: &'static str,
    namespace: &'a str,
    pod_name: &'a str,
    #[serde(rename = "podUID")]
    pod_uid: &'a str,
    service: &'a str,
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    ports: &'a [u16],
    former_weight: Option<u32>,
    issued_at: String,
}

impl<'a> Body<'a> {
    fn of(order: &'a Order) -> Self {
        let Order { action, member, former_weight, issued_at } = order;
        let issued_at = UNIX_EPOCH + Duration::from_millis((*issued_at).min(LAST_MILLISECOND));
        Body {
            schema_version: "v1",
            action: action.name(),
            namespace: &member.namespace,
            pod_name: &member.pod_name,
            pod_uid: &member.pod_uid,
            service: &member.service,
            pod_ip: member.ip,
            ports: &member.ports,
            former_weight: *former_weight,
            issued_at: humantime::format_rfc3339_millis(issued_at).to_string(),
        }
    }
}

/// What may be answered.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    state: State,
    #[serde(default)]
    former_weight: Option<u32>,
    #[serde(default)]
    sessions: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum State {
    #[default]
    Applied,
    Pending,
}

/// What requests are signed with.
struct Secret(hmac::Key);

impl Secret {
    fn read(path: &std::path::Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes)?;
        let invalid = |message: &str| Err(io::Error::new(io::ErrorKind::InvalidData, message));
        match bytes.trim_ascii() {
            [] => invalid("it is empty; put a long random text into it"),
            _ if bytes.len() as u64 > MAX_SECRET_BYTES => invalid("it is too long for a secret"),
            secret => Ok(Secret(hmac::Key::new(hmac::HMAC_SHA256, secret))),
        }
    }

    fn sign(&self, timestamp: &str, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(timestamp.as_bytes());
        context.update(b".");
        context.update(body);
        let mut signature = String::from("sha256=");
        for byte in context.sign().as_ref() {
            write!(signature, "{byte:02x}").expect("text takes text");
        }
        signature
    }
}

/// When the receiver wants to be asked again: seconds or a date, as RFC 9110 §10.2.3 has it.
fn retry_after(reply: &Reply) -> Option<Duration> {
    let text = reply.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let delay = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(delay.min(MAX_RETRY_AFTER))
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits and letters")
}

/// The innermost cause: what the system or the parser said.
fn root(error: &client::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
