//! Drains that somebody asks for, and how many may go on at once.

use std::time::Instant;

use super::Table;
use crate::decide::Heard;
use crate::service::ServiceName;
use crate::view::{TargetId, TargetView};
use ebbtide_api::phase::Phase;
use ebbtide_api::report::Directive;

/// Why an operator's wish can't be fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WishError {
    #[error("no target `{0}`; GET /v1/targets lists them")]
    Unknown(String),
    #[error("`{0}` was told to leave by a signal: it can't serve again")]
    Leaves(String),
    #[error(
        "{draining} targets of its service drain already, and {allowed} may; try again when one has ended"
    )]
    Limit { draining: usize, allowed: usize },
}

struct Others {
    targets: usize,
    draining: usize,
}

impl Table {
    /// Lets a drain that was asked for go on if there is room for it.
    pub(super) fn weigh_permit(&mut self, id: &TargetId, now: Instant) {
        let Some(share) = self.rules.max_draining else {
            return;
        };
        let Some(entry) = self.targets.get(id) else {
            return;
        };
        if !entry.target.asks_leave() {
            return;
        }
        let others = self.draining_of(&entry.service, id, now);
        let granted = others.draining < share.of(others.targets + 1);
        if let Some(entry) = self.targets.get_mut(id) {
            entry.target.permit(granted);
        }
    }

    /// How many of `service` there are, and drain, apart from `id`.
    fn draining_of(&self, service: &ServiceName, id: &TargetId, now: Instant) -> Others {
        let fleet = self.fleet(service);
        let mut others = Others { targets: 0, draining: 0 };
        for (other, entry) in &self.targets {
            if other == id || entry.service != *service || entry.target.is_lost(fleet, now) {
                continue;
            }
            others.targets += usize::from(entry.target.heard().phase != Phase::Drained);
            others.draining += usize::from(entry.target.is_draining(now));
        }
        others
    }

    /// Asks a target to drain or to serve again, in its next answers.
    pub(crate) fn wish(
        &mut self,
        id: &str,
        directive: Directive,
        now: Instant,
    ) -> Result<(TargetId, TargetView), WishError> {
        let (id, entry) =
            self.targets.get_key_value(id).ok_or_else(|| WishError::Unknown(id.to_owned()))?;
        let id = id.clone();
        let Heard { phase, must_leave, .. } = entry.target.heard();
        if directive == Directive::Undrain && must_leave && phase != Phase::Serving {
            return Err(WishError::Leaves(id.to_string()));
        }
        if directive == Directive::Drain
            && phase == Phase::Serving
            && let Some(share) = self.rules.max_draining
        {
            let others = self.draining_of(&entry.service, &id, now);
            let allowed = share.of(others.targets + 1);
            if others.draining >= allowed {
                return Err(WishError::Limit { draining: others.draining, allowed });
            }
        }
        let there = match directive {
            Directive::Drain => phase != Phase::Serving,
            _ => phase == Phase::Serving,
        };
        let directive = if there { Directive::None } else { directive };
        if let Some(entry) = self.targets.get_mut(&id) {
            entry.target.wish(directive, now);
        }
        self.touch(&id);
        let view = self.get(id.as_str(), now);
        view.map(|view| (id.clone(), view)).ok_or(WishError::Unknown(id.to_string()))
    }
}
