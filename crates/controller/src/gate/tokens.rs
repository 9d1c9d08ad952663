//! A file of shared secrets, one a line, so that a new one can be told before the old one goes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use subtle::{Choice, ConstantTimeEq};

/// What we read of the file: 64 tokens of a kilobyte.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A file holds the tokens of one rotation, or of a few teams.
const MAX_TOKENS: usize = 64;

/// A shorter one can be guessed: 16 hexadecimal digits are 64 bits.
const MIN_TOKEN_BYTES: usize = 16;

/// How often the file is read again at most: a kubelet takes a minute to exchange it anyway.
const READ_INTERVAL: Duration = Duration::from_secs(2);

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("--auth token wants --token-file FILE")]
    Absent,
    /// It cannot be read.
    #[error("cannot read the tokens in {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content is not what we want.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The tokens of a file, which is read again as it changes.
#[derive(Debug)]
pub(super) struct Tokens {
    path: PathBuf,
    kept: Mutex<Kept>,
}

struct Kept {
    tokens: Vec<Vec<u8>>,
    read_at: Instant,
    trouble: Option<String>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.tokens.len())
    }
}

impl Tokens {
    /// Reads the file for the first time.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let tokens = read(path)?;
        let kept = Kept { tokens, read_at: Instant::now(), trouble: None };
        Ok(Tokens { path: path.to_owned(), kept: Mutex::new(kept) })
    }

    /// Whether `token` is one of them. How long that takes tells nothing of what they are.
    pub(super) fn hold(&self, token: &[u8]) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.read_at.elapsed() >= READ_INTERVAL {
            self.refresh(&mut kept);
        }
        let held = kept.tokens.iter().map(|it| it.as_slice().ct_eq(token));
        held.fold(Choice::from(0), |any, it| any | it).into()
    }

    /// Reads the file again; while that fails, the tokens that were good still are.
    fn refresh(&self, kept: &mut Kept) {
        kept.read_at = Instant::now();
        let file = self.path.display();
        match read(&self.path) {
            Ok(tokens) => {
                if kept.tokens != tokens {
                    tracing::info!(%file, tokens = tokens.len(), "the tokens have changed");
                }
                kept.tokens = tokens;
                kept.trouble = None;
            }
            Err(error) => {
                let error = error.to_string();
                if kept.trouble.as_ref() != Some(&error) {
                    tracing::warn!(%file, %error, "cannot use the new tokens, keeping the last ones");
                    kept.trouble = Some(error);
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    parse(&text).map_err(|problem| Error::Content { path: path.to_owned(), problem })
}

/// Blank lines and those that begin with `#` say nothing.
pub(super) fn parse(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let mut tokens = Vec::new();
    for (index, line) in lines {
        if line.len() < MIN_TOKEN_BYTES || !line.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "line {} is no token: write at least {MIN_TOKEN_BYTES} printable characters without \
                 spaces, such as `openssl rand -hex 32` makes",
                index + 1
            ));
        }
        tokens.push(line.as_bytes().to_vec());
    }
    match tokens.len() {
        0 => Err("there is no token in it; write one a line".to_owned()),
        1..=MAX_TOKENS => Ok(tokens),
        count => Err(format!("{count} tokens are more than {MAX_TOKENS}")),
    }
}
