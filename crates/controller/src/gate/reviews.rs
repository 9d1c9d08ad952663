//! Tokens of ServiceAccounts, reviewed by the Kubernetes API, and what it said remembered for a while.
//!
//! A review names the pod and not its address, so the pod is looked up too.
//!
//! # Source
//! `authentication.k8s.io/v1` TokenReview; the names in `extra` are those of
//! `k8s.io/apiserver/pkg/authentication/serviceaccount`; `exp` is of RFC 7519 §4.1.4; `resourceVersion=0` is answered
//! from the API server's cache (<https://kubernetes.io/docs/reference/using-api/api-concepts/>).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::{Pod as Object, PodStatus};
use kube::Api;
use kube::api::{GetParams, PostParams};
use ring::digest::{SHA256, digest};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use crate::kubernetes::{self, Access};
use ebbtide_api::report::Identity;

/// How long a pod is believed: so long a token still counts that the cluster has revoked.
const ACCEPTED_FOR: Duration = Duration::from_secs(60);

/// How long a token is refused unasked.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// How long nobody asks about a token again when the API server gave no answer.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);

/// Tokens remembered, each a fingerprint and a pod's names and addresses: three times the default of --max-targets, because a
/// kubelet exchanges tokens.
const MAX_TOKENS: usize = 32_768;

/// Fewer than these are not looked through for what is stale.
const FEW_TOKENS: usize = 1024;

/// Reviews under way at once, each with a look at the pod: what a stranger with many tokens can do to the API server.
const MAX_REVIEWS: usize = 16;

/// How long a review may take, the wait for its turn included: a proxy gives a report up after three
/// seconds, and is better off with an answer that says why.
const PATIENCE: Duration = Duration::from_millis(2500);

/// A projected token is one kilobyte.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    namespace: String,
    name: String,
    uid: String,
    /// One, or one of each family.
    addresses: Vec<IpAddr>,
}

impl Pod {
    /// Whether a report that says so of itself is this pod's.
    pub(crate) fn is(&self, identity: &Identity) -> bool {
        self.namespace == identity.namespace
            && self.name == identity.pod_name
            && self.uid == identity.pod_uid
    }

    /// Whether the report's address is this pod's. A report without one claims none.
    pub(crate) fn has_address_of(&self, identity: &Identity) -> bool {
        let claimed = identity.pod_ip.parse::<IpAddr>();
        identity.pod_ip.is_empty()
            || claimed.is_ok_and(|claimed| self.addresses.contains(&claimed.to_canonical()))
    }
}

/// Why a token does not tell a pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the cluster does not accept this token for the audience `{audience}` ({reason}): mount a projected \
         serviceAccountToken with that audience and name its file in --controller-token-file"
    )]
    NotAuthenticated { audience: String, reason: String },
    #[error(
        "this token is bound to no pod: mount a projected serviceAccountToken into the pod; one from `kubectl \
         create token` or of a Secret will not do"
    )]
    NoPod,
    #[error(
        "the token can't be reviewed now ({reason}): try again; the controller's log says more"
    )]
    NotReviewed { reason: &'static str },
}

/// The cache that we were answered from does not have it yet, or it has just gone.
const UNKNOWN_POD: Refusal =
    Refusal::NotReviewed { reason: "the Kubernetes API knows no such pod" };

const NO_ADDRESS: Refusal =
    Refusal::NotReviewed { reason: "the Kubernetes API does not know this pod's address yet" };

type Verdict = Result<Pod, Refusal>;

/// What was last said of one token. The lock is held while it is reviewed.
#[derive(Debug, Default)]
struct Slot(tokio::sync::Mutex<Option<Kept>>);

#[derive(Clone, Debug)]
struct Kept {
    verdict: Verdict,
    until: Instant,
}

impl Slot {
    /// Whether it is in use, or says what `is_wanted`.
    fn is_kept(&self, is_wanted: impl Fn(&Kept) -> bool) -> bool {
        self.0.try_lock().map_or(true, |kept| kept.as_ref().is_some_and(is_wanted))
    }
}

/// SHA-256 of a token: what we remember cannot be shown to anybody as a token.
type Fingerprint = [u8; 32];

/// What was said of which token, of [`MAX_TOKENS`] at most.
#[derive(Debug)]
struct Memory {
    slots: HashMap<Fingerprint, Arc<Slot>>,
    /// With how many the stale ones are forgotten next.
    sweep_at: usize,
}

