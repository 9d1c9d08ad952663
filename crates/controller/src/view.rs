//! A target as people and programs see it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::decide::{Fleet, Goal};
use super::service::ServiceName;
use super::table::Entry;
use ebbtide_api::report::{BalancerState, Directive, Identity, Report};

/// Names a target in a path: `namespace~podName~podUID`, each as the report had it.
///
/// A pod of a `StatefulSet` keeps its name but not its UID when it is made anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TargetId(Arc<str>);

impl TargetId {
    pub(super) fn of(identity: &Identity) -> Self {
        let Identity { namespace, pod_name, pod_uid, .. } = identity;
        TargetId(format!("{namespace}~{pod_name}~{pod_uid}").into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TargetId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Grows with every change of any target; each target has the one of its own last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u64);

impl Version {
    pub(super) fn next(self) -> Self {
        Version(self.0 + 1)
    }
}

/// A target as `GET /v1/targets` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetView {
    /// Its name in paths.
    pub id: String,
    /// The service that it is one of.
    pub service: String,
    /// How long ago it reported.
    pub age_seconds: f64,
    /// Whether it is gone: silent for too long, and not to be found either.
    pub lost: bool,
    /// Whether its drain waits because enough others of its service drain.
    pub waiting: bool,
    /// What the balancer has applied for it.
    pub balancer: BalancerState,
    /// What the balancer should be doing: `registered`, `weightZero`, `deregistered`; `hold`, when it is silent and
    /// nobody can tell that it is gone, or so many fell silent at once that nothing is done about this one; or
    /// `awaitsApplication`, when it is left as it is until its application takes connections.
    pub goal: String,
    /// What the balancer is being told at this moment.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub order: Option<String>,
    /// What an operator wished and the proxy has not heard yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub directive: Option<Directive>,
    /// The last failure at the balancer, until something succeeds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<TroubleView>,
    /// Sessions that the balancer had with it when it last confirmed something.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sessions: Option<u64>,
    /// Connections that kept its drain from ending, from the drain's beginning to now.
    pub fall: Vec<u32>,
    /// Seconds until its deadline, below zero after it; absent while serving.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deadline_in_seconds: Option<f64>,
    /// What it reported last.
    pub report: Report,
}

/// A failure at the balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TroubleView {
    /// What was tried.
    pub action: String,
    /// The sort of failure: `timeout`, `unreachable`, `throttled`, `denied`, `unknown_target`, `refused`.
    pub kind: String,
    /// What happened and what to do about it.
    pub message: String,
    /// In a row.
    pub failures: u32,
}

impl TargetView {
    pub(super) fn of(
        id: &TargetId,
        entry: &Entry,
        service: &ServiceName,
        fleet: Fleet,
        now: Instant,
    ) -> Self {
        let target = &entry.target;
        TargetView {
            id: id.to_string(),
            service: service.name().to_owned(),
            age_seconds: now.saturating_duration_since(target.heard_at()).as_secs_f64(),
            lost: target.is_lost(fleet, now),
            waiting: target.waits(),
            balancer: target.balancer(now),
            goal: goal_name(target.goal(fleet, now)).to_owned(),
            order: target.under_way().map(|action| action.name().to_owned()),
            directive: target.wished(now),
            trouble: target.trouble().map(|trouble| TroubleView {
                action: trouble.action.name().to_owned(),
                kind: trouble.error.kind.name().to_owned(),
                message: trouble.error.message.clone(),
                failures: trouble.failures,
            }),
            sessions: entry.sessions,
            fall: entry.fall.points().to_vec(),
            deadline_in_seconds: target.heard().deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(now).as_secs_f64();
                left - now.saturating_duration_since(deadline).as_secs_f64()
            }),
            report: entry.report.clone(),
        }
    }
}

fn goal_name(goal: Goal) -> &'static str {
    match goal {
        Goal::Hold => "hold",
        Goal::AwaitsApplication => "awaitsApplication",
        Goal::Registered => "registered",
        Goal::WeightZero => "weightZero",
        Goal::Deregistered => "deregistered",
    }
}
