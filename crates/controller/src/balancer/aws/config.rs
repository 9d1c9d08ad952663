//! What the operator says of target groups.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;

use hyper::Uri;
use serde::Deserialize;

use super::Elbv2;
use super::credentials::Provider;
use super::query::Service;
use crate::balancer::ConfigError;
use ebbtide_api::client::Client;

/// The part of the configuration that describes target groups.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The target groups, all of one region and of type `ip`.
    pub target_groups: Vec<TargetGroup>,
    /// Whether targets that serve are registered. Off by default: on EKS the AWS load balancer controller
    /// does that. Those that we have deregistered come back either way.
    #[serde(default)]
    pub register: bool,
    /// Where the API is, if not at the region's own endpoint.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Where STS is, if not at the region's own endpoint; only asked for web identities (IRSA).
    #[serde(default)]
    pub sts_endpoint: Option<String>,
    /// A PEM file with the certificates that vouch for the endpoints; without it the system's roots.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// A target group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TargetGroup {
    /// Its ARN.
    pub arn: String,
    /// The targets' port; needed where a target has several.
    #[serde(default)]
    pub port: Option<u16>,
}

impl Config {
    /// The adapter that this describes; credentials come from where `environment` says.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong and what it should be.
    pub fn build(self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Elbv2, ConfigError> {
        let wrong = |field: String, message: String| ConfigError {
            field: format!("aws-elbv2.{field}"),
            message,
        };
        let (region, suffix) = self.region().map_err(|(field, message)| wrong(field, message))?;
        let service = |field: &str, name, given: Option<&str>| {
            let default = format!("https://{name}.{region}.{suffix}");
            let text = given.unwrap_or(&default);
            let uri = text.parse::<Uri>().ok().filter(|uri| uri.authority().is_some());
            let no_url =
                || wrong(field.to_owned(), format!("`{text}` is no URL; write https://HOST"));
            let uri = uri.ok_or_else(no_url)?;
            let client = Client::new(&uri, self.ca.as_deref()).map_err(|error| {
                let field = if self.ca.is_some() { "ca" } else { field };
                wrong(field.to_owned(), error.to_string())
            })?;
            Ok(Service::new(client, &uri, name, &region))
        };
        let sts = || {
            service("sts-endpoint", "sts", self.sts_endpoint.as_deref())
                .map_err(|error: ConfigError| error.message)
        };
        let credentials = Provider::new(environment, sts)
            .map_err(|message| wrong("credentials".to_owned(), message))?;
        Ok(Elbv2 {
            service: service("endpoint", "elasticloadbalancing", self.endpoint.as_deref())?,
            credentials,
            groups: self.target_groups,
            register: self.register,
            removed: Mutex::default(),
        })
    }

    /// The region that all ARNs are of, and the domain of its partition.
    fn region(&self) -> Result<(String, &'static str), (String, String)> {
        let mut found: Option<(String, &'static str)> = None;
        let mut seen = HashSet::new();
        for (at, group) in self.target_groups.iter().enumerate() {
            let field = format!("target-groups[{at}].arn");
            let arn = &group.arn;
            let parts: Vec<_> = arn.split(':').collect();
            let ["arn", partition, "elasticloadbalancing", region, _, resource] = parts[..] else {
                return Err((
                    field,
                    format!(
                        "`{arn}` is no target group; write arn:aws:elasticloadbalancing:REGION:ACCOUNT:targetgroup/NAME/ID"
                    ),
                ));
            };
            let is_name =
                |text: &str| text.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-');
            if !resource.starts_with("targetgroup/") || region.is_empty() || !is_name(region) {
                return Err((
                    field,
                    format!("`{arn}` is no target group; its ARN ends in :targetgroup/NAME/ID"),
                ));
            }
            if !seen.insert(arn) {
                return Err((field, format!("{arn} is named twice")));
            }
            let suffix = if partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
            match &found {
                Some((first, _)) if first != region => {
                    return Err((
                        field,
                        format!("{arn} is not in {first}; run a controller for each region"),
                    ));
                }
                _ => found = Some((region.to_owned(), suffix)),
            }
        }
        let nothing =
            || ("target-groups".to_owned(), "name at least one, as `- arn: …`".to_owned());
        found.ok_or_else(nothing)
    }
}
