//! `aws-elbv2` against moto, which judges signatures and rights by botocore.

use std::net::Ipv4Addr;

use ebbtide::controller::balancer::aws::Config;
use ebbtide::controller::balancer::{Action, Applied, Elbv2, ErrorKind, Member, Order, Outcome};
use serde_json::{Value, json};

use super::{Service, apply, apply_one, expect_failure, member, order};
use crate::support::Directory;

/// moto with two target groups, and keys of users with different rights.
struct Aws {
    service: Service,
    arns: Vec<String>,
    keys: Vec<(String, String)>,
}

fn pod(last: u8) -> Member {
    member(&format!("chat-{last}"), Ipv4Addr::new(10, 0, 0, last), 8080)
}

fn done() -> Outcome {
    Applied::default().into()
}

impl Aws {
    /// With these targets in both groups; the first user may do what the adapter does, the second may
    /// only look.
    fn start(targets: &[u8]) -> Self {
        let service = Service::start("aws.py");
        let targets: Vec<_> = targets.iter().map(|last| format!("10.0.0.{last}")).collect();
        let rights = ["DescribeTargetHealth", "RegisterTargets", "DeregisterTargets"]
            .map(|it| format!("elasticloadbalancing:{it}"));
        let set_up = json!({"targets": targets, "policies": [rights, [rights[0]]]});
        let stage = service.control(&json!({"setUp": set_up}));
        service.control(&json!({"auth": true}));
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let arns = stage["arns"].as_array().expect("ARNs").iter().map(text).collect();
        let keys = stage["keys"].as_array().expect("keys").iter();
        let keys = keys.map(|key| (text(&key["id"]), text(&key["secret"]))).collect();
        Aws { service, arns, keys }
    }

    fn config(&self, more: &str) -> Config {
        let url = self.service.url();
        let [first, second] = &self.arns[..] else { panic!("two groups") };
        let yaml = format!(
            "target-groups: [{{arn: '{first}'}}, {{arn: '{second}', port: 8080}}]\nendpoint: {url}\n\
             sts-endpoint: {url}\n{more}"
        );
        serde_saphyr::from_str(&yaml).expect("the right fields")
    }

    fn balancer(&self) -> Elbv2 {
        self.with("", &self.keys[0])
    }

    fn with(&self, more: &str, (id, secret): &(String, String)) -> Elbv2 {
        let environment = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some(id.clone()),
            "AWS_SECRET_ACCESS_KEY" => Some(secret.clone()),
            _ => None,
        };
        self.config(more).build(&environment).expect("the right values")
    }

    fn fault(&self, fault: &Value) {
        self.service.control(&json!({"faults": [fault]}));
    }

    fn count(&self, action: &str) -> usize {
        let calls = self.service.control(&json!({}))["calls"].take();
        calls.as_array().into_iter().flatten().filter(|call| call[0] == action).count()
    }
}

#[test]
fn weight_zero_deregisters_and_is_confirmed_by_draining() {
    let aws = Aws::start(&[1, 2]);
    let balancer = aws.balancer();
    aws.service.control(&json!({"drains": {"polls": 1_000}}));
    assert_eq!(apply_one(&balancer, Action::WeightZero, &pod(1)), done());
    assert_eq!(aws.count("DeregisterTargets"), 2, "one a group");
    assert_eq!(aws.count("DescribeTargetHealth"), 4, "looked before, and read back");

    // Every order may come twice, also to a replica that has not deregistered it itself.
    assert_eq!(apply_one(&balancer, Action::WeightZero, &pod(1)), done());
    assert_eq!(apply_one(&aws.balancer(), Action::WeightZero, &pod(1)), done());
    for _ in 0..2 {
        assert_eq!(apply_one(&balancer, Action::Deregister, &pod(1)), done());
    }
    assert_eq!(aws.count("DeregisterTargets"), 2, "and then there is nothing to do");

    // A drain that is undone: what we took away comes back, although we do not register otherwise.
    assert_eq!(apply_one(&balancer, Action::Register, &pod(1)), done());
    assert_eq!(aws.count("RegisterTargets"), 2);
    assert_eq!(apply_one(&balancer, Action::Register, &pod(3)), done());
    assert_eq!(aws.count("RegisterTargets"), 2, "a target that others look after is left to them");

    // A target without connections is gone before anybody sees it draining.
    aws.service.control(&json!({"drains": {"polls": 0}}));
    assert_eq!(apply_one(&balancer, Action::WeightZero, &pod(1)), done());
    assert_eq!(apply_one(&balancer, Action::WeightZero, &pod(1)), done());
}

