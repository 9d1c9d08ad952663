//! Who may speak to the controller: proxies report, operators look and ask for drains.
//!
//! Whatever the proxies are known by, operators are known by a token, which a browser sends as a
//! password. What a page of somebody else makes a browser send is refused.

mod origin;
mod reviews;
mod sources;
#[cfg(test)]
mod tests;
mod tokens;

use std::net::SocketAddr;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};

use super::kubernetes::{self, Access};
use ebbtide_api::report::Identity;
use ebbtide_api::serve::{Caller, Request, Response, respond};

pub use tokens::Error as TokensError;

use reviews::{Pod, Refusal, Reviews};
use tokens::Tokens;

pub(super) use sources::Sources;

/// By what proxies are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: whoever can connect.
    None,
    /// One of the tokens in a file.
    Token,
    /// A certificate that our clients' authority vouches for.
    Mtls,
    /// A token of a ServiceAccount that is bound to the pod, which the Kubernetes API reviews.
    Kubernetes {
        /// The way to the Kubernetes API.
        access: Access,
        /// Whom the token must be for.
        audience: String,
    },
}

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// A field of `kubernetes` is wrong.
    #[error("kubernetes: {0}")]
    Kubernetes(#[from] kubernetes::Error),
}

/// Who may do what.
#[derive(Debug)]
pub struct Gate {
    proxies: Proxies,
    /// None: nobody, unless the gate is open.
    operators: Option<Tokens>,
}

#[derive(Debug)]
enum Proxies {
    /// Whoever can connect, to a name that resolves to nobody else.
    Open(Names),
    Token(Tokens),
    Certificate,
    Reviews(Box<Reviews>),
}

/// A proxy that was let in.
#[derive(Debug)]
pub(super) struct Speaker {
    /// The only pod that it may speak for; without one, for any.
    pod: Option<Pod>,
}

impl Speaker {
    /// Lets it report as `identity`.
    pub(super) fn speak_as(&self, identity: &Identity) -> Result<(), Denied> {
        match &self.pod {
            Some(pod) if !pod.is(identity) => Err(Denied::OtherPod),
            Some(pod) if !pod.has_address_of(identity) => {
                Err(Denied::OtherAddress { claimed: identity.pod_ip.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// By which names we may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// An address or localhost: another one would be somebody's page whose name he lets resolve to us.
    Own,
    Any,
}

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("say who you are: `Authorization: Bearer` with a token of the proxies' (--token-file)")]
    NoProxyToken,
    #[error("this token is none of the proxies' (--token-file)")]
    WrongProxyToken,
    #[error("say who you are: a certificate that --client-ca vouches for")]
    NoCertificate,
    #[error(
        "say who you are: `Authorization: Bearer` with the pod's projected serviceAccountToken \
         (--controller-token-file)"
    )]
    NoPodToken,
    #[error(transparent)]
    Review(#[from] Refusal),
    #[error(
        "this token is another pod's than the report: set POD_NAMESPACE, POD_NAME and POD_UID by the downward \
         API, and mount a projected serviceAccountToken of this very pod"
    )]
    OtherPod,
    #[error(
        "podIP `{claimed}` is not among the addresses that the Kubernetes API knows of this pod: set POD_IP by the \
         downward API (fieldRef: status.podIP)"
    )]
    OtherAddress { claimed: String },
    #[error("say who you are: an operator's token as bearer, or as password of any user")]
    NoOperatorToken,
    #[error("this token is none of the operators' (--operator-token-file)")]
    WrongOperatorToken,
    #[error("nobody is an operator here: start the controller with --operator-token-file FILE")]
    NoOperators,
    #[error("a page from somewhere else may not ask for this")]
    OtherOrigin,
    #[error("reports come from proxies, not from browsers: send neither Origin nor Sec-Fetch-Site")]
    Browser,
    #[error("without --auth the controller answers only to an address or localhost as its name")]
    OtherName,
}

