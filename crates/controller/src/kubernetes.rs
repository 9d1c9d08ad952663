//! How the controller reaches the Kubernetes API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

/// How long connecting and each read or write may take: the API server is in the same cluster.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the API server is and who we are to it. Without `url` it is taken from where kubectl takes it
/// (`KUBECONFIG`, `~/.kube/config`), and without such a file from the pod that we run in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Access {
    /// The API server, such as `https://10.0.0.1:443`.
    #[serde(default)]
    pub url: Option<String>,
    /// A file with the bearer token, read again as it is exchanged; only with `url`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A PEM file with the certificates that vouch for the server; only with `url`.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of [`Access`] is wrong.
    #[error("{field}: {message}")]
    Field {
        /// Its name, as the configuration spells it.
        field: &'static str,
        /// What is wrong with it and what to write instead.
        message: String,
    },
    /// We are in no cluster, or its configuration cannot be read.
    #[error(
        "no way to the Kubernetes API; run in a pod with a service account, set KUBECONFIG, or give url, token-file and ca"
    )]
    Nowhere {
        /// What was tried.
        source: kube::config::InferConfigError,
    },
    /// TLS or the credentials cannot be set up.
    #[error("cannot set up the client of the Kubernetes API: {source}")]
    Client {
        /// Why.
        source: kube::Error,
    },
}

impl Access {
    /// Whether the fields go together and name files that can be read. Asks nobody.
    ///
    /// # Errors
    ///
    /// Names the field.
    pub fn check(&self) -> Result<(), Error> {
        if self.url.is_some() {
            return self.explicit().map(drop);
        }
        for (field, value) in [("token-file", &self.token_file), ("ca", &self.ca)] {
            if value.is_some() {
                return Err(wrong(field, "means nothing without url".to_owned()));
            }
        }
        Ok(())
    }

    /// A client. Needs a tokio runtime around it, for as long as the client lives.
    ///
    /// # Errors
    ///
    /// When a field is wrong, or there is no cluster to be found.
    pub async fn client(&self) -> Result<kube::Client, Error> {
        let mut config = if self.url.is_some() {
            self.explicit()?
        } else {
            kube::Config::infer().await.map_err(|source| Error::Nowhere { source })?
        };
        config.connect_timeout = Some(TIMEOUT);
        config.read_timeout = Some(TIMEOUT);
        config.write_timeout = Some(TIMEOUT);
        // Whoever asks for something knows when to ask again.
        config.default_retry = false;
        kube::Client::try_from(config).map_err(|source| Error::Client { source })
    }

    fn explicit(&self) -> Result<kube::Config, Error> {
        let text = self.url.as_deref().unwrap_or_default();
        let is_url = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
        let Some(uri) = text.parse::<Uri>().ok().filter(is_url) else {
            return Err(wrong("url", format!("`{text}` is no URL; write https://HOST:PORT")));
        };
        let mut config = kube::Config::new(uri);
        if let Some(path) = &self.ca {
            config.root_cert = Some(certificates(path)?);
        }
        if let Some(path) = &self.token_file {
            if let Err(error) = std::fs::File::open(path) {
                return Err(wrong(
                    "token-file",
                    format!("cannot read {}: {error}", path.display()),
                ));
            }
            config.auth_info.token_file = Some(path.display().to_string());
        }
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let advice = "give a PEM file";
    match read {
        Ok(all) if all.is_empty() => {
            Err(wrong("ca", format!("there is no certificate in {}; {advice}", path.display())))
        }
        Ok(all) => Ok(all.into_iter().map(|it| it.to_vec()).collect()),
        Err(error) => {
            Err(wrong("ca", format!("cannot read {}: {error}; {advice}", path.display())))
        }
    }
}

fn wrong(field: &'static str, message: String) -> Error {
    Error::Field { field, message }
}
