//! Why a request had no answer, sorted by what one can do about it.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::{StatusCode, Uri};
use hyper_util::client::legacy;

/// Why there is no client, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's URL cannot be used.
    #[error("`{url}` is no URL to talk to; write http://HOST:PORT or https://HOST:PORT")]
    Base {
        /// What was given.
        url: String,
    },
    /// A path cannot be part of a URL.
    #[error("`{path}` cannot be asked for; a path begins with / and has no spaces")]
    Path {
        /// What was given.
        path: String,
    },
    /// The system has no roots to trust.
    #[error("this system has no root certificates{detail}; give {option} FILE")]
    NoRoots {
        /// What the caller calls the file of certificates: see [`Error::naming`].
        option: &'static str,
        /// What looking for them ran into, if anything.
        detail: String,
    },
    /// The file of certificates cannot be read.
    #[error("cannot read the certificates in {path}; {option} takes a PEM file")]
    Ca {
        /// What the caller calls the file of certificates: see [`Error::naming`].
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The file of certificates has none.
    #[error("there is no certificate in {path}; {option} takes a PEM file")]
    EmptyCa {
        /// What the caller calls the file of certificates: see [`Error::naming`].
        option: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The certificate that we would show cannot be used.
    #[error(
        "cannot use the certificate in {certificate} with the key in {key}; both are PEM files"
    )]
    Identity {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// TLS cannot be set up at all.
    #[error("cannot set up TLS")]
    Tls {
        /// Why.
        source: rustls::Error,
    },
    /// Nobody listens there, or there cannot be reached.
    #[error("nobody answers at {server}")]
    NobodyThere {
        /// Host and port.
        server: String,
        /// What connecting ran into.
        source: legacy::Error,
    },
    /// Somebody is there, but not whom we trust, or not with TLS.
    #[error("the server at {server} failed the TLS handshake: {reason}")]
    Handshake {
        /// Host and port.
        server: String,
        /// What rustls says.
        reason: rustls::Error,
    },
    /// The answer is not HTTP.
    #[error("the server at {server} does not speak HTTP")]
    NotHttp {
        /// Host and port.
        server: String,
        /// What could not be read.
        source: legacy::Error,
    },
    /// The connection broke before the answer was whole.
    #[error("the connection broke before the answer was whole")]
    Broken {
        /// Its status, if that did arrive.
        status: Option<StatusCode>,
        /// What broke it.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The whole answer did not come in time.
    #[error("no answer within {timeout:?}")]
    Timeout {
        /// The time it was given.
        timeout: Duration,
    },
    /// The answer is longer than we read.
    #[error("the answer (status {status}) is longer than {max_bytes} bytes")]
    TooLarge {
        /// Its status, which did arrive.
        status: StatusCode,
        /// What we read.
        max_bytes: usize,
    },
    /// The answer is not what it should be.
    #[error("the answer is not what it should be")]
    Unexpected {
        /// Where it differs.
        source: serde_json::Error,
    },
}

/// What a file of certificates is called where nobody has said otherwise: the key of a balancer's description.
pub(super) const CA_KEY: &str = "`ca`";

impl Error {
    /// The same error, with the option by which its reader names the file of certificates.
    #[must_use]
    pub fn naming(mut self, ca_option: &'static str) -> Self {
        if let Error::NoRoots { option, .. }
        | Error::Ca { option, .. }
        | Error::EmptyCa { option, .. } = &mut self
        {
            *option = ca_option;
        }
        self
    }

    /// Whether no server was met at all. A command says that the proxy is not running (exit 69).
    #[must_use]
    pub fn is_nobody_there(&self) -> bool {
        matches!(self, Error::NobodyThere { .. })
    }
}

/// The error for a URL that names no server. A password in it is not repeated.
pub(super) fn not_a_base(base: &Uri) -> Error {
    let text = base.to_string();
    let url = match text.rsplit_once('@') {
        Some((_secret, rest)) => format!("…@{rest}"),
        None => text,
    };
    Error::Base { url }
}

/// Sorts what hyper says by what it means to us.
pub(super) fn classify(base: &Uri, failure: legacy::Error) -> Error {
    let server = base.authority().map_or_else(String::new, |it| it.as_str().to_owned());
    if let Some(reason) = tls_reason(&failure) {
        return Error::Handshake { server, reason };
    }
    if failure.is_connect() {
        return Error::NobodyThere { server, source: failure };
    }
    let is_parse = causes(&failure)
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .any(hyper::Error::is_parse);
    if is_parse {
        return Error::NotHttp { server, source: failure };
    }
    Error::Broken { status: None, source: failure.into() }
}

fn tls_reason(failure: &legacy::Error) -> Option<rustls::Error> {
    causes(failure).find_map(|cause| cause.downcast_ref::<rustls::Error>().cloned())
}

/// `first`, its cause, and so on.
fn causes<'a>(
    first: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(first), |&cause| {
        // An `io::Error` names the cause of what it wraps as its own, and so hides what it wraps;
        // hyper-rustls wraps the errors of rustls twice.
        match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        }
    })
}