#[test]
fn targets_are_registered_only_where_that_is_wanted() {
    let aws = Aws::start(&[]);
    let balancer = aws.with("register: true\n", &aws.keys[0]);
    for _ in 0..2 {
        assert_eq!(apply_one(&balancer, Action::Register, &pod(1)), done());
    }
    assert_eq!(aws.count("RegisterTargets"), 2, "one a group, once");
    assert_eq!(apply_one(&aws.balancer(), Action::WeightZero, &pod(1)), done());
    let other = member("other", Ipv4Addr::new(10, 0, 0, 9), 8080);
    let mut two_ports = other.clone();
    two_ports.ports = vec![1, 2];
    expect_failure(
        &apply_one(&balancer, Action::Register, &two_ports),
        ErrorKind::Refused,
        "set `port` there",
    );
}

#[test]
fn a_target_that_is_in_no_group_is_never_acknowledged_as_weight_zero() {
    let aws = Aws::start(&[1]);
    let balancer = aws.balancer();
    let outcome = apply_one(&balancer, Action::WeightZero, &pod(2));
    expect_failure(&outcome, ErrorKind::UnknownTarget, "look at target-groups");
    assert_eq!(apply_one(&balancer, Action::Deregister, &pod(2)), done());
    // A later pod with the address of one that we have deregistered is another one.
    assert_eq!(apply_one(&balancer, Action::WeightZero, &pod(1)), done());
    let mut later = pod(1);
    later.pod_uid = "another".to_owned();
    let outcome = apply_one(&balancer, Action::WeightZero, &later);
    expect_failure(&outcome, ErrorKind::UnknownTarget, "look at target-groups");
    assert_eq!(apply_one(&balancer, Action::Register, &later), done());
    assert_eq!(aws.count("RegisterTargets"), 0);

    let mut wrong = aws.config("");
    wrong.target_groups[0].arn.push('0');
    let (id, secret) = &aws.keys[0];
    let environment = |name: &str| match name {
        "AWS_ACCESS_KEY_ID" => Some(id.clone()),
        "AWS_SECRET_ACCESS_KEY" => Some(secret.clone()),
        _ => None,
    };
    let balancer = wrong.build(&environment).expect("the right form");
    for action in [Action::WeightZero, Action::Deregister] {
        expect_failure(
            &apply_one(&balancer, action, &pod(1)),
            ErrorKind::Refused,
            "look at target-groups",
        );
    }
}

#[test]
fn of_a_batch_each_order_hears_its_own_outcome() {
    let aws = Aws::start(&[1, 2]);
    let balancer = aws.balancer();
    aws.service.control(&json!({"drains": {"polls": 1_000}}));
    // The first group's batch is refused for one of them, and then that one alone.
    let refusal = json!({"action": "DeregisterTargets", "code": "InvalidTarget"});
    aws.service.control(&json!({"faults": [refusal, refusal]}));
    let orders: Vec<Order> = [1, 2, 3].map(|last| order(Action::WeightZero, &pod(last))).into();
    let outcomes = apply(&balancer, &orders);
    expect_failure(&outcomes[0], ErrorKind::Refused, "of type ip");
    assert_eq!(outcomes[1], done());
    expect_failure(&outcomes[2], ErrorKind::UnknownTarget, "in none of the target groups");
    let outcomes = apply(&balancer, &orders);
    assert_eq!(outcomes[..2], [done(), done()], "the second try does the rest");
}

#[test]
fn what_the_service_refuses_is_told_with_what_to_do() {
    let aws = Aws::start(&[1]);
    let balancer = aws.balancer();
    let cases = [
        (
            json!({"action": "DescribeTargetHealth", "code": "Throttling"}),
            ErrorKind::Throttled,
            "more slowly",
        ),
        (
            json!({"action": "DeregisterTargets", "code": "Throttling"}),
            ErrorKind::Throttled,
            "more slowly",
        ),
        (
            json!({"action": "DeregisterTargets", "code": "ExpiredToken", "status": 403}),
            ErrorKind::Denied,
            "are over",
        ),
        (
            json!({"action": "DeregisterTargets", "code": "Unheard", "status": 500}),
            ErrorKind::Refused,
            "Unheard",
        ),
        (
            json!({"action": "DescribeTargetHealth", "text": "<html>busy", "status": 503}),
            ErrorKind::Throttled,
            "none of AWS's",
        ),
        (
            json!({"action": "DescribeTargetHealth", "text": "hello"}),
            ErrorKind::Refused,
            "none of AWS's",
        ),
        (
            json!({"action": "DescribeTargetHealth", "hang": true}),
            ErrorKind::Timeout,
            "no answer within",
        ),
    ];
    for (at, (fault, kind, what)) in cases.iter().enumerate() {
        aws.fault(fault);
        // The groups are asked in turn, and the second is asked although the first refuses.
        let target = pod(1);
        let outcome = apply_one(&balancer, Action::WeightZero, &target);
        expect_failure(&outcome, *kind, what);
        assert!(at > 0 || aws.count("DescribeTargetHealth") >= 2);
    }
    assert_eq!(apply_one(&balancer, Action::WeightZero, &pod(1)), done());
    drop(aws);
    let outcome = apply_one(&balancer, Action::WeightZero, &pod(1));
    expect_failure(&outcome, ErrorKind::Unreachable, "make a VPC endpoint");
}

