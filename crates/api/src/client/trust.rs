//! Whom we believe to be the server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Error;
use super::error::CA_KEY;
use crate::files;

/// A bundle of every public authority is a quarter of this.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What a client shows to a server that asks who it is, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Its certificate, followed by those that vouch for it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A TLS that trusts what `ca` holds, or without one what the system trusts.
pub(super) fn config(
    ca: Option<&Path>,
    identity: Option<&ClientIdentity>,
) -> Result<ClientConfig, Error> {
    let roots = match ca {
        Some(path) => from_file(path)?,
        None => from_system()?,
    };
    let builder = builder()?.with_root_certificates(roots);
    let Some(identity) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let ClientIdentity { certificate, key } = identity;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Identity {
        certificate: certificate.clone(),
        key: key.clone(),
        source,
    };
    let read = |path| files::read(path, MAX_FILE_BYTES).map_err(|error| failed(error.into()));
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?).collect::<Result<_, _>>();
    let chain = chain.map_err(|error| failed(error.into()))?;
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| failed(error.into()))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| failed(error.into()))
}

/// A TLS that trusts nobody, for clients that never use it.
pub(super) fn nobody() -> Result<ClientConfig, Error> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls { source })
}

fn from_file(path: &Path) -> Result<RootCertStore, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Ca {
        option: CA_KEY,
        path: path.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    let text = files::read(path, MAX_FILE_BYTES).map_err(|error| failed(error.into()))?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| failed(error.into()))?;
        roots.add(certificate).map_err(|error| failed(error.into()))?;
    }
    if roots.is_empty() {
        return Err(Error::EmptyCa { option: CA_KEY, path: path.to_owned() });
    }
    Ok(roots)
}

fn from_system() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems carry roots that rustls cannot read; the others still count.
    let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let detail = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        return Err(Error::NoRoots { option: CA_KEY, detail });
    }
    Ok(roots)
}
