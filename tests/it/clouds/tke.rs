//! `tke` against a stand-in for the Kubernetes API's pods.

use std::net::Ipv4Addr;

use ebbtide::controller::balancer::{
    Action, Applied, Balancer, Config, ErrorKind, Member, Outcome,
};
use serde_json::{Value, json};

use super::{Service, apply_one, balancer, expect_failure, member};
use crate::support::Directory;

const SERVICE: &str = "service.cloud.tencent.com/custom-weight";
const INGRESS: &str = "ingress.cloud.tencent.com/custom-weight";

/// A cluster with the pod shop/chat-1.
struct Cluster {
    service: Service,
    dir: Directory,
}

fn pod() -> Member {
    member("chat-1", Ipv4Addr::new(10, 0, 0, 1), 8080)
}

fn applied(former_weight: Option<u32>) -> Outcome {
    Applied { former_weight, ..Applied::default() }.into()
}

impl Cluster {
    fn start(annotations: &Value) -> Self {
        let service = Service::start("kubernetes_pods.py");
        let cluster = Cluster { service, dir: Directory::new() };
        cluster.dir.write("token", "the-token");
        cluster.put("uid-of-chat-1", annotations);
        cluster
    }

    fn put(&self, uid: &str, annotations: &Value) {
        self.control(&json!({"pods": {"shop/chat-1": Self::metadata(uid, annotations)}}));
    }

    fn metadata(uid: &str, annotations: &Value) -> Value {
        json!({"name": "chat-1", "namespace": "shop", "uid": uid, "resourceVersion": "7",
               "labels": {"app": "chat"}, "annotations": annotations})
    }

    fn control(&self, wish: &Value) -> Value {
        self.service.control(wish)
    }

    fn balancer(&self, more: &str) -> Box<dyn Balancer> {
        let token = self.dir.path().join("token");
        balancer(&format!(
            "tke:\n  kubernetes: {{url: '{}', token-file: '{}'}}\n{more}",
            self.service.url(),
            token.display()
        ))
    }

    fn annotations(&self) -> Value {
        self.control(&json!({}))["pods"]["shop/chat-1"]["annotations"].take()
    }

    fn patches(&self) -> usize {
        self.control(&json!({}))["patches"].as_array().map_or(0, Vec::len)
    }
}

#[test]
fn a_pod_goes_to_zero_and_comes_back_as_it_was() {
    let before = json!({SERVICE: "50", "other": "stays"});
    let cluster = Cluster::start(&before);
    let now = cluster.balancer("  applied-after: 0s\n");
    assert_eq!(apply_one(&*now, Action::WeightZero, &pod()), applied(Some(50)));
    let annotations = cluster.annotations();
    assert_eq!([&annotations[SERVICE], &annotations[INGRESS]], ["0", "0"], "{annotations}");
    assert_eq!(annotations["other"], "stays");

    // Every order may come twice, also to another replica.
    assert_eq!(apply_one(&*now, Action::WeightZero, &pod()), applied(Some(50)));
    let replica = cluster.balancer("  applied-after: 0s\n");
    assert_eq!(apply_one(&*replica, Action::WeightZero, &pod()), applied(Some(50)));
    assert_eq!(apply_one(&*replica, Action::Deregister, &pod()), applied(None));
    assert_eq!(cluster.patches(), 1, "and then there is nothing to change");

    for _ in 0..2 {
        assert_eq!(apply_one(&*replica, Action::Register, &pod()), applied(None));
        assert_eq!(cluster.annotations(), before, "as it was, ours gone");
    }
    assert_eq!(cluster.patches(), 2);
}

#[test]
fn nothing_is_confirmed_before_applied_after_is_over() {
    let cluster = Cluster::start(&json!({}));
    let slow = cluster.balancer("  applied-after: 1h\n  weights: [service]\n");
    for _ in 0..2 {
        let Outcome::NotYet(again) = apply_one(&*slow, Action::WeightZero, &pod()) else {
            panic!("nobody knows yet")
        };
        assert!(again.as_secs() <= 3600 && again.as_secs() > 3500, "{again:?}");
    }
    assert_eq!(cluster.patches(), 1, "the second order does not begin anew");
    assert_eq!(cluster.annotations()[INGRESS], Value::Null, "only what is configured");
    // An hour later.
    let mut annotations = cluster.annotations();
    annotations["ebbtide.io/weight-zero-since"] = "2020-01-01T00:00:00Z".into();
    cluster.put("uid-of-chat-1", &annotations);
    assert_eq!(apply_one(&*slow, Action::WeightZero, &pod()), applied(None));
    // Somebody has set a weight meanwhile: that is zeroed again, and what was before is not forgotten.
    annotations[SERVICE] = "90".into();
    cluster.put("uid-of-chat-1", &annotations);
    assert!(matches!(apply_one(&*slow, Action::WeightZero, &pod()), Outcome::NotYet(_)));
    assert_eq!(cluster.annotations()[SERVICE], "0");
    assert_eq!(apply_one(&*slow, Action::Register, &pod()), applied(None));
    assert_eq!(cluster.annotations(), json!({}), "it had none before");
}