#[test]
fn wrong_credentials_and_too_few_rights_are_told_and_no_secret_is_shown() {
    let aws = Aws::start(&[1]);
    let wrong = (aws.keys[0].0.clone(), "wrong-secret".to_owned());
    let gone = ("AKIAGONE".to_owned(), "gone-secret".to_owned());
    for (key, what) in [
        (&wrong, "look at the credentials"),
        (&gone, "look at the credentials"),
        (&aws.keys[1], "allow the role"),
    ] {
        let balancer = aws.with("", key);
        let outcome = apply_one(&balancer, Action::WeightZero, &pod(1));
        expect_failure(&outcome, ErrorKind::Denied, what);
        let shown = format!("{outcome:?} {balancer:?}");
        assert!(!shown.contains(&key.1), "{shown}");
    }
    assert_eq!(aws.count("DeregisterTargets"), 2, "the one who may only look has tried");
}

#[test]
fn credentials_come_from_wherever_a_pod_may_have_them() {
    let service = Service::start("aws.py");
    let stage = service.control(&json!({"setUp": {"targets": ["10.0.0.1"], "policies": []}}));
    let url = service.url();
    let arn = stage["arns"][0].as_str().expect("an ARN").to_owned();
    let dir = Directory::new();
    let token = dir.write("token", "the-token\n");
    let document = |key: &str| {
        json!({"AccessKeyId": key, "SecretAccessKey": "s", "Token": format!("{key}-token"), "Expiration": "2100-01-01T00:00:00Z"}).to_string()
    };
    let machine = "/latest/meta-data/iam/security-credentials/";
    let session = json!({"X-Aws-Ec2-Metadata-Token": "session"});
    service.control(&json!({"documents": {
        "/v1/credentials": {"headers": {"Authorization": "the-token"}, "body": document("CONTAINER")},
        "/latest/api/token": {"headers": {"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": "60"}, "body": "session"},
        machine: {"headers": session, "body": "role"},
        format!("{machine}role"): {"headers": session, "body": document("MACHINE")},
    }}));
    let full_uri = format!("{url}/v1/credentials");
    let sources: [&[(&str, &str)]; 3] = [
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full_uri),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token),
        ],
        &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)],
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &token),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/ebbtide"),
        ],
    ];
    let yaml = format!("target-groups: [{{arn: '{arn}'}}]\nendpoint: {url}\nsts-endpoint: {url}\n");
    let mut seen = Vec::new();
    for variables in sources {
        let environment = |name: &str| {
            variables.iter().find(|(its, _)| *its == name).map(|(_, value)| (*value).to_owned())
        };
        let config: Config = serde_saphyr::from_str(&yaml).expect("the right fields");
        let balancer = config.build(&environment).expect("the right values");
        for _ in 0..2 {
            assert_eq!(apply_one(&balancer, Action::Deregister, &pod(9)), done(), "{variables:?}");
        }
        let calls = service.control(&json!({}))["calls"].take();
        let last = calls.as_array().and_then(|calls| calls.last()).expect("a call").clone();
        seen.push((last[1].clone(), last[2].clone()));
    }
    assert_eq!(seen[0], (json!("CONTAINER"), json!("CONTAINER-token")));
    assert_eq!(seen[1], (json!("MACHINE"), json!("MACHINE-token")));
    assert!(seen[2].0.as_str().is_some_and(|id| id.starts_with("ASIA")), "{seen:?}");
    assert!(seen[2].1.is_string(), "{seen:?}");
    let calls = service.control(&json!({}))["calls"].take();
    let asked =
        calls.as_array().into_iter().flatten().filter(|it| it[0] == "AssumeRoleWithWebIdentity");
    assert_eq!(asked.count(), 1, "what STS gave is kept until it is nearly over");

    // Nobody there.
    drop(service);
    let config: Config = serde_saphyr::from_str(&yaml).expect("the right fields");
    let nobody = |name: &str| (name == "AWS_EC2_METADATA_SERVICE_ENDPOINT").then(|| url.clone());
    let outcome = apply_one(&config.build(&nobody).expect("built"), Action::WeightZero, &pod(1));
    expect_failure(&outcome, ErrorKind::Denied, "IRSA or Pod Identity");
}
