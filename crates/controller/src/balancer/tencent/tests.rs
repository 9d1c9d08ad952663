//! Batches and plans, without a service.

use std::net::IpAddr;

use super::plan::At;
use super::*;
use crate::balancer::{Action, Applied, Member};

fn config(yaml: &str) -> Result<TencentClb, crate::balancer::ConfigError> {
    serde_saphyr::from_str::<Config>(yaml).expect("the right fields").build()
}

#[test]
fn each_field_that_is_wrong_is_named() {
    let good = "region: ap-guangzhou\nload-balancer-id: lb-1\nlisteners: [{id: lbl-1}]\n\
                endpoint: http://127.0.0.1:1\n";
    config(good).expect("good");
    for (from, to, field) in [
        ("ap-guangzhou", "'ap guangzhou'", "region"),
        ("lb-1\n", "clb-1\n", "load-balancer-id"),
        ("[{id: lbl-1}]", "[]", "listeners"),
        ("{id: lbl-1}", "{id: x-1}", "listeners[0].id"),
        ("{id: lbl-1}", "{id: lbl-1}, {id: lbl-1, port: 1}", "listeners[1].id"),
        ("region:", "weight: 101\nregion:", "weight"),
        ("region:", "weight: 0\nregion:", "weight"),
        ("http://127.0.0.1:1", "ftp://127.0.0.1:1", "endpoint"),
        ("http://127.0.0.1:1", "https://127.0.0.1:1\nca: /nonexistent", "ca"),
    ] {
        let error = config(&good.replacen(from, to, 1)).expect_err(field);
        assert_eq!(error.field, format!("tencent-clb.{field}"), "{error}");
        assert!(!error.message.contains("--"), "flags are not configured here: {error}");
    }
}

#[test]
fn batches_are_as_large_as_the_service_takes_and_no_larger() {
    let change = |order: usize| {
        let at = At { listener_id: format!("lbl-{}", order % 130), location_id: None };
        let target = api::Target { instance_id: None, eni_ip: None, port: 1, weight: Some(0) };
        (order, Change { at, what: What::Weigh, target })
    };
    let changes: Vec<_> = (0..1400).map(change).collect();
    let batches = weight_batches(&changes.iter().collect::<Vec<_>>());
    let mut seen = Vec::new();
    for (orders, rules) in batches {
        let targets: usize = rules.iter().map(|rule| rule.targets.len()).sum();
        assert!(rules.len() <= 100 && targets <= 500, "{} rules, {targets} targets", rules.len());
        assert!(rules.iter().all(|rule| rule.targets.len() <= 50));
        assert_eq!(targets, orders.len());
        seen.extend(orders);
    }
    assert_eq!(seen, (0..1400).collect::<Vec<_>>());
    let crowd: Vec<_> = (0..70).map(|_| change(130)).collect();
    let batches = weight_batches(&crowd.iter().collect::<Vec<_>>());
    let sizes: Vec<_> = batches[0].1.iter().map(|rule| rule.targets.len()).collect();
    assert_eq!(sizes, [50, 20]);
}

fn order(action: Action, ports: &[u16]) -> Order {
    let member = Member {
        pod_name: "chat-1".to_owned(),
        ip: Some(IpAddr::from([10, 0, 0, 1])),
        ports: ports.to_vec(),
        ..Member::default()
    };
    Order { action, member, former_weight: None, issued_at: 0 }
}

fn described(json: &str) -> Vec<api::ListenerBackend> {
    serde_json::from_str(json).expect("an answer")
}

fn listener(id: &str, locations: &[&str], port: Option<u16>) -> Listener {
    Listener { id: id.to_owned(), locations: locations.iter().map(|&it| it.into()).collect(), port }
}

/// Two rules and a TCP listener; the target is bound to a rule as a machine, and to the listener by
/// its address.
const DESCRIBED: &str = r#"[
  {"ListenerId": "lbl-7", "Rules": [
     {"LocationId": "loc-1", "Targets": [{"Type": "CVM", "InstanceId": "ins-1", "Port": 8080,
        "Weight": 30, "PrivateIpAddresses": ["10.0.0.1"]}]},
     {"LocationId": "loc-2", "Targets": []}], "Targets": null},
  {"ListenerId": "lbl-4", "Rules": null, "Targets": [{"Type": "ENI", "InstanceId": "", "Port": 8080,
     "Weight": 20, "PrivateIpAddresses": ["10.0.0.1"]}, {"Type": "ENI", "Port": 8080,
     "Weight": 20, "PrivateIpAddresses": ["10.0.0.2"]}]}
]"#;

