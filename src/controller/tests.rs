use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::{StatusCode, Uri};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::check::check;
use super::table::{Refusal, SILENCE_TIMEOUT, Table};
use super::*;
use crate::api::client::{Call, Client, Reply};
use crate::api::report::{Answer, BalancerState, Identity, SCHEMA_VERSION};

/// A report of the pod `name`.
pub fn report(name: &str, sequence: u64, phase: &str) -> Report {
    Report {
        schema_version: SCHEMA_VERSION.to_owned(),
        identity: Identity {
            namespace: "shop".to_owned(),
            pod_name: name.to_owned(),
            ..Identity::default()
        },
        start_time: "2024-05-01T10:00:00Z".to_owned(),
        sequence,
        phase: phase.to_owned(),
        reason: None,
        drain_start_time: None,
        drain_deadline: None,
        drain_timeout_seconds: 300.0,
        active_connections: 1,
        drain_blocking_connections: 1,
        active_requests: 0,
        active_streams: 0,
        by_class: BTreeMap::new(),
        forced_closes: 0,
        rejected: 0,
        oldest_connection_seconds: 0,
        listeners: Vec::new(),
    }
}

struct Fixture {
    client: Client,
    actions: mpsc::UnboundedReceiver<(String, Action)>,
    _running: Running,
}

impl Fixture {
    fn start(max_targets: usize) -> Self {
        let (tell, actions) = mpsc::unbounded_channel();
        let args = Args {
            listen: "127.0.0.1:0".parse().expect("an address"),
            max_targets,
            assume_weight_zero_after: Some(Duration::ZERO),
        };
        let controller = Controller::bind(&args, move |action, report| {
            let _test_is_over = tell.send((report.identity.pod_name.clone(), action));
        })
        .expect("a free port");
        let base: Uri = format!("http://{}", controller.local_addr()).parse().expect("a URL");
        Fixture {
            client: Client::new(&base, None).expect("http"),
            actions,
            _running: controller.start(),
        }
    }

    async fn post(&self, body: &Value) -> Reply {
        let call = Call::post("/v1/reports").json(body).expect("JSON");
        self.client.send(call).await.expect("an answer")
    }

    async fn report(&self, report: &Report) -> Reply {
        self.post(&serde_json::to_value(report).expect("JSON")).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.client.send(Call::get(path)).await.expect("an answer")
    }
}

#[tokio::test]
async fn a_drain_is_acknowledged_step_by_step() {
    let mut fixture = Fixture::start(10);
    let steps = [
        (1, "Serving", BalancerState::Pending),
        (2, "LameDuck", BalancerState::WeightZero),
        (5, "Draining", BalancerState::WeightZero),
        (6, "Drained", BalancerState::Deregistered),
        (7, "Drained", BalancerState::Deregistered),
    ];
    for (sequence, phase, balancer) in steps {
        let reply = fixture.report(&report("a", sequence, phase)).await;
        assert_eq!(reply.status, StatusCode::OK);
        let answer: Answer = reply.json().expect("an answer");
        assert_eq!((answer.sequence, answer.balancer), (sequence, balancer));
    }
    let a = |action| ("a".to_owned(), action);
    assert_eq!(fixture.actions.try_recv(), Ok(a(Action::WeightZero)));
    assert_eq!(fixture.actions.try_recv(), Ok(a(Action::Deregister)));
    assert!(fixture.actions.try_recv().is_err(), "each once");
}

#[tokio::test]
async fn the_page_shows_a_report_that_is_taken_and_its_true_answer() {
    let page = include_str!("../../docs/report.md");
    let (_, rest) = page.split_once("<<'JSON'\n").expect("an example");
    let (body, rest) = rest.split_once("JSON\n# ").expect("its end");
    let (answer, _) = rest.split_once('\n').expect("a line");
    let fixture = Fixture::start(1);
    let reply = fixture.post(&serde_json::from_str(body).expect("JSON")).await;
    assert_eq!(reply.excerpt(), answer);
}

