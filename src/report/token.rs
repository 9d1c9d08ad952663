//! The bearer token, which Kubernetes exchanges under our feet.

use std::io;
use std::path::{Path, PathBuf};

use crate::api::client::Bearer;
use crate::api::files;

/// What we read of the file: a service account's token is about one kilobyte.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// A token and the file that it comes from.
///
/// The file is read before every report, which is once in seconds: cheaper than to be wrong about
/// modification times, and right however the file was exchanged.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    last: Bearer,
    trouble: Option<String>,
}

impl TokenFile {
    /// Reads the file for the first time.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(TokenFile { path: path.to_owned(), last: read(path)?, trouble: None })
    }

    /// The token as the file has it now; while it cannot be read, as it had it last.
    pub(super) fn current(&mut self) -> Bearer {
        match read(&self.path) {
            Ok(bearer) => {
                self.last = bearer;
                if self.trouble.take().is_some() {
                    tracing::info!(file = %self.path.display(), "the controller's token can be read again");
                }
            }
            Err(error) => {
                let error = error.to_string();
                if self.trouble.as_ref() != Some(&error) {
                    tracing::warn!(file = %self.path.display(), %error, "cannot read the controller's token, using the last one");
                    self.trouble = Some(error);
                }
            }
        }
        self.last.clone()
    }
}

fn read(path: &Path) -> io::Result<Bearer> {
    let text = files::read_text(path, MAX_TOKEN_BYTES)?;
    Bearer::new(text.trim()).ok_or_else(|| {
        let what = "not a token: it must be one line of printable characters";
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}
