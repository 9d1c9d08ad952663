//! `ebbtide controller --auth kubernetes` against a stand-in for the Kubernetes API's TokenReviews and pods.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Service;
use crate::api::{report, send};
use crate::support::process::{program, run};
use crate::support::{Directory, Ebbtide, Reply, echo};

const AUDIENCE: &str = "ebbtide-controller";

/// A controller, the cluster that it asks, and its files.
struct Cluster {
    service: Service,
    controller: Ebbtide,
    addr: SocketAddr,
    dir: Directory,
    config: String,
}

/// Tests ask again and again.
fn start(config: &str, args: &[&str]) -> (Ebbtide, SocketAddr) {
    let line =
        ["controller", "--listen", "127.0.0.1:0", "--auth", "kubernetes", "--config", config];
    let line = [&line[..], &["--max-source-rate", "100000"], args].concat();
    let controller = Ebbtide::start(&line);
    let addr = controller.takes_reports();
    (controller, addr)
}

impl Cluster {
    fn new() -> Self {
        let (service, dir) = (Service::start("kubernetes_tokens.py"), Directory::new());
        let token = dir.write("controller", "the-controller");
        let yaml = format!("kubernetes: {{url: '{}', token-file: {token}}}", service.url());
        let config = dir.write("config.yaml", yaml);
        let (controller, addr) = start(&config, &[]);
        Cluster { service, controller, addr, dir, config }
    }