#[tokio::test]
async fn the_targets_are_listed_with_their_last_report() {
    let fixture = Fixture::start(10);
    for (name, sequence) in [("b", 1), ("a", 1), ("a", 2)] {
        fixture.report(&report(name, sequence, "Draining")).await;
    }
    for path in ["/targets", "/v1/targets"] {
        let list: Value = fixture.get(path).await.json().expect("JSON");
        let names: Vec<_> = list
            .as_array()
            .expect("a list")
            .iter()
            .map(|target| {
                assert!(target["ageSeconds"].is_f64());
                assert_eq!(target["balancer"], "weightZero");
                (target["report"]["podName"].clone(), target["report"]["sequence"].clone())
            })
            .collect();
        assert_eq!(names, [(json!("a"), json!(2)), (json!("b"), json!(1))]);
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(fixture.get(path).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn what_is_no_report_is_told_why() {
    let fixture = Fixture::start(10);
    let good = serde_json::to_value(report("a", 1, "Serving")).expect("JSON");
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let mut incomplete = good.clone();
    incomplete.as_object_mut().expect("an object").remove("phase");
    let listeners = vec![json!({"address": "", "port": 1, "state": ""}); 33];
    for (body, why) in [
        (json!({}), "missing field `schemaVersion`"),
        (incomplete, "missing field `phase`"),
        (with("sequence", json!("x")), "line 1 column"),
        (with("schemaVersion", json!("v2")), "known is v1"),
        (with("phase", json!("Asleep")), "known are Serving"),
        (with("podName", json!("")), "podName is empty"),
        (with("startTime", json!("now")), "startTime `now`"),
        (with("podName", json!("x".repeat(254))), "podName is longer than 253 bytes"),
        (with("listeners", json!(listeners)), "listeners has more than 32"),
    ] {
        let reply = fixture.post(&body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{why}");
        assert!(reply.excerpt().contains(why), "{}", reply.excerpt());
    }
    let reply = fixture.post(&with("podName", json!("x".repeat(64 * 1024)))).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn stale_reports_and_stale_runs_are_409() {
    let fixture = Fixture::start(10);
    assert_eq!(fixture.report(&report("a", 5, "Draining")).await.status, StatusCode::OK);
    for sequence in [4, 5] {
        let reply = fixture.report(&report("a", sequence, "Serving")).await;
        assert_eq!(reply.status, StatusCode::CONFLICT);
    }
    // `.5Z` sorts before `Z` as text, and is later as a time.
    let mut later = report("a", 1, "Serving");
    later.start_time = "2024-05-01T10:00:00.5Z".to_owned();
    assert_eq!(fixture.report(&later).await.status, StatusCode::OK);
    let reply = fixture.report(&report("a", 9, "Serving")).await;
    assert_eq!(reply.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn one_target_too_many_is_503_with_what_to_do() {
    let fixture = Fixture::start(1);
    fixture.report(&report("a", 1, "Serving")).await;
    let reply = fixture.report(&report("b", 1, "Serving")).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.excerpt().contains("--max-targets"), "{}", reply.excerpt());
    assert_eq!(fixture.report(&report("a", 2, "Drained")).await.status, StatusCode::OK);
    assert_eq!(fixture.report(&report("b", 2, "Serving")).await.status, StatusCode::OK);
}

#[test]
fn a_balancer_that_takes_its_time_is_told_once_and_pending_until_then() {
    use BalancerState::{Deregistered, Pending, WeightZero};

    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut table = Table::new(1, Some(second * 2));
    let mut sequence = 0;
    let mut store = |phase: &str, after: Duration| {
        sequence += 1;
        let body = serde_json::to_vec(&report("a", sequence, phase)).expect("JSON");
        let decision =
            table.store(check(&body).expect("a report"), start + after).expect("a decision");
        assert_eq!(table.list(start + after)[0].balancer, decision.answer.balancer);
        (decision.answer.balancer, decision.actions)
    };
    assert_eq!(store("LameDuck", Duration::ZERO), (Pending, vec![Action::WeightZero]));
    assert_eq!(store("LameDuck", second), (Pending, vec![]));
    assert_eq!(store("LameDuck", second * 2), (WeightZero, vec![]));
    assert_eq!(store("Serving", second * 3), (Pending, vec![Action::Register]));
    assert_eq!(store("LameDuck", second * 3), (Pending, vec![Action::WeightZero]));
    assert_eq!(store("Drained", second * 4), (Deregistered, vec![Action::Deregister]));
}

#[test]
fn a_full_table_forgets_only_who_will_not_be_missed() {
    let start = Instant::now();
    let mut table = Table::new(2, None);
    let mut store = |name: &str, phase: &str, after: Duration| {
        let body = serde_json::to_vec(&report(name, 1, phase)).expect("JSON");
        let stored = table.store(check(&body).expect("a report"), start + after);
        let names: Vec<String> = table
            .list(start + after)
            .into_iter()
            .map(|target| target.report.identity.pod_name)
            .collect();
        (stored.map(|_| ()), names.join(" "))
    };
    let second = Duration::from_secs(1);
    assert_eq!(store("a", "Draining", second).1, "a");
    assert_eq!(store("b", "Draining", second * 2).1, "a b");
    let full = Err(Refusal::Full { max_targets: 2 });
    assert_eq!(store("c", "Draining", second * 3), (full, "a b".to_owned()));
    let silent = second + SILENCE_TIMEOUT;
    assert_eq!(store("c", "Drained", silent), (Ok(()), "b c".to_owned()));
    // Deregistered counts at once, but the longest silence goes first.
    assert_eq!(store("d", "Drained", silent), (Ok(()), "b d".to_owned()));
    assert_eq!(store("e", "Serving", silent + second), (Ok(()), "d e".to_owned()));
}

#[test]
fn a_balancer_that_nobody_drives_stays_pending_until_the_target_is_gone() {
    let now = Instant::now();
    let mut table = Table::new(1, None);
    for (sequence, phase, balancer) in [
        (1, "LameDuck", BalancerState::Pending),
        (2, "Draining", BalancerState::Pending),
        (3, "Drained", BalancerState::Deregistered),
    ] {
        let body = serde_json::to_vec(&report("a", sequence, phase)).expect("JSON");
        let decision = table.store(check(&body).expect("a report"), now).expect("a decision");
        assert_eq!(decision.answer.balancer, balancer, "{phase}");
    }
}
