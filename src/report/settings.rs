//! What was typed, and what the reporter needs of it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use super::token::TokenFile;
use crate::api::client::{self, Client, ClientIdentity};

/// Where our own controller takes reports, and where a URL without a path is meant to go.
const DEFAULT_PATH: &str = "/v1/reports";

/// Where to report, and how, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The controller's URL; without a path, /v1/reports there.
    pub controller: Uri,
    /// Certificates to trust for https, in PEM, instead of the system's roots.
    pub ca: Option<PathBuf>,
    /// The certificate that we show to a controller that asks for one.
    pub identity: Option<ClientIdentity>,
    /// The file of a bearer token.
    pub token_file: Option<PathBuf>,
    /// How long the controller may take to acknowledge that the drain is over. Ten seconds by
    /// default: one that is being replaced is back by then, and a grace period is rarely so short
    /// that it would matter.
    pub final_report_timeout: Duration,
}

/// Why reporting cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token's file cannot be used.
    #[error("cannot read the controller's token in {path}")]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no client for the controller.
    #[error("cannot talk to the controller")]
    Client {
        /// Why.
        source: client::Error,
    },
}

/// What the reporter needs.
#[derive(Debug)]
pub struct Settings {
    pub(super) path: String,
    pub(super) token: Option<TokenFile>,
    /// How long the final report is tried.
    pub final_report_timeout: Duration,
}

impl Wish {
    /// The settings and the client that are wished for.
    ///
    /// # Errors
    ///
    /// When a file that was named cannot be used. It is better to know at the start than in a drain.
    pub fn resolve(&self) -> Result<(Settings, Client), Error> {
        let url = &self.controller;
        let client = Client::with_identity(url, self.ca.as_deref(), self.identity.as_ref())
            .map_err(|error| Error::Client { source: error.naming("--controller-ca") })?;
        let token = match &self.token_file {
            None => None,
            Some(path) => Some(
                TokenFile::open(path)
                    .map_err(|source| Error::Token { path: path.clone(), source })?,
            ),
        };
        if token.is_some() && url.scheme_str() == Some("http") {
            tracing::warn!(controller = %client.server(), "the controller's token crosses the network in clear text");
        }
        let path = match url.path_and_query().map_or("/", |it| it.as_str()) {
            "/" => DEFAULT_PATH,
            path => path,
        };
        let settings = Settings {
            path: path.to_owned(),
            token,
            final_report_timeout: self.final_report_timeout,
        };
        Ok((settings, client))
    }
}

/// A controller's URL.
///
/// # Errors
/// Says what to write.
pub fn parse_url(text: &str) -> Result<Uri, String> {
    let what_to_write =
        "write http://HOST:PORT or https://HOST:PORT, with a path if it is not /v1/reports";
    let uri: Uri = text.parse().map_err(|_| what_to_write.to_owned())?;
    let authority = uri.authority().map_or("", |it| it.as_str());
    if !matches!(uri.scheme_str(), Some("http" | "https")) || authority.is_empty() {
        return Err(what_to_write.to_owned());
    }
    if authority.contains('@') {
        return Err(
            "it may not hold a password; put a token into --controller-token-file".to_owned()
        );
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(url: &str) -> Wish {
        Wish {
            controller: parse_url(url).expect("a URL"),
            ca: None,
            identity: None,
            token_file: None,
            final_report_timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn a_url_without_a_path_means_ours() {
        for (url, path) in [
            ("http://c:1", "/v1/reports"),
            ("http://c:1/", "/v1/reports"),
            ("http://c:1/mine?x=1", "/mine?x=1"),
        ] {
            let (settings, client) = wish(url).resolve().expect("http");
            assert_eq!(settings.path, path);
            assert_eq!(client.server(), "http://c:1");
        }
    }

    #[test]
    fn what_is_no_url_says_what_to_write() {
        for (url, hint) in [
            ("c:1", "write http://"),
            ("ftp://c", "write http://"),
            ("http://a:b@c", "--controller-token-file"),
        ] {
            let error = parse_url(url).expect_err(url);
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn a_token_file_that_is_not_there_fails_the_start() {
        let wish = Wish { token_file: Some("/nonexistent".into()), ..wish("http://c") };
        let error = wish.resolve().expect_err("no file");
        assert!(matches!(error, Error::Token { .. }), "{error:?}");
    }
}
