//! `tencent-clb` against a local CLB that verifies every signature by Tencent's own SDK.

use std::net::Ipv4Addr;

use ebbtide::controller::balancer::{Action, Applied, Balancer, ErrorKind, Member, Order, Outcome};
use serde_json::{Value, json};

use super::{Service, apply, apply_one, balancer, expect_failure, member, order};
use crate::support::Directory;

/// A CLB with some listeners, and what drives it.
struct Clb {
    service: Service,
    /// Holds the file of credentials.
    dir: Directory,
}

fn target(last: u8, weight: u32) -> Value {
    let ip = format!("10.0.0.{last}");
    json!({"Type": "ENI", "InstanceId": "", "Port": 8080, "Weight": weight, "PrivateIpAddresses": [ip]})
}

fn pod(last: u8) -> Member {
    member(&format!("chat-{last}"), Ipv4Addr::new(10, 0, 0, last), 8080)
}

impl Clb {
    /// A TCP listener and an HTTP one with a rule; `targets` are bound to both, if they are numbers of
    /// addresses.
    fn start(targets: impl Iterator<Item = u8>) -> Self {
        let service = Service::start("tencent_clb.py");
        let dir = Directory::new();
        let targets: Vec<_> = targets.map(|last| target(last, u32::from(last) % 90 + 1)).collect();
        service.control(&json!({
            "keys": {"AKIDtest": {"key": "secret"}, "AKIDother": {"key": "other", "token": "temporary"}},
            "polls": 2,
            "listeners": {
                "lbl-tcp": {"Rules": null, "Targets": targets},
                "lbl-http": {"Rules": [{"LocationId": "loc-1", "Domain": "", "Url": "/", "Targets": targets}], "Targets": null},
            },
        }));
        let clb = Clb { service, dir };
        clb.credentials("secret_id = AKIDtest\nsecret_key = secret\n");
        clb
    }

    fn credentials(&self, text: &str) {
        std::fs::write(self.dir.path().join("credentials"), text).expect("written");
    }

    fn balancer(&self) -> Box<dyn Balancer> {
        self.balancer_with("lb-test", "[{id: lbl-tcp}, {id: lbl-http, locations: [loc-1]}]")
    }

    fn balancer_with(&self, load_balancer: &str, listeners: &str) -> Box<dyn Balancer> {
        let file = self.dir.path().join("credentials");
        balancer(&format!(
            "tencent-clb:\n  region: ap-test\n  load-balancer-id: {load_balancer}\n  listeners: {listeners}\n  \
             endpoint: {}\n  credentials-file: {}\n",
            self.service.url(),
            file.display()
        ))
    }

    fn fault(&self, fault: &Value) {
        self.service.control(&json!({"faults": [fault]}));
    }

    fn listeners(&self) -> Value {
        self.service.control(&json!({}))["listeners"].take()
    }

    fn weights(&self, last: u8) -> [Option<u64>; 2] {
        weights(&self.listeners(), last)
    }

    /// How often the service was asked for `action`.
    fn count(&self, action: &str) -> usize {
        let requests = self.service.control(&json!({}))["requests"].take();
        requests.as_array().into_iter().flatten().filter(|it| it[0] == action).count()
    }
}

/// The weights of the target at the TCP listener and at the rule; absent if it is not bound.
fn weights(listeners: &Value, last: u8) -> [Option<u64>; 2] {
    let ip = format!("10.0.0.{last}");
    let weight = |targets: &Value| {
        let mut targets = targets.as_array().into_iter().flatten();
        targets.find(|it| it["PrivateIpAddresses"][0] == ip)?["Weight"].as_u64()
    };
    [&listeners["lbl-tcp"]["Targets"], &listeners["lbl-http"]["Rules"][0]["Targets"]].map(weight)
}

fn applied(former_weight: Option<u32>) -> Outcome {
    Applied { former_weight, ..Applied::default() }.into()
}

#[test]
fn a_target_goes_to_zero_and_comes_back_or_leaves() {
    let clb = Clb::start([36, 7].into_iter());
    let balancer = clb.balancer();
    let (leaving, other) = (pod(36), clb.weights(7));
    assert_eq!(clb.weights(36), [Some(37), Some(37)]);
    assert_eq!(apply_one(&*balancer, Action::WeightZero, &leaving), applied(Some(37)));
    assert_eq!(clb.weights(36), [Some(0), Some(0)], "read back means that it is so");
    assert!(clb.count("DescribeTaskStatus") >= 3, "the task was waited for");

    // Every order may come twice.
    assert_eq!(apply_one(&*balancer, Action::WeightZero, &leaving), applied(Some(37)));
    assert_eq!(clb.count("BatchModifyTargetWeight"), 1, "and then there is nothing to change");

    assert_eq!(apply_one(&*balancer, Action::Register, &leaving), applied(None));
    assert_eq!(clb.weights(36), [Some(37), Some(37)], "the former weight, not the default");

    assert!(matches!(apply_one(&*balancer, Action::WeightZero, &leaving), Outcome::Applied(_)));
    for _ in 0..2 {
        assert_eq!(apply_one(&*balancer, Action::Deregister, &leaving), applied(None));
        assert_eq!(clb.weights(36), [None, None]);
    }
    assert_eq!(clb.count("BatchDeregisterTargets"), 1);

    // Another controller's replica, which has not seen the former weight itself, is told.
    let mut register = order(Action::Register, &leaving);
    register.former_weight = Some(37);
    assert_eq!(apply(&*clb.balancer(), &[register]), [applied(None)]);
    assert_eq!(clb.weights(36), [Some(37), Some(37)]);
    assert_eq!(clb.weights(7), other, "nobody else was touched");
}

