//! What is under `deploy/monitoring/`: every metric and label in it is one that is really exported.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Directory, Ebbtide, connect, echo, exchange, http};

/// Labels that Prometheus gives to whatever it scrapes.
const SCRAPED: [&str; 2] = ["job", "instance"];

/// A metric's labels and each one's values.
type Labels = BTreeMap<String, BTreeSet<String>>;

fn monitoring(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring").join(name)
}

fn dashboard() -> Value {
    let text = std::fs::read_to_string(monitoring("grafana-dashboard.json")).expect("readable");
    serde_json::from_str(&text).expect("JSON")
}

/// Every query of the dashboard, with what Grafana puts into it.
fn queries(dashboard: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let panels = list(&dashboard["panels"]);
    let targets = panels.iter().flat_map(|panel| list(&panel["targets"]));
    let notes = list(&dashboard["annotations"]["list"]);
    let filled = |query: &Value| {
        let query = query["expr"].as_str().expect("an expression");
        query
            .replace("$__rate_interval", "1m")
            .replace("$proxies", ".*")
            .replace("$controllers", ".*")
    };
    targets.chain(notes).map(|it| filled(&it)).collect()
}

fn rules() -> Vec<Value> {
    let text = std::fs::read_to_string(monitoring("alerts.yaml")).expect("readable");
    let file: Value = serde_saphyr::from_str(&text).expect("YAML");
    let groups = file["groups"].as_array().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

/// A metric's name, and its labels with the values that are asked for.
type Selector = (String, Vec<(String, String)>);

/// The metrics that an expression reads, with their labels, and the labels that it groups by.
fn read(query: &str) -> (Vec<Selector>, Vec<String>) {
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut metrics = Vec::new();
    for (at, _) in query.match_indices("ebbtide_") {
        let name = word(&query[at..]);
        let rest = &query[at + name.len()..];
        let mut labels = Vec::new();
        if let Some((inside, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            for pair in inside.split(", ") {
                let label = word(pair);
                let value = pair.split('"').nth(1).expect("a value in quotes").to_owned();
                labels.push((label, value));
            }
        }
        metrics.push((name, labels));
    }
    let mut grouped = Vec::new();
    for by in ["by (", "without (", "on ("] {
        for (at, _) in query.match_indices(by) {
            let inside = query[at + by.len()..].split(')').next().expect("a closing bracket");
            grouped.extend(inside.split(", ").map(str::to_owned));
        }
    }
    (metrics, grouped)
}

/// What an exposition has.
fn take(text: &str, all: &mut BTreeMap<String, Labels>) {
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let end = line.find(['{', ' ']).expect("a value");
        let labels = all.entry(line[..end].to_owned()).or_default();
        let Some((inside, _)) = line[end..].strip_prefix('{').and_then(|it| it.split_once('}'))
        else {
            continue;
        };
        for pair in inside.split("\",") {
            let (name, value) = pair.split_once("=\"").expect("a label");
            labels.entry(name.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
        }
    }
}

/// What a proxy and a controller export after everything that makes a series appear has happened.
fn exported() -> BTreeMap<String, Labels> {
    let controller = Ebbtide::start(&[
        "controller",
        "--listen",
        "127.0.0.1:0",
        "--assume-weight-zero-after",
        "0s",
    ]);
    let addr = controller.takes_reports();
    let url = format!("http://{addr}");
    let proxy =
        Ebbtide::proxy(&echo().to_string(), &["--controller", &url, "--drain-delay", "20s"]);
    // What is no HTTP: unknown, TLS, and an answer before there was a request.
    let streams =
        [&b"\0\x01\x02 no request at all\r\n\r\n"[..], b"\x16\x03", b"hello"].map(|text| {
            let mut stream = connect(proxy.addr());
            exchange(&mut stream, text);
            stream
        });
    proxy.until("opaque", |status| status["byClass"]["opaque"] == 3);
    proxy.post("/drain");
    proxy.until_phase("Draining");
    let mut all = BTreeMap::new();
    let metrics = |addr| http::request(addr, "GET", "/metrics").expect("metrics").body;
    // The controller counts its services once a second.
    let has = |text: &str| text.contains("state=\"draining\"} 1");
    let mut text = metrics(addr);
    while !has(&text) {
        std::thread::yield_now();
        text = metrics(addr);
    }
    take(&text, &mut all);
    take(&metrics(proxy.admin()), &mut all);
    drop(streams);
    all
}

#[test]
fn every_metric_and_label_that_is_watched_is_exported() {
    let exported = exported();
    let alerts = rules();
    let alerts = alerts.iter().map(|rule| rule["expr"].as_str().expect("text").to_owned());
    let mut looked = 0;
    for query in alerts.chain(queries(&dashboard())) {
        let (metrics, grouped) = read(&query);
        assert!(!metrics.is_empty(), "{query}");
        let mut known: BTreeSet<&str> = SCRAPED.into_iter().chain(["le"]).collect();
        for (name, labels) in &metrics {
            let has =
                exported.get(name).unwrap_or_else(|| panic!("nobody exports {name}: {query}"));
            known.extend(has.keys().map(String::as_str));
            for (label, value) in labels {
                if SCRAPED.contains(&label.as_str()) {
                    continue;
                }
                let values = has.get(label);
                let values = values.unwrap_or_else(|| panic!("{name} has no {label}: {query}"));
                // Phases, states and ways to leave stand there from the start; how attempts and orders fail
                // appears with the first failure.
                let appears = ["ebbtide_report_attempts_total", "ebbtide_controller_orders_total"];
                let starts = !appears.contains(&name.as_str());
                for value in value.split('|').filter(|_| starts) {
                    assert!(values.contains(value), "{name} has no {label}={value}: {values:?}");
                }
            }
            looked += 1;
        }
        for label in grouped {
            assert!(known.contains(label.as_str()), "no label {label}: {query}");
        }
    }
    assert!(looked > 50, "this does not see the queries: {looked}");
}

#[test]
fn prometheus_understands_the_rules_and_the_queries() {
    let promtool = |args: &[&str]| {
        let output = Command::new("promtool").args(args).output();
        let output =
            output.expect("promtool is there; `make test` does that: apt-get install prometheus");
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    };
    let alerts = monitoring("alerts.yaml");
    promtool(&["check", "rules", alerts.to_str().expect("a path")]);
    let directory = Directory::new();
    let records: Vec<Value> = queries(&dashboard())
        .iter()
        .enumerate()
        .map(|(at, query)| serde_json::json!({"record": format!("panel:{at}"), "expr": query}))
        .collect();
    let file = serde_json::json!({"groups": [{"name": "dashboard", "rules": records}]}).to_string();
    promtool(&["check", "rules", &directory.write("dashboard.yaml", &file)]);
    // They fire when they should, and not before.
    let tests = std::fs::read_to_string(monitoring("alerts-test.yaml")).expect("readable");
    let tests = tests.replace("alerts.yaml", alerts.to_str().expect("a path"));
    promtool(&["test", "rules", &directory.write("test.yaml", &tests)]);
}

#[test]
fn every_alert_says_what_to_do_and_is_documented() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/controller.md");
    let docs = std::fs::read_to_string(docs).expect("docs/controller.md");
    let tests = std::fs::read_to_string(monitoring("alerts-test.yaml")).expect("readable");
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = rule["alert"].as_str().expect("an alert");
        assert!(names.insert(name.to_owned()), "{name} is there twice");
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].is_string(), "{name}: no {text}");
        }
        assert!(
            ["info", "warning", "critical"].map(Value::from).contains(&rule["labels"]["severity"])
        );
        assert!(docs.contains(&format!("`{name}`")), "{name} is not in docs/controller.md");
        assert!(
            tests.contains(&format!("alertname=\"{name}\", alertstate=\"firing\", ")),
            "nothing makes {name} fire"
        );
    }
    assert!(names.len() >= 8);
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is taken");
        assert!(titles.insert(title), "{title} is there twice");
        let place = &panel["gridPos"];
        let at = |name: &str| place[name].as_u64().expect("a number");
        assert!(at("x") + at("w") <= 24, "{title} leaves the grid");
        for y in at("y")..at("y") + at("h") {
            for x in at("x")..at("x") + at("w") {
                assert!(taken.insert((x, y)), "{title} lies on another panel");
            }
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(panel["description"].is_string(), "{title} says nothing");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<_> = variables.iter().map(|it| it["name"].clone()).collect();
    assert_eq!(names, ["datasource", "proxies", "controllers"]);
}
