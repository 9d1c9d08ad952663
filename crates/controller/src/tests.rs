use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::{StatusCode, Uri};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::balancer::{Log, Outcome};
use super::check::{Now, check};
use super::table::{FORGET_AFTER, Refusal, Rules, Seen, Table};
use super::*;
use ebbtide_api::client::{Call, Client, Reply};
use ebbtide_api::report::{Answer, BalancerState, Directive, Identity, SCHEMA_VERSION};

/// A report of the pod `name`.
pub fn report(name: &str, sequence: u64, phase: &str) -> Report {
    Report {
        schema_version: SCHEMA_VERSION.to_owned(),
        identity: Identity {
            namespace: "shop".to_owned(),
            pod_name: name.to_owned(),
            ..Identity::default()
        },
        run_id: None,
        start_time: "2024-05-01T10:00:00Z".to_owned(),
        sequence,
        phase: phase.to_owned(),
        reason: None,
        drain_start_time: None,
        drain_deadline: None,
        drain_seconds_left: None,
        drain_timeout_seconds: 300.0,
        active_connections: 1,
        drain_blocking_connections: 1,
        active_requests: 0,
        active_streams: 0,
        by_class: BTreeMap::new(),
        forced_closes: 0,
        rejected: 0,
        oldest_connection_seconds: 0,
        former_weight: None,
        admin_port: None,
        application_reached: None,
        listeners: Vec::new(),
    }
}

struct Fixture {
    client: Client,
    actions: mpsc::UnboundedReceiver<(String, Action)>,
    _working: Working,
}

fn settings(max_targets: usize) -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().expect("an address"),
        max_targets,
        max_report_rate: 1000,
        max_source_rate: 100_000,
        lost_after: Duration::from_secs(30),
        max_draining: None,
        peers: Vec::new(),
        gate: Gate::open("127.0.0.1:0".parse().expect("an address")),
        tls: None,
        balancer: Box::new(Log { assume_weight_zero_after: Some(Duration::ZERO) }),
    }
}

