//! Who we are to AWS: from the environment, a web identity (IRSA), a container's endpoint (EKS Pod
//! Identity, ECS) or the machine's metadata, the first that there is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::query::{Form, Service};
use crate::balancer::{Error, ErrorKind};
use ebbtide_api::client::{Call, Client, Reply};

/// Temporary credentials are renewed this long before they are over, so that a failure to do so can be
/// tried again for a while.
const MARGIN: Duration = Duration::from_secs(300);

/// Where a container asks, if it is told a path only; and where a machine asks.
const ECS: &str = "http://169.254.170.2";
const IMDS: &str = "http://169.254.169.254";

/// These endpoints are on the machine itself.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(2);

/// What a request is signed with. Its `Debug` shows no secret.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) access_key_id: String,
    pub(super) secret_key: String,
    pub(super) session_token: Option<String>,
    expiration: Option<SystemTime>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.access_key_id;
        f.debug_struct("Credentials").field("access_key_id", id).finish_non_exhaustive()
    }
}

/// Where credentials come from.
#[derive(Debug)]
enum Source {
    Static(Credentials),
    WebIdentity { sts: Box<Service>, role_arn: String, token_file: PathBuf, session_name: String },
    Container { endpoint: Uri, token_file: Option<PathBuf>, token: Option<String> },
    Machine { endpoint: Uri },
}

/// A source, and what it gave last.
#[derive(Debug)]
pub(super) struct Provider {
    source: Source,
    last: Mutex<Option<Credentials>>,
}

