//! What was typed, and what the reporter needs of it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use super::token::TokenFile;
use crate::api::client::{self, Client};

/// Where our own controller takes reports, and where a URL without a path is meant to go.
const DEFAULT_PATH: &str = "/v1/reports";

/// The flags of the reporter.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Reporting")]
pub struct Args {
    /// Report to the controller at this URL (without a path: to /v1/reports there)
    #[arg(long, env = "EBBTIDE_CONTROLLER", value_name = "URL", value_parser = parse_url)]
    pub controller: Option<Uri>,

    /// Trust the certificates in this PEM file for an https controller, instead of the system's roots
    #[arg(long, env = "EBBTIDE_CONTROLLER_CA", value_name = "FILE", requires = "controller")]
    pub controller_ca: Option<PathBuf>,

    /// Send the token in this file as bearer; it is read again for every report
    #[arg(
        long,
        env = "EBBTIDE_CONTROLLER_TOKEN_FILE",
        value_name = "FILE",
        requires = "controller"
    )]
    pub controller_token_file: Option<PathBuf>,

    // Ten seconds: a controller that is being replaced is back by then, and the kubelet's grace is rarely
    // so short that it would matter.
    /// Wait at most this long for the controller to acknowledge that the drain is over
    #[arg(
        long,
        env = "EBBTIDE_FINAL_REPORT_TIMEOUT",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_duration
    )]
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

impl Args {
    /// The settings and the client that they name; none when there is no controller.
    ///
    /// # Errors
    ///
    /// When a file that was named cannot be used. It is better to know at the start than in a drain.
    pub fn resolve(&self) -> Result<Option<(Settings, Client)>, Error> {
        let Some(url) = &self.controller else {
            return Ok(None);
        };
        let client = Client::new(url, self.controller_ca.as_deref())
            .map_err(|source| Error::Client { source })?;
        let token = match &self.controller_token_file {
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
        Ok(Some((settings, client)))
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

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write 1500ms, 10s, 5m".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        report: Args,
    }

    fn parse(flags: &[&str]) -> Result<Args, String> {
        Cli::try_parse_from(std::iter::once(&"x").chain(flags))
            .map(|cli| cli.report)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_controller_nothing_is_reported() {
        let args = parse(&[]).expect("all optional");
        assert_eq!(args.final_report_timeout, Duration::from_secs(10));
        assert!(args.resolve().expect("nothing to fail").is_none());
    }

    #[test]
    fn a_url_without_a_path_means_ours() {
        for (url, path) in [
            ("http://c:1", "/v1/reports"),
            ("http://c:1/", "/v1/reports"),
            ("http://c:1/mine?x=1", "/mine?x=1"),
        ] {
            let args = parse(&["--controller", url]).expect("a URL");
            let (settings, client) = args.resolve().expect("http").expect("a controller");
            assert_eq!(settings.path, path);
            assert_eq!(client.server(), "http://c:1");
        }
    }

    #[test]
    fn wrong_flags_say_what_to_write() {
        for (flags, hint) in [
            (["--controller", "c:1"], "write http://"),
            (["--controller", "http://a:b@c"], "--controller-token-file"),
            (["--final-report-timeout", "10"], "write 1500ms, 10s, 5m"),
        ] {
            let error = parse(&flags).expect_err("wrong");
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn a_token_file_that_is_not_there_fails_the_start() {
        let args = parse(&["--controller", "http://c", "--controller-token-file", "/nonexistent"]);
        let error = args.expect("well-formed").resolve().expect_err("no file");
        assert!(matches!(error, Error::Token { .. }), "{error:?}");
    }
}