impl Fixture {
    fn start(max_targets: usize) -> Self {
        let (tell, actions) = mpsc::unbounded_channel();
        let controller = Controller::bind(settings(max_targets), None, move |action, report| {
            let _test_is_over = tell.send((report.identity.pod_name.clone(), action));
        })
        .expect("a free port");
        let base: Uri = format!("http://{}", controller.local_addr()).parse().expect("a URL");
        Fixture {
            client: Client::new(&base, None).expect("http"),
            actions,
            _working: controller.start(),
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
        assert_eq!((answer.sequence, answer.balancer), (sequence, Some(balancer)));
    }
    let a = |action| ("a".to_owned(), action);
    assert_eq!(fixture.actions.try_recv(), Ok(a(Action::Register)));
    assert_eq!(fixture.actions.try_recv(), Ok(a(Action::WeightZero)));
    assert_eq!(fixture.actions.try_recv(), Ok(a(Action::Deregister)));
    assert!(fixture.actions.try_recv().is_err(), "each once");
}

#[tokio::test]
async fn the_page_shows_a_report_that_is_taken_and_its_true_answer() {
    let page = include_str!("../../../docs/report.md");
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
    let list: Value = fixture.get("/v1/targets").await.json().expect("JSON");
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
    for path in ["/livez", "/readyz"] {
        assert_eq!(fixture.get(path).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn what_is_answered_is_documented_and_nothing_else_is() {
    let controller = Controller::bind(settings(1), None, |_, _| {}).expect("a free port");
    let router = router(&controller.shared);
    let answered: BTreeSet<_> =
        router.routes().map(|(method, path)| format!("{method} {path}")).collect();
    let document: Value = serde_saphyr::from_str(document::DOCUMENT).expect("YAML");
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let segment = |it| if str::starts_with(it, '{') { "{}" } else { it };
        let path = path.split('/').map(segment).collect::<Vec<_>>().join("/");
        let methods = item.as_object().expect("methods").keys();
        for method in methods.filter(|it| *it != "parameters") {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    assert_eq!(answered, documented);
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
    let classes =
        (0..17).map(|it| (it.to_string(), json!(1))).collect::<serde_json::Map<_, _>>().into();
    let listeners = vec![json!({"address": "", "port": 1, "state": ""}); 33];
    for (body, why) in [
        (json!({}), "missing field `schemaVersion`"),
        (incomplete, "missing field `phase`"),
        (with("sequence", json!("x")), "line 1 column"),
        (with("schemaVersion", json!("v2")), "known is v1"),
        (with("phase", json!("Asleep")), "known are Serving"),
        (with("podName", json!("")), "podName is empty"),
        (with("startTime", json!("now")), "startTime `now`"),
        (with("drainStartTime", json!("now")), "drainStartTime `now`"),
        (with("sequence", json!(0)), "sequence is below 1"),
        (with("drainTimeoutSeconds", json!(-1)), "drainTimeoutSeconds is below 0"),
        (with("reason", json!("Signal\u{1b}")), "reason holds something else"),
        (with("podName", json!("a b")), "podName `a b` holds something else"),
        (with("podUID", json!("a~b")), "podUID `a~b` holds something else"),
        (with("podName", json!("x".repeat(254))), "podName is longer than 253 bytes"),
        (with("listeners", json!(listeners)), "listeners has more than 32"),
        (with("byClass", classes), "byClass has more than 16"),
        (with("runId", json!("1")), "runId `1` is not 32 hexadecimal digits"),
        (with("drainSecondsLeft", json!(-1)), "drainSecondsLeft is below 0"),
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

/// A table, and the balancer that it is to have; the clock is the test's.
struct Desk {
    table: Table,
    balancer: Log,
    start: Now,
}

impl Desk {
    fn new(max_targets: usize, assume_weight_zero_after: Option<Duration>) -> Self {
        let lost_after = Duration::from_secs(30);
        let rules = Rules {
            max_targets,
            max_report_rate: 1000,
            lost_after,
            max_draining: Some(Share::Percent(34)),
        };
        Desk {
            table: Table::new(rules),
            balancer: Log { assume_weight_zero_after },
            start: Now::read(),
        }
    }

    fn store(&mut self, report: &Report, after: Duration) -> Result<Answer, Refusal> {
        let body = serde_json::to_vec(report).expect("JSON");
        let now = self.start.instant + after;
        let checked = check(&body, self.start).expect("a report");
        let id = self.table.store(checked, now)?;
        Ok(self.table.answer(&id, now).expect("it is stored"))
    }

    /// Gives every order that is due, and has it confirmed.
    async fn obey(&mut self, after: Duration) -> Vec<(String, Action)> {
        let now = self.start.instant + after;
        let mut given = Vec::new();
        for (id, order) in self.table.take_orders(usize::MAX, now) {
            let outcome = self.balancer.apply(std::slice::from_ref(&order)).await.remove(0);
            self.table.conclude(&id, outcome, now);
            given.push((order.member.pod_name, order.action));
        }
        given
    }

    /// The pods that are lost now.
    fn sweep(&mut self, second: u32) -> Vec<String> {
        let lost = self.table.sweep(self.start.instant + SECOND * second);
        lost.into_iter().map(|report| report.identity.pod_name).collect()
    }

    /// Takes every look that is due; returns at whom.
    fn look(&mut self, second: u32, seen: Seen) -> Vec<String> {
        let now = self.start.instant + SECOND * second;
        let looks = self.table.take_looks(usize::MAX, now);
        for look in &looks {
            self.table.seen(look, seen, now);
        }
        looks.into_iter().map(|look| look.identity.pod_name).collect()
    }

    fn names(&self, after: Duration) -> String {
        let list = self.table.list(self.start.instant + after);
        let names = list.into_iter().map(|target| target.report.identity.pod_name);
        names.collect::<Vec<_>>().join(" ")
    }

    fn balancer(&self, after: Duration) -> BalancerState {
        self.table.list(self.start.instant + after)[0].balancer
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_balancer_that_takes_its_time_is_told_once_and_pending_until_then() {
    use BalancerState::{Deregistered, Pending, WeightZero};

    let mut desk = Desk::new(1, Some(SECOND * 2));
    let steps = [
        ("LameDuck", 0, Some(Action::WeightZero), Pending),
        ("LameDuck", 1, None, Pending),
        ("LameDuck", 2, None, WeightZero),
        ("Serving", 3, Some(Action::Register), Pending),
        ("LameDuck", 3, Some(Action::WeightZero), Pending),
        ("Drained", 4, Some(Action::Deregister), Deregistered),
    ];
    for (sequence, (phase, second, action, balancer)) in (1..).zip(steps) {
        let mut report = report("a", sequence, phase);
        report.reason = Some("Signal".to_owned());
        report.drain_blocking_connections = 0;
        desk.store(&report, SECOND * second).expect("stored");
        let given = desk.obey(SECOND * second).await;
        let expected: Vec<_> = action.map(|action| ("a".to_owned(), action)).into_iter().collect();
        assert_eq!((given, desk.balancer(SECOND * second)), (expected, balancer), "{sequence}");
    }
}

#[tokio::test]
async fn a_full_table_forgets_only_who_will_not_be_missed() {
    let mut desk = Desk::new(2, None);
    let drained = |name: &str| {
        let mut report = report(name, 1, "Drained");
        report.drain_blocking_connections = 0;
        report
    };
    desk.store(&report("a", 1, "Draining"), SECOND).expect("room");
    desk.store(&report("b", 1, "Draining"), SECOND * 2).expect("room");
    let full = desk.store(&report("c", 1, "Draining"), SECOND * 3);
    assert_eq!(full, Err(Refusal::Full { max_targets: 2 }));
    assert_eq!(desk.names(SECOND * 3), "a b");
    for second in [598, 600] {
        desk.look(second, Seen::CheckedDown);
    }
    desk.obey(SECOND * 600).await;
    let silent = SECOND + FORGET_AFTER;
    desk.store(&drained("c"), silent).expect("a has been silent for long");
    assert_eq!(desk.names(silent), "b c");
    desk.obey(silent).await;
    desk.store(&drained("d"), silent).expect("b is lost and was deregistered");
    assert_eq!(desk.names(silent), "c d");
}

#[tokio::test]
async fn a_full_table_is_looked_through_once_a_second_and_when_a_target_has_gone() {
    let mut desk = Desk::new(1, None);
    let full = Err(Refusal::Full { max_targets: 1 });
    desk.store(&report("a", 1, "Draining"), SECOND).expect("room");
    let forgettable = SECOND + FORGET_AFTER;
    let mut store = |name, at| desk.store(&report(name, 1, "Draining"), at).map(drop);
    assert_eq!(store("b", FORGET_AFTER + SECOND / 2), full);
    assert_eq!(store("b", forgettable), full, "it was looked through just now");
    assert_eq!(store("b", forgettable + SECOND / 2), Ok(()));
    assert_eq!(store("c", forgettable + SECOND), full);
    let mut drained = report("b", 2, "Drained");
    drained.drain_blocking_connections = 0;
    desk.store(&drained, forgettable + SECOND).expect("newer");
    desk.obey(forgettable + SECOND).await;
    desk.store(&report("c", 1, "Draining"), forgettable + SECOND).expect("b was deregistered");
}

#[tokio::test]
async fn one_silent_target_is_deregistered_and_a_silent_service_is_not() {
    let mut desk = Desk::new(10, None);
    for name in ["web-0", "web-1", "web-2", "web-3"] {
        desk.store(&report(name, 1, "Serving"), Duration::ZERO).expect("room");
    }
    desk.obey(Duration::ZERO).await;
    for (sequence, name) in [(2, "web-0"), (2, "web-1"), (2, "web-2")] {
        desk.store(&report(name, sequence, "Serving"), SECOND * 20).expect("newer");
    }
    assert_eq!(desk.sweep(30), [""; 0], "nobody was asked yet");
    desk.look(30, Seen::CheckedDown);
    desk.look(32, Seen::CheckedDown);
    assert_eq!(desk.sweep(32), ["web-3"]);
    assert_eq!(desk.obey(SECOND * 32).await, [("web-3".to_owned(), Action::Deregister)]);
    // Now all the others fall silent: that may as well be us.
    desk.sweep(50);
    desk.look(50, Seen::CheckedDown);
    desk.look(60, Seen::CheckedDown);
    desk.sweep(60);
    assert_eq!(desk.obey(SECOND * 60).await, []);
    let goals: Vec<_> = desk
        .table
        .list(desk.start.instant + SECOND * 60)
        .into_iter()
        .map(|target| (target.lost, target.goal))
        .collect();
    assert_eq!(goals[0], (true, "hold".to_owned()));
}

#[tokio::test]
async fn only_so_many_of_a_service_drain_at_once_when_they_are_asked_to() {
    let mut desk = Desk::new(10, None);
    for name in ["web-0", "web-1", "web-2", "other-0"] {
        desk.store(&report(name, 1, "Serving"), Duration::ZERO).expect("room");
    }
    desk.obey(Duration::ZERO).await;
    let mut lame_duck = |name: &str, sequence, reason: &str| {
        let mut report = report(name, sequence, "LameDuck");
        report.reason = Some(reason.to_owned());
        desk.store(&report, SECOND).expect("newer").directive
    };
    let (go, wait) = (Directive::None, Directive::Wait);
    assert_eq!(lame_duck("web-0", 2, "Endpoint"), go, "34% of three is one");
    assert_eq!(lame_duck("web-1", 2, "Endpoint"), wait);
    assert_eq!(lame_duck("other-0", 2, "Endpoint"), go, "another service");
    assert_eq!(lame_duck("web-2", 2, "Signal"), go, "must leave");
    assert_eq!(lame_duck("web-1", 3, "Endpoint"), wait);
    assert_eq!(lame_duck("web-0", 3, "Endpoint"), go, "it has begun, whoever came since");
    let mut drained = report("web-0", 4, "Drained");
    drained.drain_blocking_connections = 0;
    desk.store(&drained, SECOND).expect("newer");
    let mut drained = report("web-2", 3, "Drained");
    drained.drain_blocking_connections = 0;
    desk.store(&drained, SECOND).expect("newer");
    let mut again = report("web-1", 4, "LameDuck");
    again.reason = Some("Endpoint".to_owned());
    assert_eq!(desk.store(&again, SECOND).expect("newer").directive, go, "it is its turn");
}

#[tokio::test]
async fn who_leaves_goes_before_all_who_come() {
    let mut desk = Desk::new(10, None);
    for name in ["a", "b", "c"] {
        desk.store(&report(name, 1, "Serving"), Duration::ZERO).expect("room");
    }
    desk.store(&report("c", 2, "LameDuck"), SECOND).expect("newer");
    let given = desk.obey(SECOND).await;
    let [weight_zero, register] = [Action::WeightZero, Action::Register];
    let expected = [("c", weight_zero), ("a", register), ("b", register)];
    assert_eq!(given, expected.map(|(name, action)| (name.to_owned(), action)));
}

#[tokio::test]
async fn orders_that_fail_come_again_when_their_pause_is_over() {
    let mut desk = Desk::new(1, None);
    desk.store(&report("a", 1, "LameDuck"), Duration::ZERO).expect("room");
    let now = desk.start.instant;
    let (id, order) = desk.table.take_orders(10, now).remove(0);
    assert_eq!(order.action, Action::WeightZero);
    assert!(desk.table.take_orders(10, now).is_empty(), "one at a time");
    let error = balancer::Error::new(balancer::ErrorKind::Denied, "no");
    desk.table.conclude(&id, Outcome::Failed(error), now);
    assert!(desk.table.take_orders(10, now).is_empty());
    let trouble = desk.table.list(now)[0].trouble.clone().expect("it failed");
    assert_eq!((trouble.kind.as_str(), trouble.failures), ("denied", 1));
    let at = desk.table.next_timer().expect("a timer");
    assert_eq!(desk.table.take_orders(10, at).len(), 1);
}

/// A report of a pod at an address, by a run that began `minute` minutes after ten.
fn at_address(name: &str, minute: u8, phase: &str) -> Report {
    let mut report = report(name, 1, phase);
    report.identity.pod_ip = "10.0.0.7".to_owned();
    report.start_time = format!("2024-05-01T10:{minute:02}:00Z");
    let (address, state) = ("0.0.0.0".to_owned(), "Accepting".to_owned());
    let syn_filter = None;
    report.listeners =
        vec![ebbtide_api::report::ListenerReport { address, port: 8080, state, syn_filter }];
    report
}

#[tokio::test]
async fn a_pod_that_inherits_an_address_is_not_deregistered_for_the_one_that_had_it() {
    let mut desk = Desk::new(10, None);
    desk.store(&at_address("old", 0, "Drained"), Duration::ZERO).expect("room");
    let given = desk.table.take_orders(10, desk.start.instant);
    assert!(desk.store(&at_address("new", 1, "Serving"), SECOND).is_ok());
    assert_eq!(desk.obey(SECOND).await, [], "the order for the old one is under way");
    let failed = Outcome::Failed(balancer::Error::new(balancer::ErrorKind::Timeout, "late"));
    for (id, order) in given {
        assert_eq!(order.action, Action::Deregister);
        desk.table.conclude(&id, failed.clone(), desk.start.instant + SECOND * 2);
    }
    assert_eq!(desk.names(SECOND * 2), "new");
    assert_eq!(desk.obey(SECOND * 3).await, [("new".to_owned(), Action::Register)]);
    assert!(desk.store(&at_address("old", 0, "Drained"), SECOND * 4).is_err(), "it comes late");
    assert_eq!(desk.obey(SECOND * 40).await, []);
    assert_eq!(desk.names(SECOND * 40), "new");
}

#[tokio::test]
async fn a_pod_that_could_be_asked_and_is_not_there_is_lost_and_one_that_could_not_is_not() {
    let mut desk = Desk::new(10, None);
    let askable = |name: &str| {
        let mut report = report(name, 1, "Serving");
        report.identity.pod_ip = "10.0.0.7".to_owned();
        report.admin_port = Some(17701);
        report
    };
    for name in ["cart-0", "shop-0", "web-0"] {
        let report = if name == "web-0" { report(name, 1, "Serving") } else { askable(name) };
        desk.store(&report, Duration::ZERO).expect("room");
    }
    desk.obey(Duration::ZERO).await;
    let now = desk.start.instant;
    for look in desk.table.take_looks(10, now) {
        // A network policy keeps us away from the one.
        let seen = if look.identity.pod_name == "cart-0" { Seen::Answers } else { Seen::Nobody };
        desk.table.seen(&look, seen, now);
    }
    assert_eq!(desk.look(29, Seen::Nobody), [""; 0], "they report");
    assert_eq!(desk.look(31, Seen::Nobody), ["cart-0", "shop-0", "web-0"]);
    assert_eq!(desk.look(33, Seen::Nobody), ["cart-0"]);
    assert_eq!(desk.sweep(33), ["cart-0"]);
    assert_eq!(desk.obey(SECOND * 33).await, [("cart-0".to_owned(), Action::Deregister)]);
    for second in [41, 43, 51, 53] {
        desk.look(second, Seen::Nobody);
    }
    assert_eq!(desk.obey(SECOND * 60).await, []);
}

#[tokio::test]
async fn nothing_is_ordered_for_a_silent_pod_whose_address_is_another_pods() {
    let mut desk = Desk::new(10, None);
    desk.store(&at_address("old", 0, "Serving"), Duration::ZERO).expect("room");
    desk.obey(Duration::ZERO).await;
    assert_eq!(desk.look(31, Seen::Another), ["old"]);
    assert_eq!(desk.obey(SECOND * 31).await, []);
    assert_eq!(desk.names(SECOND * 31), "");
}

#[tokio::test]
async fn a_clock_that_was_wrong_once_locks_nobody_out() {
    let mut desk = Desk::new(10, None);
    let mut early = at_address("a", 0, "Serving");
    early.start_time = "9999-12-31T23:59:59Z".to_owned();
    early.sequence = 500;
    desk.store(&early, Duration::ZERO).expect("room");
    // The restarted container, with the right clock and a number of its own.
    let mut later = at_address("a", 0, "Serving");
    later.run_id = Some("0af7651916cd43dd8448eb211c80319c".to_owned());
    desk.store(&later, SECOND).expect("another run");
    later.sequence = 2;
    desk.store(&later, SECOND * 20).expect("newer");
    // Another pod at its address, whose clock is behind.
    let mut heir = at_address("b", 0, "Serving");
    heir.start_time = "1970-01-01T00:00:00Z".to_owned();
    desk.store(&heir, SECOND * 21).expect("the last that came");
    assert_eq!(desk.names(SECOND * 21), "b");
}
