//! TLS whose certificates may be exchanged while connections live.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::files;

/// How often the files are read again at most, for the next connection. They are a few kilobytes.
const READ_INTERVAL: Duration = Duration::from_secs(2);

/// A chain of certificates and a large key are ten kilobytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Where the certificates are, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate, followed by those that vouch for it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities whose clients are known; a client may come without a certificate.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The files do not go together.
    #[error("{certificate} and {key} do not go together: {source}")]
    Pair {
        /// The server's certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// What the files held.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

struct Kept {
    config: Arc<ServerConfig>,
    contents: Contents,
    read_at: Instant,
    trouble: Option<String>,
}

/// A server's side of TLS. New connections get what the files hold now; those that are open keep what
/// they have.
pub struct Tls {
    files: Files,
    kept: Mutex<Kept>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.files).finish()
    }
}

impl Tls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong with it.
    pub fn open(files: Files) -> Result<Self, Error> {
        let contents = Contents::read(&files)?;
        let config = contents.config(&files)?;
        let kept = Kept { config, contents, read_at: Instant::now(), trouble: None };
        Ok(Tls { files, kept: Mutex::new(kept) })
    }

    /// What the next connection gets.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.read_at.elapsed() >= READ_INTERVAL {
            kept.refresh(&self.files);
        }
        Arc::clone(&kept.config)
    }
}

impl Kept {
    /// Reads the files again; while they are no good, for instance because only one of them has been
    /// exchanged yet, the last ones serve on.
    fn refresh(&mut self, files: &Files) {
        self.read_at = Instant::now();
        let file = files.certificate.display();
        let read = Contents::read(files).and_then(|contents| {
            let is_new = contents != self.contents;
            let config = is_new.then(|| contents.config(files)).transpose()?;
            Ok(config.map(|config| (contents, config)))
        });
        match read {
            Ok(Some((contents, config))) => {
                tracing::info!(%file, "the certificate has changed");
                (self.contents, self.config) = (contents, config);
                self.trouble = None;
            }
            Ok(None) => self.trouble = None,
            Err(error) => {
                let error = error.to_string();
                if self.trouble.as_ref() != Some(&error) {
                    tracing::warn!(%file, %error, "cannot use the new certificate, keeping the last one");
                    self.trouble = Some(error);
                }
            }
        }
    }
}

impl Contents {
    fn read(files: &Files) -> Result<Self, Error> {
        Ok(Contents {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn config(&self, files: &Files) -> Result<Arc<ServerConfig>, Error> {
        let Files { certificate, key, client_ca } = files;
        let chain = certificates(certificate, &self.certificate)?;
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| content(key, format!("there is no private key in it: {error}")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pair =
            |source| Error::Pair { certificate: certificate.clone(), key: key.clone(), source };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(pair)?;
        let builder = match (client_ca, &self.client_ca) {
            (Some(path), Some(text)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(path, text)? {
                    roots.add(root).map_err(|error| content(path, error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    // A probe, a scrape and an operator have none.
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| content(path, error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, private).map_err(pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    files::read(path, MAX_FILE_BYTES).map_err(|source| match source.kind() {
        std::io::ErrorKind::FileTooLarge => {
            content(path, "too large for a certificate or a key".to_owned())
        }
        _ => Error::Read { path: path.to_owned(), source },
    })
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| content(path, error.to_string()))?;
    if chain.is_empty() {
        return Err(content(path, "there is no certificate in it; write it in PEM".to_owned()));
    }
    Ok(chain)
}

fn content(path: &Path, problem: String) -> Error {
    Error::Content { path: path.to_owned(), problem }
}