#[test]
fn a_namesake_is_never_touched() {
    let cluster = Cluster::start(&json!({SERVICE: "50"}));
    let balancer = cluster.balancer("");
    let namesake = Cluster::metadata("another", &json!({SERVICE: "50"}));

    // It comes between our read and our patch: the precondition holds.
    cluster.control(&json!({"before_patch": {"shop/chat-1": namesake}}));
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod());
    assert!(matches!(outcome, Outcome::NotYet(_)), "{outcome:?}");
    for (action, is_done) in
        [(Action::WeightZero, false), (Action::Register, false), (Action::Deregister, true)]
    {
        let outcome = apply_one(&*balancer, action, &pod());
        if is_done {
            assert_eq!(outcome, applied(None));
        } else {
            expect_failure(&outcome, ErrorKind::UnknownTarget, "another pod of that name");
        }
    }
    cluster.control(&json!({"pods": {}}));
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod());
    expect_failure(&outcome, ErrorKind::UnknownTarget, "same cluster");
    assert_eq!(apply_one(&*balancer, Action::Deregister, &pod()), applied(None));
    assert_eq!(cluster.patches(), 0);

    let mut nameless = pod();
    nameless.pod_uid.clear();
    let outcome = apply_one(&*balancer, Action::Deregister, &nameless);
    expect_failure(&outcome, ErrorKind::Refused, "POD_UID");
}

#[test]
fn what_the_api_refuses_is_told_with_what_to_do() {
    let cluster = Cluster::start(&json!({}));
    let balancer = cluster.balancer("  applied-after: 0s\n");
    let cases = [
        (
            json!({"method": "GET", "code": 429, "details": {"retryAfterSeconds": 3}}),
            ErrorKind::Throttled,
            "more slowly",
        ),
        (json!({"method": "PATCH", "code": 503}), ErrorKind::Unreachable, "tried again"),
        (json!({"method": "PATCH", "code": 422}), ErrorKind::Refused, "as the test wished"),
        (json!({"method": "PATCH", "hang": true}), ErrorKind::Timeout, "does not answer within"),
    ];
    for (fault, kind, what) in cases {
        cluster.control(&json!({"faults": [fault]}));
        let outcome = apply_one(&*balancer, Action::WeightZero, &pod());
        expect_failure(&outcome, kind, what);
        if let (Outcome::Failed(error), ErrorKind::Throttled) = (&outcome, kind) {
            assert_eq!(error.retry_after.map(|it| it.as_secs()), Some(3));
        }
    }
    cluster.control(&json!({"forbidden": true}));
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod());
    expect_failure(&outcome, ErrorKind::Denied, "allow the service account get and patch of pods");
    cluster.control(&json!({"forbidden": false, "token": "next-token"}));
    cluster.dir.write("token", "wrong-token");
    let outcome = apply_one(&*cluster.balancer(""), Action::WeightZero, &pod());
    expect_failure(&outcome, ErrorKind::Denied, "the token is wrong or over");
    assert!(!format!("{outcome:?}").contains("wrong-token"));
    cluster.dir.write("token", "next-token");
    let after = cluster.balancer("  applied-after: 0s\n");
    assert_eq!(apply_one(&*after, Action::WeightZero, &pod()), applied(None));
    let Cluster { service, dir: _token } = cluster;
    drop(service);
    let outcome = apply_one(&*balancer, Action::WeightZero, &pod());
    expect_failure(&outcome, ErrorKind::Unreachable, "can be reached");
}

#[test]
fn each_field_that_is_wrong_is_named() {
    for (yaml, field) in [
        ("tke: {weights: []}", "tke.weights"),
        ("tke: {kubernetes: {url: 'here'}}", "tke.kubernetes.url"),
        ("tke: {kubernetes: {ca: /x}}", "tke.kubernetes.ca"),
        ("tke: {kubernetes: {url: 'https://x', ca: /nonexistent}}", "tke.kubernetes.ca"),
        (
            "tke: {kubernetes: {url: 'https://x', token-file: /nonexistent}}",
            "tke.kubernetes.token-file",
        ),
    ] {
        let config: Config = serde_saphyr::from_str(yaml).expect("the right fields");
        let Err(error) = config.build() else { panic!("{yaml}") };
        assert_eq!(error.field, field, "{error}");
    }
    let error =
        serde_saphyr::from_str::<Config>("tke: {applied-after: soon}").expect_err("no duration");
    assert!(error.to_string().contains("`soon` is no duration"), "{error}");
}
