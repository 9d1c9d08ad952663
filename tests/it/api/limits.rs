use std::net::SocketAddr;
use std::process::Command;

use super::{controller, post, report, send};
use crate::support::Directory;

/// The status that curl gets, coming from another address of this machine.
fn status_from(source: &str, addr: SocketAddr, path: &str) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--interface", source, "--output", "-", "--write-out", "%{http_code}"])
        .arg(format!("http://{addr}{path}"))
        .output()
        .expect("curl is installed; `make test` does that");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_source_that_asks_too_often_is_refused_before_it_says_who_it_is_and_others_are_not() {
    let directory = Directory::new();
    let tokens = directory.write("tokens", "0123456789abcdef-proxies");
    let rate = ["--max-source-rate", "1", "--auth", "token", "--token-file", &tokens];
    let (controller, addr) = controller(&rate);
    let refused = (0..1000)
        .map(|_| post(addr, &report("a", 1, "Serving")))
        .find(|reply| reply.status != 401)
        .expect("a bound");
    assert_eq!(refused.status, 429);
    assert!(refused.head.to_ascii_lowercase().contains("retry-after: 1"), "{}", refused.head);
    for part in ["127.0.0.1", "--max-source-rate"] {
        assert!(refused.body.contains(part), "{}", refused.body);
    }
    for _ in 0..20 {
        for probe in ["/livez", "/readyz"] {
            assert_eq!(send(addr, &format!("GET {probe}"), &[], "").status, 200);
        }
    }
    let metrics = status_from("127.0.0.2", addr, "/metrics");
    assert!(metrics.ends_with("200"), "{metrics}");
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("ebbtide_controller_throttled_requests_total "))
        .expect("a metric");
    assert_ne!(count, "0");
    let told = controller.says("too many requests, refusing some");
    assert_eq!(told["source"], "127.0.0.1");
}

#[test]
fn a_target_that_reports_too_often_is_refused_and_others_are_not() {
    let (_controller, addr) = controller(&["--max-report-rate", "1"]);
    let refused = (1..1000)
        .map(|sequence| post(addr, &report("a", sequence, "Serving")))
        .find(|reply| reply.status != 200)
        .expect("a bound");
    assert_eq!(refused.status, 429);
    assert!(refused.head.to_ascii_lowercase().contains("retry-after: 1"), "{}", refused.head);
    assert!(refused.body.contains("--max-report-rate"), "{}", refused.body);
    assert_eq!(post(addr, &report("b", 1, "Serving")).status, 200);
}

#[test]
fn what_is_unknown_is_ignored_and_what_is_wrong_is_said() {
    let (_controller, addr) = controller(&[]);
    let mut later = report("a", 1, "Serving");
    later["aFieldOfALaterVersion"] = serde_json::json!({"deep": [1, 2, 3]});
    assert_eq!(post(addr, &later).status, 200);
    for (field, value, part) in [
        ("schemaVersion", serde_json::json!("v2"), "schemaVersion `v2`"),
        ("phase", serde_json::json!("Sleeping"), "phase `Sleeping`"),
        ("podName", serde_json::json!("x".repeat(300)), "podName"),
        ("sequence", serde_json::json!(-1), "not a report"),
    ] {
        let mut wrong = report("a", 2, "Serving");
        wrong[field] = value;
        let reply = post(addr, &wrong);
        assert_eq!(reply.status, 400, "{field}: {}", reply.body);
        assert!(reply.body.contains(part), "{field}: {}", reply.body);
    }
    let mut large = report("a", 3, "Serving");
    large["more"] = serde_json::json!("x".repeat(65 * 1024));
    assert_eq!(post(addr, &large).status, 413);
}