impl Denied {
    /// How the report is counted.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Denied::Review(Refusal::NotReviewed { .. }) => "unreviewed",
            _ => "denied",
        }
    }

    pub(super) fn response(&self) -> Response {
        let status = match self {
            Denied::NoProxyToken
            | Denied::WrongProxyToken
            | Denied::NoCertificate
            | Denied::NoPodToken
            | Denied::Review(Refusal::NotAuthenticated { .. })
            | Denied::NoOperatorToken
            | Denied::WrongOperatorToken => StatusCode::UNAUTHORIZED,
            Denied::Review(Refusal::NotReviewed { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Denied::Review(Refusal::NoPod)
            | Denied::OtherPod
            | Denied::OtherAddress { .. }
            | Denied::NoOperators
            | Denied::OtherOrigin
            | Denied::Browser
            | Denied::OtherName => StatusCode::FORBIDDEN,
        };
        let mut response = respond::text(status, format!("{self}\n"));
        let scheme = match self {
            Denied::Review(Refusal::NotReviewed { .. }) => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                return response;
            }
            Denied::NoProxyToken
            | Denied::WrongProxyToken
            | Denied::NoPodToken
            | Denied::Review(Refusal::NotAuthenticated { .. }) => {
                "Bearer realm=\"ebbtide reports\""
            }
            // The word that makes a browser ask its user.
            Denied::NoOperatorToken | Denied::WrongOperatorToken => {
                "Basic realm=\"ebbtide operators\", charset=\"UTF-8\""
            }
            _ => return response,
        };
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        response
    }
}

impl Gate {
    /// A gate that stands open, for a controller that listens on `listen`.
    #[must_use]
    pub fn open(listen: SocketAddr) -> Self {
        let is_loopback = listen.ip().to_canonical().is_loopback();
        let names = if is_loopback { Names::Own } else { Names::Any };
        Gate { proxies: Proxies::Open(names), operators: None }
    }

    /// A gate for a controller that listens on `listen`.
    ///
    /// # Errors
    ///
    /// When a file of tokens cannot be used, or the way to the Kubernetes API is described wrongly.
    pub fn new(
        kind: Kind,
        listen: SocketAddr,
        tokens: Option<&Path>,
        operators: Option<&Path>,
    ) -> Result<Self, Error> {
        let proxies = match (kind, tokens) {
            (Kind::None, _) => Gate::open(listen).proxies,
            (Kind::Token, Some(path)) => Proxies::Token(Tokens::open(path)?),
            (Kind::Token, None) => return Err(TokensError::Absent.into()),
            (Kind::Mtls, _) => Proxies::Certificate,
            (Kind::Kubernetes { access, audience }, _) => {
                Proxies::Reviews(Box::new(Reviews::new(access, audience)?))
            }
        };
        let operators = operators.map(Tokens::open).transpose()?;
        Ok(Gate { proxies, operators })
    }

    /// Lets a proxy report.
    pub(super) async fn admit_proxy(&self, head: &Parts) -> Result<Speaker, Denied> {
        let headers = &head.headers;
        // No page sends reports, not even ours: what a browser sends is somebody else's doing.
        if origin::is_of_a_browser(headers) {
            return Err(Denied::Browser);
        }
        match &self.proxies {
            Proxies::Open(Names::Own) if !origin::names_an_address(headers) => {
                return Err(Denied::OtherName);
            }
            Proxies::Open(_) => {}
            Proxies::Token(tokens) => match shown(headers) {
                None => return Err(Denied::NoProxyToken),
                Some(token) if tokens.hold(&token) => {}
                Some(_) => return Err(Denied::WrongProxyToken),
            },
            Proxies::Certificate => {
                let caller = head.extensions.get::<Caller>();
                if !caller.is_some_and(|caller| caller.has_certificate) {
                    return Err(Denied::NoCertificate);
                }
            }
            Proxies::Reviews(reviews) => {
                let token = shown(headers).ok_or(Denied::NoPodToken)?;
                return Ok(Speaker { pod: Some(reviews.pod(&token).await?) });
            }
        }
        Ok(Speaker { pod: None })
    }

    /// Lets somebody look, or ask for a drain.
    pub(super) fn admit_operator(&self, request: &Request) -> Result<(), Denied> {
        let headers = request.headers();
        if !request.method().is_safe() && !origin::is_ours(headers) {
            return Err(Denied::OtherOrigin);
        }
        if let Some(tokens) = &self.operators {
            return match shown(headers) {
                None => Err(Denied::NoOperatorToken),
                Some(token) if tokens.hold(&token) => Ok(()),
                Some(_) => Err(Denied::WrongOperatorToken),
            };
        }
        match self.proxies {
            Proxies::Open(Names::Own) if !origin::names_an_address(headers) => {
                Err(Denied::OtherName)
            }
            Proxies::Open(_) => Ok(()),
            _ => Err(Denied::NoOperators),
        }
    }
}

/// The token that a request shows, as a bearer or as the password of any user.
fn shown(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = BASE64_STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}