    /// A token of the pod `shop/name`, but for what `changes` says.
    fn token(&self, name: &str, changes: &Value) -> String {
        let mut claims = json!({
            "aud": [AUDIENCE], "exp": now() + 3600, "sub": "system:serviceaccount:shop:default",
            "kubernetes.io": {"pod": {"name": name, "uid": format!("uid-of-{name}")}},
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            claims[key] = value.clone();
        }
        let pod = json!({"uid": format!("uid-of-{name}"), "ips": ["10.0.0.7", "fd00::7"]});
        let key = format!("shop/{name}");
        let answer = self.service.control(&json!({"issue": claims, "pods": {key: pod}}));
        answer["token"].as_str().expect("a token").to_owned()
    }

    fn reviews(&self) -> u64 {
        self.service.control(&json!({}))["reviews"].as_u64().expect("a number")
    }

    fn report(&self, token: &str, name: &str, uid: &str, sequence: u64) -> Reply {
        let mut report = report(name, sequence, "Serving");
        report["podUID"] = uid.into();
        self.send(token, &report)
    }

    fn send(&self, token: &str, report: &Value) -> Reply {
        let field = format!("Authorization: Bearer {token}");
        send(self.addr, "POST /v1/reports", &[&field], &report.to_string())
    }

    fn says_nothing_of(&self, token: &str) {
        let log = format!("{:?}", self.controller.log());
        let signature = token.rsplit('.').next().expect("a part");
        assert!(!log.contains(token) && !log.contains(signature), "a secret in the log");
        assert!(!log.contains("the-controller"), "our own token in the log");
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

#[test]
fn a_pod_reports_for_itself_alone() {
    let cluster = Cluster::new();
    let token = cluster.token("a", &json!({}));
    assert_eq!(cluster.report(&token, "a", "uid-of-a", 1).status, 200);
    for (name, uid) in [("b", "uid-of-b"), ("b", "uid-of-a"), ("a", "uid-of-b"), ("a", "")] {
        let reply = cluster.report(&token, name, uid, 2);
        assert_eq!(reply.status, 403, "{name} {uid}: {}", reply.body);
        for part in ["POD_NAMESPACE", "POD_NAME", "POD_UID", "downward API", "projected"] {
            assert!(reply.body.contains(part), "{}", reply.body);
        }
    }
    let mut elsewhere = report("a", 2, "Serving");
    elsewhere["podUID"] = "uid-of-a".into();
    elsewhere["namespace"] = "bank".into();
    assert_eq!(cluster.send(&token, &elsewhere).status, 403);
    cluster.says_nothing_of(&token);
}

#[test]
fn a_pod_has_the_address_that_the_cluster_knows_whatever_it_says() {
    let cluster = Cluster::new();
    let token = cluster.token("a", &json!({}));
    let claim = |ip: &str, sequence: u64, fields: &[&str]| {
        let mut report = report("a", sequence, "Serving");
        report["podUID"] = "uid-of-a".into();
        report["podIP"] = ip.into();
        let token = format!("Authorization: Bearer {token}");
        let fields = [&[&token[..]], fields].concat();
        send(cluster.addr, "POST /v1/reports", &fields, &report.to_string())
    };
    for (sequence, ip) in (1..).zip(["10.0.0.7", "fd00::7", "::ffff:10.0.0.7", "FD00:0::7", ""]) {
        let reply = claim(ip, sequence, &[]);
        assert_eq!(reply.status, 200, "{ip}: {}", reply.body);
    }
    // Nobody is believed because he says that another replica has looked already.
    for fields in [&[][..], &["Ebbtide-Forwarded: 1"]] {
        for ip in ["10.0.0.8", "fd00::8", "127.0.0.1", "10.0.0.7.", "victim"] {
            let reply = claim(ip, 10, fields);
            assert_eq!(reply.status, 403, "{ip}: {}", reply.body);
            for part in [ip, "POD_IP", "status.podIP"] {
                assert!(reply.body.contains(part), "{}", reply.body);
            }
        }
    }
    assert_eq!(claim("10.0.0.7", 10, &[]).status, 200, "it is still known");
}

#[test]
fn a_pod_whose_address_is_not_known_yet_comes_again() {
    let cluster = Cluster::new();
    let token = cluster.token("a", &json!({}));
    let report = |sequence| cluster.report(&token, "a", "uid-of-a", sequence);
    for (pod, part) in [
        (json!({"uid": "uid-of-a", "ips": []}), "address yet"),
        (json!({"uid": "uid-of-a-later-pod", "ips": ["10.0.0.7"]}), "knows no such pod"),
    ] {
        cluster.service.control(&json!({"pods": {"shop/a": pod}}));
        // What was said before counts for a second.
        let reply = loop {
            let reply = report(1);
            assert_eq!(reply.status, 503, "{}", reply.body);
            if reply.body.contains(part) {
                break reply;
            }
        };
        assert!(reply.head.to_ascii_lowercase().contains("retry-after: 1"), "{}", reply.head);
    }
    cluster.service.control(&json!({"forbidden_pods": true}));
    while !format!("{:?}", cluster.controller.log()).contains("get pods") {
        assert_eq!(report(1).status, 503);
    }
    let pod = json!({"uid": "uid-of-a", "ips": ["10.0.0.7"]});
    cluster.service.control(&json!({"forbidden_pods": false, "pods": {"shop/a": pod}}));
    while report(1).status == 503 {
        std::thread::yield_now();
    }
    assert_eq!(report(2).status, 200);
}

#[test]
fn a_replica_reviews_for_itself_what_the_other_passes_on() {
    let cluster = Cluster::new();
    let (_first, first) = start(&cluster.config, &["--peer", &format!("http://{}", cluster.addr)]);
    let token = format!("Authorization: Bearer {}", cluster.token("a", &json!({})));
    let mut report = report("a", 1, "Serving");
    (report["podUID"], report["podIP"]) = ("uid-of-a".into(), "10.0.0.7".into());
    let reply = send(first, "POST /v1/reports", &[&token], &report.to_string());
    assert_eq!(reply.status, 200, "{}", reply.body);
    cluster.controller.line("of the target", |line| line["pod"] == "shop/a");
    assert_eq!(cluster.reviews(), 2);
}

#[test]
fn a_token_must_be_a_pods_and_for_us() {
    let cluster = Cluster::new();
    for (status, part, changes) in [
        (401, AUDIENCE, json!({"aud": ["https://kubernetes.default.svc"]})),
        (401, "expired", json!({"exp": now() - 1})),
        (403, "bound to no pod", json!({"kubernetes.io": {}})),
        (403, "bound to no pod", json!({"sub": "somebody"})),
        (403, "bound to no pod", json!({"kubernetes.io": {"pod": {"name": "a", "uid": ""}}})),
    ] {
        let token = cluster.token("a", &changes);
        let reply = cluster.report(&token, "a", "uid-of-a", 1);
        assert_eq!(reply.status, status, "{changes}: {}", reply.body);
        assert!(reply.body.contains(part), "{changes}: {}", reply.body);
        cluster.says_nothing_of(&token);
    }
    assert_eq!(cluster.report("nobodys", "a", "uid-of-a", 1).status, 401);
    assert_eq!(cluster.report(&"x".repeat(9000), "a", "uid-of-a", 1).status, 401);
    let reply = send(cluster.addr, "POST /v1/reports", &[], &report("a", 1, "Serving").to_string());
    assert_eq!(reply.status, 401);
    assert!(reply.body.contains("projected"), "{}", reply.body);
    // One that does not know audiences says yes to a token for anybody.
    cluster.service.control(&json!({"silent_about_audiences": true}));
    let token = cluster.token("a", &json!({"aud": ["somebody-else"]}));
    assert_eq!(cluster.report(&token, "a", "uid-of-a", 1).status, 401);
}

#[test]
fn a_token_is_reviewed_once_whoever_comes_with_it() {
    let cluster = Cluster::new();
    let token = cluster.token("a", &json!({}));
    std::thread::scope(|scope| {
        for sequence in 1..=16 {
            let (cluster, token) = (&cluster, &token);
            scope.spawn(move || {
                let status = cluster.report(token, "a", "uid-of-a", sequence).status;
                assert!([200, 409].contains(&status), "{status}: late ones are stale");
            });
        }
    });
    assert_eq!(cluster.reviews(), 1);
    for sequence in 1..=3 {
        assert_eq!(cluster.report("nobodys", "a", "uid-of-a", sequence).status, 401);
    }
    assert_eq!(cluster.reviews(), 2, "a refusal is remembered too");
}

#[test]
fn a_token_counts_no_longer_than_it_says() {
    let cluster = Cluster::new();
    let token = cluster.token("a", &json!({"exp": now() + 6}));
    let mut sequence = 0;
    let mut next = || {
        sequence += 1;
        cluster.report(&token, "a", "uid-of-a", sequence).status
    };
    assert_eq!(next(), 200);
    // It is believed for a minute otherwise; the test's own time-out ends this then.
    while [200, 429].contains(&next()) {
        std::thread::yield_now();
    }
    assert_eq!(next(), 401);
}

#[test]
fn without_the_api_server_known_pods_go_on_and_new_ones_come_again() {
    let cluster = Cluster::new();
    let (known, new) = (cluster.token("a", &json!({})), cluster.token("b", &json!({})));
    assert_eq!(cluster.report(&known, "a", "uid-of-a", 1).status, 200);
    cluster.service.control(&json!({"down": true}));
    let reply = cluster.report(&new, "b", "uid-of-b", 1);
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert!(reply.head.to_ascii_lowercase().contains("retry-after: 1"), "{}", reply.head);
    assert_eq!(cluster.report(&known, "a", "uid-of-a", 2).status, 200);
    let metrics = send(cluster.addr, "GET /metrics", &[], "").body;
    assert!(
        metrics.contains("ebbtide_controller_reports_total{result=\"unreviewed\"} 1"),
        "{metrics}"
    );
    cluster.service.control(&json!({"down": false, "forbidden": true}));
    // No answer is remembered for a second: come until the API server is asked again.
    while !format!("{:?}", cluster.controller.log()).contains("may create tokenreviews") {
        assert_eq!(cluster.report(&new, "b", "uid-of-b", 1).status, 503);
    }
    cluster.service.control(&json!({"forbidden": false}));
    while cluster.report(&new, "b", "uid-of-b", 1).status == 503 {
        std::thread::yield_now();
    }
    assert_eq!(cluster.report(&new, "b", "uid-of-b", 2).status, 200);
    cluster.controller.says("the Kubernetes API reviews tokens again");
    cluster.says_nothing_of(&new);
}

#[test]
fn a_proxy_shows_its_pods_token() {
    let cluster = Cluster::new();
    let token = cluster.token("a", &json!({}));
    let file = cluster.dir.write("token", &token);
    let (url, upstream) = (format!("http://{}", cluster.addr), echo().to_string());
    let proxy = |pod: &str| {
        let mut command = std::process::Command::new(program());
        command.args(["proxy", "--listen", "127.0.0.1:0", "--upstream", &upstream]);
        command.args(["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        command.args(["--termination-log", "/dev/null"]);
        command.args(["--controller", &url, "--controller-token-file", &file]);
        command.env("POD_NAMESPACE", "shop").env("POD_NAME", pod).env("POD_UID", "uid-of-a");
        Ebbtide::spawn(command)
    };
    let own = proxy("a");
    own.until_metric("ebbtide_report_attempts_total{result=\"ok\"} 1");
    let other = proxy("b");
    other.until_metric("ebbtide_report_attempts_total{result=\"http_error\"} 1");
    let log = format!("{:?}{:?}", own.log(), other.log());
    assert!(!log.contains(&token), "a secret in the log");
    cluster.says_nothing_of(&token);
}

#[test]
fn each_option_that_is_wrong_is_named() {
    let dir = Directory::new();
    let config = dir.write("config.yaml", "kubernetes: {url: here}");
    for (args, part) in [
        (&["--audience", "x"][..], "--auth kubernetes"),
        (&["--config", &config], "--auth kubernetes"),
        (&["--auth", "kubernetes", "--config", &config], "kubernetes: url"),
        (&["--auth", "kubernetes", "--audience", ""], "--audience"),
        (&["--auth", "kubernetes", "--token-file", "/dev/null"], "--auth token"),
    ] {
        let (status, _, error) = run(&[&["controller", "--check-config"], args].concat());
        assert_eq!(status, Some(64), "{args:?}: {error}");
        assert!(error.contains(part), "{args:?}: {error}");
    }
}