impl Provider {
    /// The first source of which `environment` knows; the machine's metadata is asked if it knows none.
    ///
    /// # Errors
    ///
    /// Says which variable is wrong.
    pub(super) fn new(
        environment: &dyn Fn(&str) -> Option<String>,
        sts: impl FnOnce() -> Result<Service, String>,
    ) -> Result<Self, String> {
        let value = |name: &str| environment(name).filter(|value| !value.is_empty());
        let url = |name: &str, text: &str| {
            let is_url = |uri: &Uri| uri.authority().is_some();
            let uri = text.parse::<Uri>().ok().filter(is_url);
            uri.ok_or_else(|| format!("{name} is `{text}`, which is no URL"))
        };
        let source = if let (Some(access_key_id), Some(secret_key)) =
            (value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY"))
        {
            let session_token = value("AWS_SESSION_TOKEN");
            Source::Static(Credentials {
                access_key_id,
                secret_key,
                session_token,
                expiration: None,
            })
        } else if let (Some(token_file), Some(role_arn)) =
            (value("AWS_WEB_IDENTITY_TOKEN_FILE"), value("AWS_ROLE_ARN"))
        {
            let session_name =
                value("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "ebbtide-controller".to_owned());
            Source::WebIdentity {
                sts: Box::new(sts()?),
                role_arn,
                token_file: token_file.into(),
                session_name,
            }
        } else if let Some(endpoint) = value("AWS_CONTAINER_CREDENTIALS_FULL_URI").or_else(|| {
            value("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("{ECS}{path}"))
        }) {
            Source::Container {
                endpoint: url("AWS_CONTAINER_CREDENTIALS_FULL_URI", &endpoint)?,
                token_file: value("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
                token: value("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
            }
        } else {
            let name = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
            let endpoint = value(name).unwrap_or_else(|| IMDS.to_owned());
            Source::Machine { endpoint: url(name, &endpoint)? }
        };
        Ok(Provider { source, last: Mutex::new(None) })
    }

    /// Credentials that are good for some time yet.
    pub(super) async fn current(&self) -> Result<Credentials, Error> {
        let mut last = self.last.lock().await;
        let is_fresh = |it: &&Credentials| {
            it.expiration.is_none_or(|expiration| expiration > SystemTime::now() + MARGIN)
        };
        if let Some(fresh) = last.as_ref().filter(is_fresh) {
            return Ok(fresh.clone());
        }
        let fresh = match &self.source {
            Source::Static(credentials) => Ok(credentials.clone()),
            Source::WebIdentity { sts, role_arn, token_file, session_name } => {
                assume(sts, role_arn, token_file, session_name).await
            }
            Source::Container { endpoint, token_file, token } => {
                let token = match token_file {
                    Some(file) => Some(read(file)?),
                    None => token.clone(),
                };
                container(endpoint, token.as_deref()).await
            }
            Source::Machine { endpoint } => machine(endpoint).await,
        };
        match (fresh, &*last) {
            (Ok(fresh), _) => Ok(last.insert(fresh).clone()),
            // They cannot be renewed, but are not over either.
            (Err(_), Some(old)) if old.expiration.is_some_and(|it| it > SystemTime::now()) => {
                Ok(old.clone())
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// What STS gives for a token that the cluster has signed.
async fn assume(
    sts: &Service,
    role_arn: &str,
    token_file: &Path,
    session_name: &str,
) -> Result<Credentials, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Response {
        assume_role_with_web_identity_result: Outcome,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Outcome {
        credentials: Document,
    }
    let action = "AssumeRoleWithWebIdentity";
    let mut form = Form::new(action, "2011-06-15");
    form.field("RoleArn", role_arn);
    form.field("RoleSessionName", session_name);
    form.field("WebIdentityToken", &read(token_file)?);
    let answer: Response = sts.call(action, form, None).await.map_err(|refusal| refusal.error)?;
    Ok(answer.assume_role_with_web_identity_result.credentials.into())
}

/// Credentials as STS, containers and machines write them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    access_key_id: String,
    secret_access_key: String,
    #[serde(alias = "SessionToken")]
    token: Option<String>,
    expiration: Option<String>,
}

impl From<Document> for Credentials {
    fn from(document: Document) -> Self {
        let expiration = document.expiration.and_then(|it| humantime::parse_rfc3339(&it).ok());
        Credentials {
            access_key_id: document.access_key_id,
            secret_key: document.secret_access_key,
            session_token: document.token,
            expiration,
        }
    }
}

async fn container(endpoint: &Uri, token: Option<&str>) -> Result<Credentials, Error> {
    let path = endpoint.path_and_query().map_or("/", |it| it.as_str());
    let mut call = Call::get(path);
    if let Some(token) = token {
        call = call.header(AUTHORIZATION, value(token)?);
    }
    document(&local(endpoint, call).await?)
}

async fn machine(endpoint: &Uri) -> Result<Credentials, Error> {
    const PATH: &str = "/latest/meta-data/iam/security-credentials/";
    let session = Call::new(hyper::Method::PUT, "/latest/api/token").header(
        HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds"),
        HeaderValue::from_static("60"),
    );
    let session = local(endpoint, session).await?.excerpt();
    let get = |path: String| {
        let name = HeaderName::from_static("x-aws-ec2-metadata-token");
        Ok::<_, Error>(Call::get(path).header(name, value(&session)?))
    };
    let role = local(endpoint, get(PATH.to_owned())?).await?.excerpt();
    document(&local(endpoint, get(format!("{PATH}{role}"))?).await?)
}

fn value(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| denied("a token for credentials holds what no header carries".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn local(endpoint: &Uri, call: Call) -> Result<Reply, Error> {
    let failed = |what: String| {
        denied(format!(
            "no credentials: {what}; give the controller's service account a role (IRSA or Pod Identity), \
             or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ))
    };
    let client = Client::new(endpoint, None).map_err(|error| failed(error.to_string()))?;
    let reply = client.send(call.timeout(LOCAL_TIMEOUT)).await;
    let reply = reply.map_err(|error| failed(error.to_string()))?;
    if !reply.status.is_success() {
        return Err(failed(format!("{} answers {}", client.server(), reply.status)));
    }
    Ok(reply)
}

fn document(reply: &Reply) -> Result<Credentials, Error> {
    let not_them = |_| denied("the endpoint for credentials answers something else".to_owned());
    reply.json::<Document>().map(Credentials::from).map_err(not_them)
}

fn read(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| denied(format!("cannot read the token in {}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

fn denied(message: String) -> Error {
    Error::new(ErrorKind::Denied, message)
}
