//! The controller answers what `docs/openapi.yaml` says, whatever it is asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use serde_json::{Value, json};

use crate::api::{report, send};
use crate::support::{Directory, Ebbtide, PATIENCE, http};

/// A proxy's and an operator's at once, so that one header opens everything.
const TOKEN: &str = "0123456789abcdef-both";

/// A controller that knows a target which serves and one which drains. It hears everybody however often he comes:
/// what a fuzzer sends comes from one place, for few targets.
fn controller(args: &[&str]) -> (Ebbtide, SocketAddr) {
    let rates = ["--max-report-rate", "1000000", "--max-source-rate", "1000000"];
    let line = ["controller", "--listen", "127.0.0.1:0"];
    let controller = Ebbtide::start(&[&line[..], &rates, args].concat());
    let addr = controller.takes_reports();
    for (name, phase) in [("cart-0", "Serving"), ("cart-1", "Draining")] {
        let mut report = report(name, 1, phase);
        report["byClass"] = json!({"http": 1});
        report["drainDeadline"] = json!("2024-05-01T10:05:00Z");
        report["listeners"] = json!([{"address": "::", "port": 8080, "state": "Accepting"}]);
        let token = format!("Authorization: Bearer {TOKEN}");
        let reply = send(addr, "POST /v1/reports", &[&token], &report.to_string());
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    (controller, addr)
}

/// Lets schemathesis ask everything of the document but the stream, whose answer never ends, and the document
/// itself, which it leaves out.
fn ask_everything(addr: SocketAddr, args: &[&str]) {
    let directory = Directory::new();
    let output = Command::new("python3")
        .args(["-m", "schemathesis.cli", "run", &format!("http://{addr}/openapi.yaml")])
        .args(["--no-color", "--phases", "examples,coverage,fuzzing", "--max-examples", "20"])
        // As for everything that a test waits for, on a busy machine too.
        .args(["--request-timeout", &PATIENCE.as_secs().to_string()])
        .args(["--generation-deterministic", "--continue-on-failure"])
        .args(["--exclude-operation-id", "events"])
        .args(args)
        .current_dir(directory.path())
        .output()
        .expect("python3");
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "is tests/requirements.txt installed?\n{text}{error}");
    assert!(text.contains("Tested: 10\n"), "every operation but two was asked: {text}");
}

#[test]
fn a_controller_for_whoever_can_connect_keeps_its_word() {
    let (_controller, addr) = controller(&[]);
    // Nobody need say who he is here.
    ask_everything(addr, &["--exclude-checks", "ignored_auth"]);
}

#[test]
fn a_controller_that_wants_tokens_keeps_its_word() {
    let directory = Directory::new();
    let file = directory.write("tokens", TOKEN);
    let args = ["--auth", "token", "--token-file", &file, "--operator-token-file", &file];
    let (_controller, addr) = controller(&args);
    ask_everything(addr, &["--header", &format!("Authorization: Bearer {TOKEN}")]);
}

/// The lines of an answer's head, in lower case; its body may never end.
fn head_of(addr: SocketAddr, path: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(addr).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n").expect("writes");
    let lines = BufReader::new(stream).lines().map(|line| line.expect("text").to_lowercase());
    lines.take_while(|line| !line.is_empty()).collect()
}

#[test]
fn what_the_fuzzer_leaves_out_is_documented_too() {
    let (_controller, addr) = controller(&[]);
    let text = http::request(addr, "GET", "/openapi.yaml").expect("an answer").body;
    let document: Value = serde_saphyr::from_str(&text).expect("YAML");
    for path in ["/v1/events", "/openapi.yaml"] {
        let answer = &document["paths"][path]["get"]["responses"]["200"];
        let head = head_of(addr, path);
        assert_eq!(head[0], "http/1.1 200 ok");
        let content = answer["content"].as_object().expect("a type").keys().next().expect("one");
        assert!(head.contains(&format!("content-type: {content}")), "{path}: {head:?}");
        for (name, header) in answer["headers"].as_object().into_iter().flatten() {
            let value = header["schema"]["const"].as_str().expect("a value");
            let line = format!("{}: {value}", name.to_lowercase());
            assert!(head.contains(&line), "{path}: {line} in {head:?}");
        }
    }
}

#[test]
fn what_is_shown_of_a_target_is_documented() {
    let (_controller, addr) = controller(&[]);
    let get = |path| http::request(addr, "GET", path).expect("an answer").body;
    let document: Value = serde_saphyr::from_str(&get("/openapi.yaml")).expect("YAML");
    let schema = json!({
        "type": "array", "minItems": 2, "items": {"$ref": "#/components/schemas/Target"},
        "components": document["components"],
    });
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let list: Value = serde_json::from_str(&get("/v1/targets")).expect("JSON");
    let complaints: Vec<_> = validator.iter_errors(&list).map(|it| it.to_string()).collect();
    assert_eq!(complaints, [""; 0], "{list:#}");
    for name in ["Target", "Report"] {
        let shown = if name == "Target" { &list[1] } else { &list[1]["report"] };
        for field in shown.as_object().expect("an object").keys() {
            let documented = &document["components"]["schemas"][name]["properties"][field];
            assert!(documented.is_object(), "{field} of a {name} is not documented");
        }
    }
    let mut wrong = list.clone();
    wrong[0]["goal"] = json!("elsewhere");
    assert!(!validator.is_valid(&wrong));
}