impl Memory {
    /// The place of a token; none when there are too many.
    fn slot(&mut self, fingerprint: Fingerprint) -> Option<Arc<Slot>> {
        if let Some(slot) = self.slots.get(&fingerprint) {
            return Some(Arc::clone(slot));
        }
        if self.slots.len() >= self.sweep_at {
            let now = Instant::now();
            self.slots.retain(|_, slot| slot.is_kept(|kept| kept.until > now));
            if self.slots.len() >= MAX_TOKENS {
                // Rather ask again about a stranger than forget a pod.
                self.slots.retain(|_, slot| slot.is_kept(|kept| kept.verdict.is_ok()));
            }
            self.sweep_at = (self.slots.len() * 2).clamp(FEW_TOKENS, MAX_TOKENS);
        }
        if self.slots.len() >= MAX_TOKENS {
            return None;
        }
        Some(Arc::clone(self.slots.entry(fingerprint).or_default()))
    }
}

/// Asks the cluster whose a token is.
pub(super) struct Reviews {
    access: Access,
    audience: String,
    /// Made when it is first needed, because it lives in the runtime that uses it.
    client: OnceCell<kube::Client>,
    memory: Mutex<Memory>,
    turns: Semaphore,
    /// What went wrong last, so that it is logged once.
    trouble: Mutex<Option<String>>,
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "reviews for {}", self.audience)
    }
}

impl Reviews {
    pub(super) fn new(access: Access, audience: String) -> Result<Self, kubernetes::Error> {
        access.check()?;
        Ok(Reviews {
            access,
            audience,
            client: OnceCell::new(),
            memory: Mutex::new(Memory { slots: HashMap::new(), sweep_at: FEW_TOKENS }),
            turns: Semaphore::new(MAX_REVIEWS),
            trouble: Mutex::new(None),
        })
    }

    /// The pod that `token` is bound to.
    ///
    /// # Cancel safety
    ///
    /// A review that is dropped is not remembered.
    pub(super) async fn pod(&self, token: &[u8]) -> Verdict {
        let text = std::str::from_utf8(token).ok().filter(|it| it.len() <= MAX_TOKEN_BYTES);
        let Some(token) = text else {
            return Err(self.not_authenticated("it is none"));
        };
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let slot = self.memory.lock().unwrap_or_else(PoisonError::into_inner).slot(fingerprint);
        let slot = slot.ok_or(Refusal::NotReviewed { reason: "there are too many tokens" })?;
        // Whoever comes with the same token in the meantime waits here, and finds the answer.
        let mut kept = slot.0.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.until > Instant::now()) {
            return kept.verdict.clone();
        }
        let verdict = match timeout(PATIENCE, self.ask(token)).await {
            Ok(verdict) => verdict,
            Err(_) => Err(self.failed("no answer in time".to_owned())),
        };
        let lasts = match &verdict {
            Ok(_) => ACCEPTED_FOR.min(left_of(token).unwrap_or(ACCEPTED_FOR)),
            Err(Refusal::NotReviewed { .. }) => UNKNOWN_FOR,
            Err(_) => REFUSED_FOR,
        };
        *kept = Some(Kept { verdict: verdict.clone(), until: Instant::now() + lasts });
        verdict
    }

    async fn ask(&self, token: &str) -> Verdict {
        let _turn = self.turns.acquire().await;
        let client = self.client.get_or_try_init(|| self.access.client()).await;
        let client = client.map_err(|error| self.failed(error.to_string()))?;
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![self.audience.clone()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| self.failed(explain(&error)))?;
        if self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!("the Kubernetes API reviews tokens again");
        }
        let mut pod = self.judge(answer.status.unwrap_or_default())?;
        pod.addresses = self.addresses(client, &pod).await?;
        Ok(pod)
    }

    async fn addresses(&self, client: &kube::Client, pod: &Pod) -> Result<Vec<IpAddr>, Refusal> {
        let pods: Api<Object> = Api::namespaced(client.clone(), &pod.namespace);
        let found = match pods.get_with(&pod.name, &GetParams::at("0")).await {
            Ok(found) => found,
            Err(kube::Error::Api(status)) if status.is_not_found() => return Err(UNKNOWN_POD),
            Err(error) => return Err(self.failed(explain(&error))),
        };
        if found.metadata.uid.as_ref() != Some(&pod.uid) {
            return Err(UNKNOWN_POD);
        }
        let addresses = addresses_of(&found.status.unwrap_or_default());
        // Kubelets tell it some moments after they have started the pod's containers.
        if addresses.is_empty() { Err(NO_ADDRESS) } else { Ok(addresses) }
    }

    fn judge(&self, status: TokenReviewStatus) -> Verdict {
        if status.authenticated != Some(true) {
            // What the API server says is not passed on: it may say more than a stranger should know.
            tracing::debug!(error = status.error.as_deref(), "a token is not authenticated");
            return Err(
                self.not_authenticated("wrong audience, expired, its pod gone, or no token")
            );
        }
        // An API server that knows nothing of audiences accepts a token for any of them.
        if !status.audiences.unwrap_or_default().contains(&self.audience) {
            return Err(self.not_authenticated("it is for another audience"));
        }
        bound_pod(&status.user.unwrap_or_default()).ok_or(Refusal::NoPod)
    }

    fn not_authenticated(&self, reason: &str) -> Refusal {
        Refusal::NotAuthenticated { audience: self.audience.clone(), reason: reason.to_owned() }
    }

    /// Logs what went wrong, if it is news.
    fn failed(&self, error: String) -> Refusal {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_ref() != Some(&error) {
            tracing::warn!(%error, "cannot review tokens; known ones count for a minute at most");
            *trouble = Some(error);
        }
        Refusal::NotReviewed { reason: "the Kubernetes API gives no answer" }
    }
}

fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if [401, 403].contains(&status.code) => format!(
            "{}; bind the controller's ServiceAccount to a ClusterRole that may create tokenreviews and get pods",
            status.message
        ),
        _ => error.to_string(),
    }
}

fn bound_pod(user: &k8s_openapi::api::authentication::v1::UserInfo) -> Option<Pod> {
    let account = user.username.as_deref()?.strip_prefix("system:serviceaccount:")?;
    let (namespace, _name) = account.split_once(':')?;
    let extra = user.extra.as_ref()?;
    let one = |key: &str| match extra.get(key)?.as_slice() {
        [value] if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    Some(Pod {
        namespace: namespace.to_owned(),
        name: one("authentication.kubernetes.io/pod-name")?,
        uid: one("authentication.kubernetes.io/pod-uid")?,
        addresses: Vec::new(),
    })
}

fn addresses_of(status: &PodStatus) -> Vec<IpAddr> {
    let all = status.pod_ips.iter().flatten().map(|it| it.ip.as_str());
    let all = all.chain(status.pod_ip.as_deref()).filter_map(|it| it.parse::<IpAddr>().ok());
    let mut all: Vec<IpAddr> = all.map(|it| it.to_canonical()).collect();
    all.dedup();
    all
}

/// How long a token that was found good still is, by its own claim; unknown if it makes none.
fn left_of(token: &str) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: u64,
    }
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Duration::from_secs(claims.exp).saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A memory that is asked about `count` tokens, each of which has `verdict`.
    fn filled(count: usize, verdict: &Verdict) -> Memory {
        let mut memory = Memory { slots: HashMap::new(), sweep_at: FEW_TOKENS };
        for number in 0..count {
            let mut fingerprint = [0; 32];
            fingerprint[..8].copy_from_slice(&number.to_le_bytes());
            let slot = memory.slot(fingerprint).expect("a place");
            let until = Instant::now() + ACCEPTED_FOR;
            *slot.0.try_lock().expect("free") = Some(Kept { verdict: verdict.clone(), until });
        }
        memory
    }

    #[test]
    fn no_more_tokens_are_remembered_than_the_bound() {
        let (name, uid, addresses) = ("a".into(), "1".into(), Vec::new());
        let pod = Pod { namespace: "shop".into(), name, uid, addresses };
        let mut pods = filled(MAX_TOKENS, &Ok(pod));
        assert!(pods.slot([255; 32]).is_none(), "pods are not forgotten for a stranger");
        let strangers = filled(2 * MAX_TOKENS, &Err(Refusal::NoPod));
        assert!(strangers.slots.len() <= MAX_TOKENS, "strangers make room");
    }
}