#[test]
fn a_target_that_is_not_bound_is_never_acknowledged_as_weight_zero() {
    let clb = Clb::start([1].into_iter());
    let outcome = apply_one(&*clb.balancer(), Action::WeightZero, &pod(2));
    expect_failure(&outcome, ErrorKind::UnknownTarget, "look at load-balancer-id, listeners");
    assert_eq!(apply_one(&*clb.balancer(), Action::Deregister, &pod(2)), applied(None));
    let wrong = [
        ("lb-other", "[{id: lbl-tcp}]", "look at load-balancer-id"),
        ("lb-test", "[{id: lbl-gone}]", "listener lbl-gone is not there"),
        ("lb-test", "[{id: lbl-http, locations: [loc-9]}]", "location loc-9 is not there"),
    ];
    for (load_balancer, listeners, what) in wrong {
        let balancer = clb.balancer_with(load_balancer, listeners);
        for action in [Action::WeightZero, Action::Deregister] {
            expect_failure(&apply_one(&*balancer, action, &pod(1)), ErrorKind::Refused, what);
        }
    }
    assert_eq!(clb.weights(1), [Some(2), Some(2)]);
}

#[test]
fn of_a_batch_that_is_half_applied_each_order_hears_its_own_outcome() {
    let clb = Clb::start(1..=200);
    let balancer = clb.balancer_with("lb-test", "[{id: lbl-tcp}]");
    clb.fault(&json!({"action": "BatchModifyTargetWeight", "half": true}));
    let mut orders: Vec<Order> =
        (1..=200).map(|last| order(Action::WeightZero, &pod(last))).collect();
    orders.push(order(Action::WeightZero, &pod(201)));
    let outcomes = apply(&*balancer, &orders);
    let listeners = clb.listeners();
    for (last, outcome) in (1..=200).zip(&outcomes) {
        match weights(&listeners, last)[0] {
            Some(0) => assert!(matches!(outcome, Outcome::Applied(_)), "{last}: {outcome:?}"),
            _ => expect_failure(outcome, ErrorKind::Refused, "some targets could not be changed"),
        }
    }
    let done = outcomes.iter().filter(|it| matches!(it, Outcome::Applied(_))).count();
    assert_eq!(done, 100);
    expect_failure(&outcomes[200], ErrorKind::UnknownTarget, "bound to none");

    // The second try does the rest.
    let outcomes = apply(&*balancer, &orders);
    assert_eq!(outcomes.iter().filter(|it| matches!(it, Outcome::Applied(_))).count(), 200);

    // Deregistration tells the listeners that failed.
    clb.fault(&json!({"action": "BatchDeregisterTargets", "listeners": ["lbl-http"]}));
    let both = clb.balancer();
    let outcome = apply_one(&*both, Action::Deregister, &pod(1));
    expect_failure(&outcome, ErrorKind::Refused, "lbl-http refused: the listener is being changed");
    assert_eq!(clb.weights(1)[0], None);
    assert_eq!(apply_one(&*both, Action::Deregister, &pod(1)), applied(None));
}

