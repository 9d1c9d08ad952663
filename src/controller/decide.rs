//! What a report means for a target's place at the balancer. Pure: values in, values out.

use super::balancer::Action;
use crate::api::report::{Answer, BalancerState, Directive, Report};

/// What follows from a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the proxy is answered, once the actions are applied.
    pub answer: Answer,
    /// What the balancer is told, in this order.
    pub actions: Vec<Action>,
}

/// What follows from `report` of a target for which the balancer has applied `applied` so far.
///
/// Idempotent: the same report again, with the state that it led to, asks for nothing. A target that
/// is met for the first time is taken for registered, because its balancer knows it from elsewhere.
/// None when the phase is not one that we know.
///
/// A target is deregistered at `Drained` only. A count of zero before that may be a moment between
/// two connections that the balancer still sends; the proxy knows when it is over.
#[must_use]
pub fn decide(applied: BalancerState, report: &Report) -> Option<Decision> {
    use BalancerState::{Deregistered, Pending, WeightZero};

    let (balancer, actions) = match (report.phase.as_str(), applied) {
        ("Serving", Pending) => (Pending, vec![]),
        ("Serving", WeightZero | Deregistered) => (Pending, vec![Action::Register]),
        ("LameDuck" | "Draining" | "Closing", Pending) => (WeightZero, vec![Action::WeightZero]),
        ("LameDuck" | "Draining" | "Closing", WeightZero | Deregistered) => (applied, vec![]),
        ("Drained", Pending | WeightZero) => (Deregistered, vec![Action::Deregister]),
        ("Drained", Deregistered) => (Deregistered, vec![]),
        _ => return None,
    };
    Some(Decision {
        answer: Answer { sequence: report.sequence, balancer, directive: Directive::None },
        actions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::report;

    /// Leads a new target through `phases`; what was done after each, and what it then was.
    fn walk(phases: &[&str]) -> Vec<(Vec<Action>, BalancerState)> {
        let mut applied = BalancerState::Pending;
        phases
            .iter()
            .map(|phase| {
                let decision = decide(applied, &report("a", 1, phase)).expect("a phase");
                applied = decision.answer.balancer;
                (decision.actions, applied)
            })
            .collect()
    }

    #[test]
    fn a_drain_is_weight_zero_and_then_one_deregistration() {
        use BalancerState::{Deregistered, Pending, WeightZero};
        let steps = walk(&["Serving", "LameDuck", "Draining", "Closing", "Drained", "Drained"]);
        let expected = [
            (vec![], Pending),
            (vec![Action::WeightZero], WeightZero),
            (vec![], WeightZero),
            (vec![], WeightZero),
            (vec![Action::Deregister], Deregistered),
            (vec![], Deregistered),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_drain_whose_beginning_was_missed_still_ends_in_deregistration() {
        assert_eq!(walk(&["Drained"])[0].0, [Action::Deregister]);
    }

    #[test]
    fn an_undrained_target_is_registered_and_can_drain_again() {
        use Action::{Deregister, Register, WeightZero};
        let steps = walk(&["Draining", "Serving", "Serving", "Drained", "Serving", "Drained"]);
        let actions: Vec<Action> = steps.into_iter().flat_map(|step| step.0).collect();
        assert_eq!(actions, [WeightZero, Register, Deregister, Register, Deregister]);
    }

    #[test]
    fn no_connections_are_not_yet_the_end_of_a_drain() {
        let mut report = report("a", 7, "Draining");
        report.drain_blocking_connections = 0;
        let decision = decide(BalancerState::Pending, &report).expect("a phase");
        assert_eq!(decision.actions, [Action::WeightZero]);
        assert_eq!(decision.answer.sequence, 7);
    }

    #[test]
    fn an_unknown_phase_decides_nothing() {
        assert_eq!(decide(BalancerState::Pending, &report("a", 1, "Asleep")), None);
    }
}
