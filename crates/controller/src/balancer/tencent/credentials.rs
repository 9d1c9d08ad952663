//! Who we are to Tencent Cloud: a secret id, a secret key and, if they are temporary, a token.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::balancer::{Error, ErrorKind};

/// What we read of the file: the three values are some hundred bytes, a token up to four kilobytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// What a request is signed with. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) secret_id: String,
    pub(super) secret_key: String,
    pub(super) token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("secret_id", &self.secret_id).finish_non_exhaustive()
    }
}

/// Where the credentials come from. They are read before every request, because whoever exchanges
/// temporary ones tells nobody.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// `TENCENTCLOUD_SECRET_ID`, `TENCENTCLOUD_SECRET_KEY` and `TENCENTCLOUD_TOKEN`.
    Environment,
    /// A file as Tencent's SDKs write it: `secret_id = …`, `secret_key = …`, `token = …`, a line each.
    File(PathBuf),
}

impl Source {
    /// The credentials as they are now.
    pub(super) fn current(&self) -> Result<Credentials, Error> {
        match self {
            Source::Environment => from_lookup(|name| std::env::var(name).ok()),
            Source::File(path) => from_file(path),
        }
    }
}

fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Credentials, Error> {
    let value = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
    let (Some(secret_id), Some(secret_key)) =
        (value("TENCENTCLOUD_SECRET_ID"), value("TENCENTCLOUD_SECRET_KEY"))
    else {
        return Err(denied(
            "there are no credentials; set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY, or \
             name a credentials-file",
        ));
    };
    printable(Credentials { secret_id, secret_key, token: value("TENCENTCLOUD_TOKEN") })
}

fn from_file(path: &Path) -> Result<Credentials, Error> {
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text));
    if let Err(error) = read {
        return Err(denied(format!("cannot read the credentials in {}: {error}", path.display())));
    }
    let value = |name: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let mut values = pairs.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
        values.next().filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let (Some(secret_id), Some(secret_key)) = (value("secret_id"), value("secret_key")) else {
        return Err(denied(format!(
            "{} holds no credentials; write `secret_id = …` and `secret_key = …`, a line each",
            path.display()
        )));
    };
    printable(Credentials { secret_id, secret_key, token: value("token") })
}

/// Id and token travel in headers, which carry printable characters only.
fn printable(credentials: Credentials) -> Result<Credentials, Error> {
    let is_printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let id = is_printable(&credentials.secret_id);
    if !id || !credentials.token.as_deref().is_none_or(is_printable) {
        return Err(denied(
            "the credentials hold a character that no header carries; look for quotes, spaces and line ends",
        ));
    }
    Ok(credentials)
}

fn denied(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Denied, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_the_sdks_do() {
        let complete = from_lookup(|name| match name {
            "TENCENTCLOUD_SECRET_ID" => Some("id".to_owned()),
            "TENCENTCLOUD_SECRET_KEY" => Some("key".to_owned()),
            "TENCENTCLOUD_TOKEN" => Some("token".to_owned()),
            _ => None,
        })
        .expect("complete");
        assert_eq!(complete.secret_id, "id");
        assert_eq!(complete.token.as_deref(), Some("token"));
        let error = from_lookup(|_| Some(" ".to_owned())).expect_err("empty");
        assert!(error.message.contains("TENCENTCLOUD_SECRET_ID"), "{error}");
    }

    #[test]
    fn no_secret_is_shown() {
        let credentials = from_lookup(|name| Some(format!("{name}-value"))).expect("complete");
        let shown = format!("{credentials:?}");
        assert!(!shown.contains("KEY-value") && !shown.contains("TOKEN-value"), "{shown}");
    }
}
