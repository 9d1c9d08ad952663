//! From what was typed about tokens and certificates to who may speak to the controller.

use std::net::SocketAddr;

use serde::Deserialize;

use super::controller::Options;
use crate::api::serve::tls::{Files, Tls};
use crate::controller::Gate;
use crate::controller::gate::Kind;

/// Whom the proxies' ServiceAccount tokens are for: a token that opens nothing else.
const AUDIENCE: &str = "ebbtide-controller";

/// By what proxies are known to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// Nothing: whoever can connect may report. Only on loopback, unless --insecure says otherwise.
    None,
    /// One of the tokens in --token-file.
    Token,
    /// A certificate that --client-ca vouches for; wants --tls-cert.
    Mtls,
    /// A projected ServiceAccount token, which the Kubernetes API reviews; a pod reports for itself alone.
    Kubernetes,
}

/// Whom the controller lets in, and its certificate.
pub(super) fn resolve(
    options: &Options,
    listen: SocketAddr,
) -> Result<(Gate, Option<Tls>), String> {
    let auth = options.auth.unwrap_or(Auth::None);
    let is_loopback = listen.ip().to_canonical().is_loopback();
    if auth == Auth::None && !is_loopback && !options.insecure {
        return Err(format!(
            "--listen {listen} can be reached from outside, where anybody could report for any pod: give \
             --auth token with --token-file FILE, --auth mtls or --auth kubernetes, or listen on 127.0.0.1:{}; or say \
             --insecure if you trust everybody who can connect",
            listen.port()
        ));
    }
    for (flag, given, wanted, auths) in [
        ("--token-file", options.token_file.is_some(), "--auth token", auth == Auth::Token),
        ("--client-ca", options.client_ca.is_some(), "--auth mtls", auth == Auth::Mtls),
    ] {
        if given != auths {
            let missing = if given { (flag, wanted) } else { (wanted, flag) };
            return Err(format!("{} requires {}", missing.0, missing.1));
        }
    }
    for (option, is_given) in
        [("--audience", options.audience.is_some()), ("kubernetes", options.kubernetes.is_some())]
    {
        if is_given && auth != Auth::Kubernetes {
            return Err(format!("{option} wants --auth kubernetes too"));
        }
    }
    let audience = options.audience.clone().unwrap_or_else(|| AUDIENCE.to_owned());
    if audience.trim().is_empty() {
        return Err(format!(
            "--audience is empty, so that any token would do; write one of your own, such as {AUDIENCE}"
        ));
    }
    let tls = tls(options)?;
    if auth == Auth::Mtls && tls.is_none() {
        return Err("--auth mtls wants --tls-cert and --tls-key too".to_owned());
    }
    let kind = match auth {
        Auth::None => Kind::None,
        Auth::Token => Kind::Token,
        Auth::Mtls => Kind::Mtls,
        Auth::Kubernetes => {
            Kind::Kubernetes { access: options.kubernetes.clone().unwrap_or_default(), audience }
        }
    };
    let (tokens, operators) = (&options.token_file, &options.operator_token_file);
    let gate = Gate::new(kind, listen, tokens.as_deref(), operators.as_deref());
    Ok((gate.map_err(|error| error.to_string())?, tls))
}

fn tls(options: &Options) -> Result<Option<Tls>, String> {
    let files = match (&options.tls_cert, &options.tls_key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => Files {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: options.client_ca.clone(),
        },
        _ => return Err("--tls-cert and --tls-key must be given together".to_owned()),
    };
    Tls::open(files).map(Some).map_err(|error| error.to_string())
}
