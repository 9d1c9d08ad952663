//! Whom we believe to be the server.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::Error;

/// A TLS that trusts what `ca` holds, or without one what the system trusts.
pub(super) fn config(ca: Option<&Path>) -> Result<ClientConfig, Error> {
    match ca {
        Some(path) => with_roots(from_file(path)?),
        None => with_roots(from_system()?),
    }
}

/// A TLS that trusts nobody, for clients that never use it.
pub(super) fn nobody() -> Result<ClientConfig, Error> {
    with_roots(RootCertStore::empty())
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls { source })?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn from_file(path: &Path) -> Result<RootCertStore, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Ca {
        path: path.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| failed(error.into()))?;
        roots.add(certificate).map_err(|error| failed(error.into()))?;
    }
    if roots.is_empty() {
        return Err(Error::EmptyCa { path: path.to_owned() });
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
        return Err(Error::NoRoots { detail });
    }
    Ok(roots)
}
