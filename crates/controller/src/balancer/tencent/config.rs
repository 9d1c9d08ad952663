//! What the operator says of a CLB.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use serde::Deserialize;

use super::TencentClb;
use super::api::Api;
use super::credentials::Source;
use super::pace::Pace;
use super::plan::Listener;
use crate::balancer::ConfigError;
use ebbtide_api::client::{self, Client};

/// The service allows twenty requests in a second to all users of an account: five are left to them.
const REQUEST_INTERVAL: Duration = Duration::from_millis(1000 / 15);

/// A weight is between 0 and this.
const MAX_WEIGHT: u32 = 100;

/// The part of the configuration that describes a CLB.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The region, such as `ap-guangzhou`.
    pub region: String,
    /// The load balancer, such as `lb-1234abcd`.
    pub load_balancer_id: String,
    /// The listeners to which targets are bound.
    pub listeners: Vec<ListenerConfig>,
    /// The weight of a target whose former one nobody knows, 1 to 100.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Where the API is, if not at `https://clb.tencentcloudapi.com`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// A PEM file with the certificates that vouch for the endpoint; without it the system's roots.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// A file with `secret_id = …`, `secret_key = …` and perhaps `token = …`, read before every request;
    /// without it `TENCENTCLOUD_SECRET_ID`, `TENCENTCLOUD_SECRET_KEY` and `TENCENTCLOUD_TOKEN`.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
}

/// A listener to which targets are bound.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ListenerConfig {
    /// Its id, such as `lbl-1234abcd`.
    pub id: String,
    /// Of an HTTP listener, the rules, such as `loc-1234abcd`; without them, all of its rules.
    #[serde(default)]
    pub locations: Vec<String>,
    /// The targets' port; needed where a target has several.
    #[serde(default)]
    pub port: Option<u16>,
}

fn default_weight() -> u32 {
    // CLB's own default.
    10
}

impl Config {
    /// The adapter that this describes.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong and what it should be.
    pub(in crate::balancer) fn build(self) -> Result<TencentClb, ConfigError> {
        let wrong = |field: &str, message: String| {
            Err(ConfigError { field: format!("tencent-clb.{field}"), message })
        };
        let Some(region) = header_value(&self.region) else {
            return wrong("region", "write a region such as ap-guangzhou".to_owned());
        };
        if !self.load_balancer_id.starts_with("lb-") {
            let message = format!("`{}` is no load balancer; write lb-…", self.load_balancer_id);
            return wrong("load-balancer-id", message);
        }
        if self.listeners.is_empty() {
            return wrong("listeners", "name at least one, as `- id: lbl-…`".to_owned());
        }
        for (at, listener) in self.listeners.iter().enumerate() {
            if !listener.id.starts_with("lbl-") {
                let message = format!("`{}` is no listener; write lbl-…", listener.id);
                return wrong(&format!("listeners[{at}].id"), message);
            }
            if self.listeners[..at].iter().any(|earlier| earlier.id == listener.id) {
                let message =
                    format!("{} is named twice; give it all its locations at once", listener.id);
                return wrong(&format!("listeners[{at}].id"), message);
            }
        }
        if !(1..=MAX_WEIGHT).contains(&self.weight) {
            return wrong("weight", format!("{} is no weight; write 1 to 100", self.weight));
        }
        let endpoint = self.endpoint.as_deref().unwrap_or("https://clb.tencentcloudapi.com");
        let Some(uri) = endpoint.parse::<Uri>().ok().filter(|uri| uri.authority().is_some()) else {
            return wrong("endpoint", format!("`{endpoint}` is no URL; write https://HOST"));
        };
        let client = match Client::new(&uri, self.ca.as_deref()) {
            Ok(client) => client,
            Err(error @ client::Error::Base { .. }) => return wrong("endpoint", error.to_string()),
            Err(error) => return wrong("ca", certificates(&error)),
        };
        let api = Api {
            client,
            host: uri.authority().map_or_else(String::new, |it| it.as_str().to_owned()),
            region,
            load_balancer_id: self.load_balancer_id,
            credentials: self.credentials_file.map_or(Source::Environment, Source::File),
            pace: Pace::new(REQUEST_INTERVAL),
        };
        let listener =
            |it: ListenerConfig| Listener { id: it.id, locations: it.locations, port: it.port };
        Ok(TencentClb {
            api,
            listeners: self.listeners.into_iter().map(listener).collect(),
            weight: self.weight,
            former: Mutex::default(),
        })
    }
}

fn header_value(text: &str) -> Option<HeaderValue> {
    let is_name =
        !text.is_empty() && text.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-');
    is_name.then(|| HeaderValue::from_str(text).ok()).flatten()
}

fn certificates(error: &client::Error) -> String {
    match error {
        client::Error::Ca { path, source, .. } => {
            format!("cannot read the certificates in {}: {source}; give a PEM file", path.display())
        }
        client::Error::EmptyCa { path, .. } => {
            format!("there is no certificate in {}; give a PEM file", path.display())
        }
        client::Error::NoRoots { .. } => {
            "this system has no root certificates; give a PEM file".to_owned()
        }
        other => other.to_string(),
    }
}
