use super::{controller, post, report};

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