#[test]
fn what_the_service_refuses_is_told_with_what_to_do() {
    let clb = Clb::start([1].into_iter());
    let balancer = clb.balancer();
    let cases = [
        ("DescribeTargets", "RequestLimitExceeded", ErrorKind::Throttled, "more slowly"),
        ("BatchModifyTargetWeight", "RequestLimitExceeded", ErrorKind::Throttled, "more slowly"),
        ("DescribeTaskStatus", "InternalError", ErrorKind::Refused, "tried again"),
        (
            "BatchModifyTargetWeight",
            "ResourceNotFound",
            ErrorKind::Refused,
            "look at load-balancer-id",
        ),
        (
            "BatchModifyTargetWeight",
            "InvalidParameterValue.Range",
            ErrorKind::Refused,
            "the configuration of tencent-clb",
        ),
        ("DescribeTargets", "AuthFailure.SignatureExpire", ErrorKind::Denied, "clock"),
    ];
    for (action, code, kind, what) in cases {
        clb.service.control(&json!({"tasks": {}}));
        clb.fault(&json!({"action": action, "code": code}));
        expect_failure(&apply_one(&*balancer, Action::WeightZero, &pod(1)), kind, what);
    }
    clb.service.control(&json!({"tasks": {}}));
    clb.fault(&json!({"action": "BatchModifyTargetWeight", "code": "FailedOperation.ResourceInOperating"}));
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod(1));
    assert!(matches!(outcome, Outcome::NotYet(_)), "somebody else is at it: {outcome:?}");
    clb.service.control(
        &json!({"keys": {"AKIDtest": {"key": "secret", "denied": ["BatchModifyTargetWeight"]}}}),
    );
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod(1));
    expect_failure(&outcome, ErrorKind::Denied, "allow the key the actions");
    assert_eq!(clb.weights(1), [Some(2), Some(2)], "nothing was done, and nothing was claimed");
}

#[test]
fn credentials_are_read_anew_and_never_shown() {
    let clb = Clb::start([1].into_iter());
    let balancer = clb.balancer();
    for (text, what) in [
        ("secret_id = AKIDtest\nsecret_key = hush-hush\n", "look at the secret id and key"),
        ("secret_id = AKIDgone\nsecret_key = secret\n", "look at the secret id and key"),
        ("secret_id = AKIDother\nsecret_key = other\ntoken = hush-token\n", "renew them"),
        ("secret_id = AKIDtest\n", "holds no credentials"),
        ("secret_id = AKID test\nsecret_key = secret", "no header carries"),
    ] {
        clb.credentials(text);
        let outcome = apply_one(&*balancer, Action::WeightZero, &pod(1));
        expect_failure(&outcome, ErrorKind::Denied, what);
        let shown = format!("{outcome:?}");
        assert!(!shown.contains("hush"), "{shown}");
    }
    std::fs::remove_file(clb.dir.path().join("credentials")).expect("removed");
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod(1));
    expect_failure(&outcome, ErrorKind::Denied, "cannot read the credentials");
    clb.credentials("[default]\nsecret_id=AKIDother\nsecret_key=other\ntoken=temporary\n");
    assert_eq!(apply_one(&*balancer, Action::WeightZero, &pod(1)), applied(Some(2)));
}

#[test]
fn a_service_that_is_silent_or_gone_is_told_as_such() {
    let clb = Clb::start([1].into_iter());
    let balancer = clb.balancer();
    clb.fault(&json!({"action": "DescribeTargets", "hang": true}));
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod(1));
    expect_failure(&outcome, ErrorKind::Timeout, "no answer within");
    assert_eq!(apply_one(&*balancer, Action::WeightZero, &pod(1)), applied(Some(2)));
    let Clb { service, dir: _credentials } = clb;
    drop(service);
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod(1));
    expect_failure(&outcome, ErrorKind::Unreachable, "look at `endpoint`");
}

#[test]
fn a_task_that_takes_long_and_one_that_changes_nothing_are_not_acknowledged() {
    let clb = Clb::start([1].into_iter());
    let balancer = clb.balancer();
    clb.service.control(&json!({"polls": 1_000_000}));
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod(1));
    assert!(matches!(outcome, Outcome::NotYet(_)), "{outcome:?}");
    clb.service.control(&json!({"polls": 0, "tasks": {}}));
    clb.fault(&json!({"action": "BatchModifyTargetWeight", "ignored": true}));
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod(1));
    expect_failure(&outcome, ErrorKind::Refused, "use the balancer `tke`");
}

#[test]
fn many_orders_stay_below_the_services_limit() {
    // Twenty-five listeners, each in one answer of DescribeTargets of at most twenty; the service
    // itself refuses more than twenty requests in a second, which would show as `Throttled`.
    let clb = Clb::start([1].into_iter());
    let listeners: serde_json::Map<_, _> = (0..25)
        .map(|at| (format!("lbl-{at}"), json!({"Rules": null, "Targets": [target(1, 9)]})))
        .collect();
    clb.service.control(&json!({"listeners": listeners, "polls": 0}));
    let ids: Vec<_> = (0..25).map(|at| format!("{{id: lbl-{at}}}")).collect();
    let balancer = clb.balancer_with("lb-test", &format!("[{}]", ids.join(", ")));
    for round in 0..10 {
        let zero = apply_one(&*balancer, Action::WeightZero, &pod(1));
        assert_eq!(zero, applied(Some(9)), "round {round}");
        assert_eq!(
            apply_one(&*balancer, Action::Register, &pod(1)),
            applied(None),
            "round {round}"
        );
    }
    assert!(clb.count("DescribeTargets") >= 80);
}
