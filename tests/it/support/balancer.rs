//! A balancer's adapter as the controller drives it: a configuration, orders, and what became of them.

use ebbtide::controller::balancer::{
    Action, Applied, Balancer, Config, Error, ErrorKind, Member, Order, Outcome,
};

/// An adapter and what it runs on.
pub struct Driven {
    runtime: tokio::runtime::Runtime,
    balancer: Box<dyn Balancer>,
}

impl Driven {
    /// The adapter that this YAML describes, as it stands below `balancer:`.
    pub fn new(yaml: &str) -> Self {
        let config: Config = serde_saphyr::from_str(yaml).expect("a balancer's configuration");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Driven {
            runtime: runtime.expect("a runtime"),
            balancer: config.build().expect("a balancer"),
        }
    }

    /// Carries out a batch.
    pub fn apply(&self, orders: &[Order]) -> Vec<Outcome> {
        let outcomes = self.runtime.block_on(self.balancer.apply(orders));
        assert_eq!(outcomes.len(), orders.len(), "one outcome for each order");
        outcomes
    }

    /// Carries out one order.
    pub fn does(&self, action: Action, member: &Member) -> Outcome {
        self.apply(&[order(action, member)]).remove(0)
    }
}

/// An order for this target.
pub fn order(action: Action, member: &Member) -> Order {
    Order { action, member: member.clone(), former_weight: None, issued_at: 1_763_800_000_000 }
}

/// What the balancer confirmed.
#[track_caller]
pub fn applied(outcome: Outcome) -> Applied {
    match outcome {
        Outcome::Applied(applied) => applied,
        other => panic!("not applied: {other:?}"),
    }
}

/// Why it failed; the message must contain each of `words`.
#[track_caller]
pub fn failed(outcome: Outcome, kind: ErrorKind, words: &[&str]) -> Error {
    let Outcome::Failed(error) = outcome else { panic!("not failed: {outcome:?}") };
    assert_eq!(error.kind, kind, "{error}");
    for word in words {
        assert!(error.message.contains(word), "`{word}` is not in: {error}");
    }
    error
}
