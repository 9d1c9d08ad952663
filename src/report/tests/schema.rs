//! What is really sent is what `docs/report.schema.json` says, and what `docs/openapi.yaml` says is taken.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::support::{Controller, FOREVER, Proxy, reporter, wish};
use crate::drain::Phase;

fn schema() -> Value {
    let text = include_str!("../../../docs/report.schema.json");
    serde_json::from_str(text).expect("the schema is JSON")
}

async fn sent(phase: Phase) -> Value {
    let mut controller = Controller::start();
    let _proxy = Proxy::start(phase, reporter(&wish(&controller.url, FOREVER)));
    controller.next().await.report
}

fn complaints(report: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(&schema()).expect("the schema is one");
    validator.iter_errors(report).map(|error| error.to_string()).collect()
}

#[tokio::test]
async fn every_phase_sends_what_the_schema_says() {
    for phase in Phase::ALL {
        let report = sent(phase).await;
        assert_eq!(complaints(&report), [""; 0], "{report:#}");
    }
}

#[tokio::test]
async fn what_is_sent_is_taken() {
    let document: Value =
        serde_saphyr::from_str(include_str!("../../../docs/openapi.yaml")).expect("YAML");
    let components = &document["components"];
    let taken = json!({"$ref": "#/components/schemas/Report", "components": components});
    let validator = jsonschema::validator_for(&taken).expect("the schema is one");
    for phase in Phase::ALL {
        let report = sent(phase).await;
        let complaints: Vec<_> = validator.iter_errors(&report).map(|it| it.to_string()).collect();
        assert_eq!(complaints, [""; 0], "{report:#}");
    }
    let fields = |schema: &Value| -> BTreeSet<String> {
        schema["properties"].as_object().expect("properties").keys().cloned().collect()
    };
    assert_eq!(fields(&components["schemas"]["Report"]), fields(&schema()));
}

#[test]
fn the_example_in_the_page_is_a_report() {
    let page = include_str!("../../../docs/report.md");
    let (_, rest) = page.split_once("```json\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let example: Value = serde_json::from_str(example).expect("JSON");
    assert_eq!(complaints(&example), [""; 0]);
    let missing = schema()["properties"]
        .as_object()
        .expect("an object")
        .keys()
        .find(|field| example.get(field.as_str()).is_none())
        .cloned();
    assert_eq!(missing, None, "the example shows every field");
}

#[tokio::test]
async fn every_field_that_is_sent_is_in_the_schema_and_in_the_page() {
    let page = include_str!("../../../docs/report.md");
    let report = sent(Phase::Draining).await;
    let fields = report.as_object().expect("an object");
    let known = schema()["properties"].as_object().expect("an object").clone();
    for field in fields.keys() {
        assert!(known.contains_key(field), "{field} is not in the schema");
        assert!(page.contains(&format!("| `{field}` |")), "{field} is not in the page");
    }
    // `clock.rs` sees that it is repeated once a controller has told it.
    for field in known.keys().filter(|field| *field != "formerWeight") {
        assert!(fields.contains_key(field), "{field} is never sent");
    }
}

#[tokio::test]
async fn a_report_with_a_broken_field_is_no_report() {
    let report = sent(Phase::Draining).await;
    let broken = [
        ("schemaVersion", json!("v2")),
        ("podName", json!("")),
        ("startTime", json!("yesterday")),
        ("sequence", json!(0)),
        ("phase", json!("Sleeping")),
        ("reason", json!("PreStopHook")),
        ("drainDeadline", json!(17)),
        ("drainTimeoutSeconds", json!("5m")),
        ("activeConnections", json!(-1)),
        ("drainBlockingConnections", json!(1.5)),
        ("formerWeight", json!(-1)),
        ("byClass", json!({"websocket": "many"})),
        ("listeners", json!([{"port": 70000, "address": "::", "state": "Accepting"}])),
        ("listeners", json!([{"port": 80, "address": "::", "state": "Open"}])),
    ];
    for (field, value) in broken {
        let mut report = report.clone();
        report[field] = value;
        assert!(!complaints(&report).is_empty(), "{field}: {report:#}");
    }
    for field in ["schemaVersion", "podName", "startTime", "sequence", "phase", "listeners"] {
        let mut report = report.clone();
        report.as_object_mut().expect("an object").remove(field);
        assert!(!complaints(&report).is_empty(), "{field} is missing");
    }
}
