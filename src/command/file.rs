//! The configuration file.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::api::files;

/// A configuration is a page; a file beyond this is something else.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("can't read {0}: {1}")]
    Read(PathBuf, #[source] io::Error),
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
    let text =
        files::read_text(path, MAX_BYTES).map_err(|error| Error::Read(path.to_owned(), error))?;
    parse(&text).map_err(|error| Error::Parse(path.to_owned(), error))
}

fn parse<T: DeserializeOwned + Default>(text: &str) -> Result<T, String> {
    if text.trim().is_empty() {
        return Ok(T::default());
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}
