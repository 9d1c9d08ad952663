//! TKE: the weight goes through an annotation of the pod, because the listeners belong to TKE's own
//! service controller, which undoes what others change there.
//!
//! What the pod was before is kept on the pod, in annotations of ours: so neither a restart of the
//! controller nor a second replica loses the former weight, and an order that comes twice finds what
//! the first one did.

use ebbtide_api::error_chain;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::{
    Action, Applied, Applying, Balancer, ConfigError, Error, ErrorKind, Limits, Order, Outcome,
};
use crate::kubernetes::{self, Access};

/// When we set the weight to zero, in RFC 3339: what `applied-after` counts from.
const SINCE: &str = "ebbtide.io/weight-zero-since";

/// The custom weights that the pod had before, as JSON; `null` for one that it did not have.
const FORMER: &str = "ebbtide.io/former-weights";

/// One read and one patch, each of which the API server answers in milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// When to look again after somebody else has changed the pod between our read and our patch.
const CONFLICT_RETRY: Duration = Duration::from_millis(500);

/// The part of the configuration that describes a TKE cluster.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// Whose weights are set: those of the service controller, of the ingress controller, or of both.
    pub weights: Vec<Weight>,
    /// How long TKE takes to carry an annotation to the CLB, such as `10s`. Nobody confirms it.
    #[serde(with = "humantime_text")]
    pub applied_after: Duration,
    /// Where the Kubernetes API is, if not where kubectl or the pod finds it.
    pub kubernetes: Access,
}

/// A controller of TKE's that reads custom weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// `service.cloud.tencent.com/custom-weight`, from service controller 2.4.0 on.
    Service,
    /// `ingress.cloud.tencent.com/custom-weight`, from ingress controller 2.6.0 on.
    Ingress,
}

impl Weight {
    fn annotation(self) -> &'static str {
        match self {
            Weight::Service => "service.cloud.tencent.com/custom-weight",
            Weight::Ingress => "ingress.cloud.tencent.com/custom-weight",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            weights: vec![Weight::Service, Weight::Ingress],
            // A watch event, and a task of CLB's of one to five seconds.
            applied_after: Duration::from_secs(10),
            kubernetes: Access::default(),
        }
    }
}

mod humantime_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        let wrong =
            |_| de::Error::custom(format!("`{text}` is no duration; write 1500ms, 10s or 5m"));
        humantime::parse_duration(&text).map_err(wrong)
    }
}

impl Config {
    /// The adapter that this describes.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong and what it should be.
    pub(super) fn build(self) -> Result<Tke, ConfigError> {
        if self.weights.is_empty() {
            let message = "name service, ingress or both".to_owned();
            return Err(ConfigError { field: "tke.weights".to_owned(), message });
        }
        if let Err(error) = self.kubernetes.check() {
            let (field, message) = match error {
                kubernetes::Error::Field { field, message } => (format!(".{field}"), message),
                other => (String::new(), other.to_string()),
            };
            return Err(ConfigError { field: format!("tke.kubernetes{field}"), message });
        }
        Ok(Tke { config: self, client: OnceCell::new() })
    }
}

/// The pods of a TKE cluster.
pub struct Tke {
    config: Config,
    /// Made when it is first needed, because it lives in the runtime that uses it.
    client: OnceCell<kube::Client>,
}

impl Balancer for Tke {
    fn name(&self) -> &'static str {
        "tke"
    }

    fn limits(&self) -> Limits {
        Limits {
            // There is no batch of patches; calls run side by side instead.
            max_batch: 1,
            max_calls: 8,
            // Two requests each at most: what Kubernetes' own controllers allow themselves.
            calls_per_second: 50.0,
            timeout: Duration::from_secs(10),
        }
    }

    fn apply<'a>(&'a self, orders: &'a [Order]) -> Applying<'a> {
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(orders.len());
            for order in orders {
                outcomes.push(self.carry_out(order).await.unwrap_or_else(Outcome::Failed));
            }
            outcomes
        })
    }
}

impl Tke {
    async fn carry_out(&self, order: &Order) -> Result<Outcome, Error> {
        let member = &order.member;
        if member.namespace.is_empty() || member.pod_uid.is_empty() {
            let message = format!(
                "{member} reports no namespace or UID; give its proxy POD_NAMESPACE and POD_UID"
            );
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let client = self.client.get_or_try_init(|| self.config.kubernetes.client()).await;
        let client = client.map_err(|error| Error::new(ErrorKind::Denied, error.to_string()))?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &member.namespace);
        let read = in_time("reading", order, pods.get_metadata(&member.pod_name)).await;
        let pod = match read {
            Ok(pod) if pod.metadata.uid.as_deref() == Some(member.pod_uid.as_str()) => pod.metadata,
            Ok(_) => return gone(order, "there is another pod of that name"),
            Err(Trouble::NotFound) => return gone(order, "there is no such pod"),
            Err(Trouble::Conflict) => return Ok(Outcome::NotYet(CONFLICT_RETRY)),
            Err(Trouble::Failed(error)) => return Err(error),
        };
        let Some(annotations) = self.wanted(order.action, &pod) else {
            return Ok(self.settled(order.action, &pod));
        };
        // The UID and the version are preconditions: a namesake, or somebody else's change, is a conflict.
        let patch = json!({ "metadata": {
            "uid": pod.uid, "resourceVersion": pod.resource_version, "annotations": annotations,
        }});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let patched = pods.patch_metadata(&member.pod_name, &params, &patch);
        match in_time("patching", order, patched).await {
            Ok(pod) => Ok(self.settled(order.action, &pod.metadata)),
            Err(Trouble::NotFound) => gone(order, "it has just gone"),
            Err(Trouble::Conflict) => Ok(Outcome::NotYet(CONFLICT_RETRY)),
            Err(Trouble::Failed(error)) => Err(error),
        }
    }