fn changes(plan: Plan) -> Vec<(String, What, serde_json::Value)> {
    let Plan::Change(changes) = plan else { panic!("{plan:?}") };
    changes
        .into_iter()
        .map(|it| {
            let at = it.at.location_id.unwrap_or(it.at.listener_id);
            (at, it.what, serde_json::to_value(it.target).expect("JSON"))
        })
        .collect()
}

#[test]
fn every_binding_of_a_target_is_told_and_nobody_elses() {
    let listeners = [listener("lbl-7", &[], None), listener("lbl-4", &[], None)];
    let places = places(&listeners, described(DESCRIBED)).expect("all there");
    let mut former = FormerWeights::default();
    let zero = order(Action::WeightZero, &[8080]);
    let wanted = changes(plan(&zero, &places, &former, 10));
    assert_eq!(
        wanted,
        [
            (
                "loc-1".into(),
                What::Weigh,
                serde_json::json!({"InstanceId": "ins-1", "Port": 8080, "Weight": 0})
            ),
            (
                "lbl-4".into(),
                What::Weigh,
                serde_json::json!({"EniIp": "10.0.0.1", "Port": 8080, "Weight": 0})
            ),
        ]
    );
    former.remember(&zero, &places);
    let zeroed = DESCRIBED.replace("\"Weight\": 30", "\"Weight\": 0").replacen(
        "\"Weight\": 20",
        "\"Weight\": 0",
        1,
    );
    let places = plan::places(&listeners, described(&zeroed)).expect("all there");
    let Plan::Settled(outcome) = plan(&zero, &places, &former, 10) else { panic!("settled") };
    assert_eq!(outcome, Applied { former_weight: Some(30), ..Applied::default() }.into());
    let mut register = order(Action::Register, &[8080]);
    register.former_weight = Some(5);
    let wanted: Vec<_> = changes(plan(&register, &places, &former, 10))
        .into_iter()
        .map(|(at, what, target)| (at, what, target["Weight"].as_u64()))
        .collect();
    assert_eq!(
        wanted,
        [
            ("loc-1".into(), What::Weigh, Some(30)),
            ("lbl-4".into(), What::Weigh, Some(20)),
            ("loc-2".into(), What::Bind, Some(5)),
        ],
        "each its own former weight, then the order's"
    );
    former.forget(&register);
    let wanted = changes(plan(&register, &places, &former, 10));
    assert!(wanted.iter().all(|(.., target)| target["Weight"] == 5), "{wanted:?}");
    register.former_weight = None;
    let wanted = changes(plan(&register, &places, &former, 10));
    assert!(wanted.iter().all(|(.., target)| target["Weight"] == 10), "{wanted:?}");
}

#[test]
fn a_port_that_belongs_to_nobody_is_an_error_and_not_an_acknowledgement() {
    let listeners = [listener("lbl-4", &[], Some(9000))];
    let places = places(&listeners, described(DESCRIBED)).expect("there");
    let kind = |action, ports: &[u16]| match plan(
        &order(action, ports),
        &places,
        &FormerWeights::default(),
        10,
    ) {
        Plan::Settled(Outcome::Failed(error)) => error.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(Action::WeightZero, &[8080]), ErrorKind::UnknownTarget);
    assert_eq!(kind(Action::Register, &[8080]), ErrorKind::Refused);
    let Plan::Settled(outcome) =
        plan(&order(Action::Deregister, &[8080]), &places, &FormerWeights::default(), 10)
    else {
        panic!("settled")
    };
    assert_eq!(outcome, Applied::default().into());
    let wanted = changes(plan(
        &order(Action::Register, &[8080, 9000]),
        &places,
        &FormerWeights::default(),
        7,
    ));
    assert_eq!(wanted[0].2, serde_json::json!({"EniIp": "10.0.0.1", "Port": 9000, "Weight": 7}));
}

#[test]
fn a_listener_or_rule_that_is_not_there_is_named() {
    let error = places(&[listener("lbl-9", &[], None)], described(DESCRIBED)).expect_err("none");
    assert!(error.message.contains("lbl-9"), "{error}");
    let error =
        places(&[listener("lbl-7", &["loc-9"], None)], described(DESCRIBED)).expect_err("none");
    assert!(error.message.contains("loc-9"), "{error}");
}
