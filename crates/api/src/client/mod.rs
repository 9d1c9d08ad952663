//! One small HTTP/1 client: the reporter's, and that of the commands that ask a running proxy.
//!
//! A [`Client`] speaks to one server only, so that a token can never go astray: redirects are not
//! followed, proxies from the environment are not asked. Bodies are bounded in both directions.

mod error;
#[cfg(test)]
mod tests;
mod trust;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{HeaderMap, Method, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::Error;
pub use trust::ClientIdentity;

/// How long a TCP connection may take to come about: two lost SYNs are 3 s, and whoever needs that
/// long will not answer in time either.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an unused connection is kept. Below the ten seconds after which our own servers close
/// one, so that a request does not meet a connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// What an answer may measure unless [`Call::max_bytes`] says otherwise: a controller's answer is a
/// hundred bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How our requests introduce themselves.
const AGENT: &str = concat!("ebbtide/", env!("CARGO_PKG_VERSION"));

/// A client of one server. Cloning is cheap and shares the connections.
#[derive(Clone, Debug)]
pub struct Client {
    base: Uri,
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    /// A client of the server at `base`, of which only scheme, host and port count.
    ///
    /// For `https` the server must show a certificate that `ca`, a PEM file, or without one the
    /// system's roots, vouch for; for `http` neither is read. Needs a tokio runtime around its calls.
    ///
    /// # Errors
    ///
    /// When `base` is no `http://` or `https://` URL, or the certificates cannot be had.
    pub fn new(base: &Uri, ca: Option<&Path>) -> Result<Self, Error> {
        Self::with_identity(base, ca, None)
    }

    /// A client like that of [`Client::new`], which over `https` shows `identity` to whoever asks.
    ///
    /// # Errors
    ///
    /// As [`Client::new`]; and when the identity's files cannot be used.
    pub fn with_identity(
        base: &Uri,
        ca: Option<&Path>,
        identity: Option<&ClientIdentity>,
    ) -> Result<Self, Error> {
        let https = match base.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(error::not_a_base(base)),
        };
        let authority = base.authority().map_or("", |it| it.as_str());
        if authority.is_empty() || authority.contains('@') {
            return Err(error::not_a_base(base));
        }
        let tls = if https { trust::config(ca, identity)? } else { trust::nobody()? };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(1)
            .build(connector);
        Ok(Client { base: base.clone(), inner })
    }

    /// `http` or `https`, host and port of the server.
    #[must_use]
    pub fn server(&self) -> String {
        let scheme = self.base.scheme_str().unwrap_or_default();
        let authority = self.base.authority().map_or("", |it| it.as_str());
        format!("{scheme}://{authority}")
    }

    /// Sends one request and reads its whole answer, whatever its status.
    ///
    /// # Errors
    ///
    /// When no whole answer came; [`Error::is_nobody_there`] tells a missing server from a bad one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that it used; the server may have seen the request.
    pub async fn send(&self, call: Call) -> Result<Reply, Error> {
        let timeout = call.timeout;
        let exchange = self.exchange(call);
        match timeout {
            None => exchange.await,
            Some(timeout) => tokio::time::timeout(timeout, exchange)
                .await
                .unwrap_or(Err(Error::Timeout { timeout })),
        }
    }

    async fn exchange(&self, call: Call) -> Result<Reply, Error> {
        let max_bytes = call.max_bytes;
        let request = self.request(call)?;
        let response = self
            .inner
            .request(request)
            .await
            .map_err(|failure| error::classify(&self.base, failure))?;
        let (head, body) = response.into_parts();
        let status = head.status;
        let body = Limited::new(body, max_bytes)
            .collect()
            .await
            .map_err(|failure| {
                if failure.is::<LengthLimitError>() {
                    Error::TooLarge { status, max_bytes }
                } else {
                    Error::Broken { status: Some(status), source: failure }
                }
            })?
            .to_bytes();
        Ok(Reply { status, headers: head.headers, body })
    }

    fn request(&self, call: Call) -> Result<hyper::Request<Full<Bytes>>, Error> {
        let mut parts = self.base.clone().into_parts();
        let path = PathAndQuery::try_from(call.path.as_str())
            .map_err(|_| Error::Path { path: call.path.clone() })?;
        parts.path_and_query = Some(path);
        let uri = Uri::from_parts(parts).map_err(|_| Error::Path { path: call.path })?;
        let mut request = hyper::Request::new(Full::new(call.body.unwrap_or_default()));
        *request.method_mut() = call.method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if call.is_json {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.extend(call.headers);
        if let Some(bearer) = call.bearer {
            headers.insert(AUTHORIZATION, bearer.0);
        }
        Ok(request)
    }
}

/// A bearer token, ready to be sent and never shown.
#[derive(Clone, Debug)]
pub struct Bearer(HeaderValue);

impl Bearer {
    /// The token, if it consists of characters that a header may carry and is not empty.
    #[must_use]
    pub fn new(token: &str) -> Option<Self> {
        if token.is_empty() {
            return None;
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        Some(Bearer(value))
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    body: Option<Bytes>,
    is_json: bool,
    headers: HeaderMap,
    bearer: Option<Bearer>,
    timeout: Option<Duration>,
    max_bytes: usize,
}

impl Call {
    /// A request for `path`, which begins with `/` and may carry a query. It has no time-out.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Call {
            method,
            path: path.into(),
            body: None,
            is_json: false,
            headers: HeaderMap::new(),
            bearer: None,
            timeout: None,
            max_bytes: MAX_ANSWER_BYTES,
        }
    }

    /// GET.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Call::new(Method::GET, path)
    }

    /// POST, with an empty body unless [`Call::json`] gives one.
    #[must_use]
    pub fn post(path: impl Into<String>) -> Self {
        Call::new(Method::POST, path)
    }

    /// DELETE.
    #[must_use]
    pub fn delete(path: impl Into<String>) -> Self {
        Call::new(Method::DELETE, path)
    }

    /// Carries `value` as JSON.
    ///
    /// # Errors
    ///
    /// When `value` cannot be written as JSON.
    pub fn json(self, value: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(self.json_bytes(serde_json::to_vec(value)?.into()))
    }

    /// Carries `body`, which is JSON already.
    #[must_use]
    pub fn json_bytes(mut self, body: Bytes) -> Self {
        self.body = Some(body);
        self.is_json = true;
        self
    }

    /// Carries a header field; one of the same name, also one of ours, is replaced.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Shows a token to the server.
    #[must_use]
    pub fn bearer(mut self, bearer: Option<Bearer>) -> Self {
        self.bearer = bearer;
        self
    }

    /// Gives up after `timeout`, counted from the start to the end of the answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Takes an answer of up to `max_bytes`.
    #[must_use]
    pub fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }
}

/// One whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The body as what it should be.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|source| Error::Unexpected { source })
    }

    /// The body's text, for people: of at most 200 characters, on one line.
    #[must_use]
    pub fn excerpt(&self) -> String {
        /// A line of a log or a terminal or two.
        const MAX_CHARS: usize = 200;
        String::from_utf8_lossy(&self.body)
            .trim()
            .chars()
            .map(|it| if it.is_control() { ' ' } else { it })
            .take(MAX_CHARS)
            .collect()
    }
}
