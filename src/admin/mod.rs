//! The proxy's endpoints: to look at from the pod's network, to change things from loopback only.

mod control;
mod history;
mod hooks;
mod pages;
mod view;

use std::time::Duration;

pub use history::History;
pub use view::View;

use crate::api::serve::{Router, origin};

/// What `/readyz` says once a drain has begun.
///
/// # Source
/// docs/defaults.md: failing readiness takes the pod out of some balancers altogether, streams and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadinessOnDrain {
    /// Ready until the process ends.
    #[default]
    Keep,
    /// Not ready once new connections are rejected.
    FailAfterDelay,
    /// Not ready from the drain's start.
    FailNow,
}

/// What the admin endpoints promise to those who ask.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    /// What `/readyz` says while draining.
    pub readiness_on_drain: ReadinessOnDrain,
    /// How long `/hooks/wait` waits for a drain to begin.
    pub wait_for_drain: Duration,
}

/// What is served on the pod's address: nothing here changes anything.
#[must_use]
pub fn admin_routes(view: &View) -> Router {
    let router = Router::new();
    let router = pages::routes(router, view);
    hooks::routes(router, view)
}

/// What is served on loopback only. Loopback keeps strangers out, but no browser on the same host: what one may
/// send for a page from elsewhere is refused.
#[must_use]
pub fn control_routes(view: &View) -> Router {
    let router = Router::new().gated(origin::refuse_foreign);
    let router = pages::status_route(router, view);
    let router = hooks::routes(router, view);
    control::routes(router, view)
}
