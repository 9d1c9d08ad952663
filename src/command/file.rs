//! The configuration file.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// A configuration is a page; a file beyond this is something else.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("can't read {0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// It is far too large.
    #[error("{0} is larger than {MAX_BYTES} bytes: that is no configuration")]
    TooLarge(PathBuf),
    /// It is not what we understand.
    #[error(
        "{0}: {1}\nthe keys are the command's flags without their dashes (see its --help); for a proxy also \
         `listeners`, for a controller also `balancer`"
    )]
    Parse(PathBuf, String),
}

/// Reads a YAML file of options.
///
/// # Errors
/// Names the file and the line.
pub fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T, Error> {
    let fail = |error| Error::Read(path.to_owned(), error);
    if std::fs::metadata(path).map_err(fail)?.len() > MAX_BYTES {
        return Err(Error::TooLarge(path.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(fail)?;
    parse(&text).map_err(|error| Error::Parse(path.to_owned(), error))
}

fn parse<T: DeserializeOwned + Default>(text: &str) -> Result<T, String> {
    if text.trim().is_empty() {
        return Ok(T::default());
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}