    /// The annotations to be changed, if any: `null` removes one.
    fn wanted(&self, action: Action, pod: &ObjectMeta) -> Option<Map<String, Value>> {
        let names = self.config.weights.iter().map(|it| it.annotation());
        let mut wanted = Map::new();
        if action == Action::Register {
            let former = former(pod)?;
            for name in names {
                wanted.insert(name.to_owned(), former.get(name).cloned().unwrap_or_default());
            }
            wanted.insert(FORMER.to_owned(), Value::Null);
            wanted.insert(SINCE.to_owned(), Value::Null);
            return Some(wanted);
        }
        // Deregistration is TKE's, when the pod goes; until then it must have no weight.
        let is_zero = names.clone().all(|name| annotation(pod, name) == Some("0"));
        if is_zero && since(pod).is_some() {
            return None;
        }
        if former(pod).is_none() {
            let former: BTreeMap<_, _> =
                names.clone().map(|it| (it, annotation(pod, it))).collect();
            let text = serde_json::to_string(&former).unwrap_or_default();
            wanted.insert(FORMER.to_owned(), text.into());
        }
        wanted.extend(names.map(|name| (name.to_owned(), "0".into())));
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        wanted.insert(SINCE.to_owned(), now.into());
        Some(wanted)
    }

    /// What became of an order for which the pod needs no change any more.
    fn settled(&self, action: Action, pod: &ObjectMeta) -> Outcome {
        if action != Action::WeightZero {
            return Applied::default().into();
        }
        // A clock that was set back makes it wait the whole time again, not longer.
        let elapsed = since(pod).and_then(|since| since.elapsed().ok()).unwrap_or_default();
        match self.config.applied_after.checked_sub(elapsed) {
            Some(remaining) if !remaining.is_zero() => Outcome::NotYet(remaining),
            _ => Applied { former_weight: former_weight(pod), ..Applied::default() }.into(),
        }
    }
}

fn annotation<'a>(pod: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    pod.annotations.as_ref()?.get(name).map(String::as_str)
}

fn since(pod: &ObjectMeta) -> Option<SystemTime> {
    humantime::parse_rfc3339(annotation(pod, SINCE)?).ok()
}

fn former(pod: &ObjectMeta) -> Option<Map<String, Value>> {
    serde_json::from_str(annotation(pod, FORMER)?).ok()
}

fn former_weight(pod: &ObjectMeta) -> Option<u32> {
    let former = former(pod)?;
    former.values().filter_map(|it| it.as_str()?.parse().ok()).filter(|weight| *weight > 0).max()
}

/// The pod that was meant is not there.
fn gone(order: &Order, how: &str) -> Result<Outcome, Error> {
    match order.action {
        // TKE unbinds a pod that goes.
        Action::Deregister => Ok(Applied::default().into()),
        _ => {
            let Order { member, .. } = order;
            let message = format!(
                "{member} with the UID {} is not in the cluster: {how}; look whether this controller \
                 is in the same cluster as the pod",
                member.pod_uid
            );
            Err(Error::new(ErrorKind::UnknownTarget, message))
        }
    }
}

/// Why a request to the API server did not do what it should.
enum Trouble {
    NotFound,
    Conflict,
    Failed(Error),
}

async fn in_time<T>(
    doing: &str,
    order: &Order,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Trouble> {
    let what = format!("{doing} pod {}", order.member);
    let Ok(result) = timeout(REQUEST_TIMEOUT, request).await else {
        let message =
            format!("{what}: the Kubernetes API does not answer within {REQUEST_TIMEOUT:?}");
        return Err(Trouble::Failed(Error::new(ErrorKind::Timeout, message)));
    };
    result.map_err(|error| classify(&what, &error))
}

fn classify(what: &str, error: &kube::Error) -> Trouble {
    let kube::Error::Api(status) = error else {
        let message = format!(
            "{what}: {}; look whether the Kubernetes API can be reached",
            error_chain(error)
        );
        return Trouble::Failed(Error::new(ErrorKind::Unreachable, message));
    };
    let (kind, advice) = match status.code {
        404 => return Trouble::NotFound,
        409 => return Trouble::Conflict,
        401 => (ErrorKind::Denied, "the token is wrong or over"),
        403 => (
            ErrorKind::Denied,
            "allow the service account get and patch of pods, as docs/balancers.md says",
        ),
        429 => (ErrorKind::Throttled, "it is tried again more slowly"),
        500.. => (ErrorKind::Unreachable, "it is tried again"),
        _ => (ErrorKind::Refused, "it is tried again"),
    };
    let mut failed = Error::new(kind, format!("{what}: {} ({advice})", status.message));
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    failed.retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
    Trouble::Failed(failed)
}
