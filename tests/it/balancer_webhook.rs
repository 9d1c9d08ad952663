//! The controller's webhook against a receiver in Python, which verifies the signatures by itself.

use ebbtide::controller::balancer::{Action, Applied, Config, ErrorKind, Member, Outcome};
use serde_json::{Value, json};
use std::time::Duration;

use crate::support::balancer::{Driven, applied, failed, order};
use crate::support::peers::Peer;
use crate::support::{Directory, application, free_port};

const SECRET: &str = "correct horse battery staple";

/// Says in a line what it has received, and answers what the request's query asks for: a `status`, a
/// `body`, header fields; `hang` is no answer.
const RECEIVER: &str = r#"
import hashlib, hmac, http.server, json, ssl, threading, time, urllib.parse

class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        timestamp = self.headers["Ebbtide-Timestamp"]
        digest = hmac.new(SECRET, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        is_known = hmac.compare_digest("sha256=" + digest, self.headers["Ebbtide-Signature"])
        is_fresh = abs(time.time() - int(timestamp)) < 300
        print(json.dumps({
            "verified": is_known and is_fresh, "path": self.path, "body": json.loads(body),
            "type": self.headers["Content-Type"],
        }), flush=True)
        answer = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(self.path).query))
        if "hang" in answer:
            threading.Event().wait()
        status = int(answer.pop("status", "200")) if is_known and is_fresh else 401
        text = answer.pop("body", "").encode()
        self.send_response(status)
        for name, value in answer.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
if CERTIFICATE:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

struct Scene {
    directory: Directory,
    secret_file: String,
    receiver: Peer,
}

impl Scene {
    fn new() -> Self {
        Self::with("http", Directory::new())
    }

    fn with(scheme: &str, directory: Directory) -> Self {
        let certificate = match scheme {
            "https" => format!("\"{}\"", directory.path().join("server.pem").display()),
            _ => "None".to_owned(),
        };
        let script = format!("SECRET = b{SECRET:?}\nCERTIFICATE = {certificate}\n{RECEIVER}");
        let receiver = Peer::python(&script);
        let secret_file = directory.write("secret", format!("{SECRET}\n"));
        Scene { directory, secret_file, receiver }
    }

    /// The adapter, with a receiver that answers this.
    fn driven(&self, answer: &[(&str, &str)]) -> Driven {
        let query: Vec<String> =
            answer.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let url = format!("http://{}/orders?{}", self.receiver.upstream, query.join("&"));
        self.driven_by(&url, "")
    }

    fn driven_by(&self, url: &str, more: &str) -> Driven {
        let file = &self.secret_file;
        Driven::new(&format!("webhook: {{ url: {url:?}, secret-file: {file:?}{more} }}"))
    }

    /// What becomes of an order that is answered so.
    fn when(&self, action: Action, answer: &[(&str, &str)]) -> Outcome {
        let outcome = self.driven(answer).does(action, &pod());
        assert_eq!(self.receiver.json()["verified"], true);
        outcome
    }
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |all, byte| all + &format!("%{byte:02X}"))
}

fn pod() -> Member {
    Member {
        namespace: "shop".into(),
        pod_name: "cart-0".into(),
        pod_uid: "0b5c2f0e-6f3c-4b59-9d8b-0f8f6f0f4a11".into(),
        service: "cart".into(),
        ip: Some([10, 0, 0, 7].into()),
        ports: vec![8080, 8443],
    }
}

#[test]
fn an_order_arrives_signed_and_as_the_docs_have_it() {
    let scene = Scene::new();
    let driven = scene.driven(&[]);
    let mut register = order(Action::Register, &pod());
    register.former_weight = Some(20);
    applied(driven.apply(&[register]).remove(0));
    let received = scene.receiver.json();
    assert_eq!(received["verified"], true, "{received}");
    assert_eq!(received["type"], "application/json");
    assert_eq!(received["path"], "/orders?");

    let page = include_str!("../../docs/webhook.md");
    let example = page.split("```json\n").nth(1).and_then(|it| it.split("```").next());
    let example: Value = serde_json::from_str(example.expect("an example")).expect("JSON");
    assert_eq!(received["body"], example);

    for (action, name) in [(Action::WeightZero, "weight-zero"), (Action::Deregister, "deregister")]
    {
        let unknown = Member { pod_name: "host".into(), ..Member::default() };
        applied(driven.does(action, &unknown));
        let body = &scene.receiver.json()["body"];
        assert_eq!(body["action"], name);
        assert_eq!([&body["podIP"], &body["formerWeight"]], [&Value::Null, &Value::Null]);
        assert_eq!([&body["namespace"], &body["ports"]], [&json!(""), &json!([])]);
    }
}

#[test]
fn a_success_is_applied_unless_it_says_pending() {
    use Action::WeightZero;
    let scene = Scene::new();
    let plain = Outcome::from(Applied::default());
    for (status, body) in [
        ("200", ""),
        ("204", ""),
        ("202", "taken"),
        ("200", "{}"),
        ("200", "[1]"),
        ("200", r#"{"state":"applied","more":1}"#),
    ] {
        let outcome = scene.when(WeightZero, &[("status", status), ("body", body)]);
        assert_eq!(outcome, plain, "{status} {body}");
    }
    let outcome = scene.when(WeightZero, &[("body", r#"{"formerWeight":30,"sessions":4}"#)]);
    let told = applied(outcome);
    assert_eq!((told.former_weight, told.sessions), (Some(30), Some(4)));

    let pending = r#" {"state":"pending"}"#;
    let outcome = scene.when(WeightZero, &[("status", "202"), ("body", pending)]);
    assert_eq!(outcome, Outcome::NotYet(Duration::from_secs(1)));
    let outcome = scene.when(WeightZero, &[("body", pending), ("Retry-After", "7")]);
    assert_eq!(outcome, Outcome::NotYet(Duration::from_secs(7)));

    // A misspelt `pending` must not end a lame duck.
    for body in [r#"{"state":"Pending"}"#, r#"{"state":1}"#, r#"{"sessions":-1}"#, "{"] {
        let outcome = scene.when(WeightZero, &[("body", body)]);
        failed(outcome, ErrorKind::Refused, &["docs/webhook.md"]);
    }
}

#[test]
fn every_other_status_is_sorted() {
    use Action::{Deregister, Register, WeightZero};
    let scene = Scene::new();
    for status in ["401", "403"] {
        let outcome = scene.when(WeightZero, &[("status", status), ("body", "who\nare you")]);
        failed(outcome, ErrorKind::Denied, &[status, "who are you", "webhook.secret-file"]);
    }
    for status in ["404", "410"] {
        for action in [WeightZero, Register] {
            let outcome = scene.when(action, &[("status", status)]);
            failed(outcome, ErrorKind::UnknownTarget, &[status, "webhook.url"]);
        }
        applied(scene.when(Deregister, &[("status", status)]));
    }
    for (status, answered, expected) in [
        ("429", "5", Some(5)),
        ("503", "5", Some(5)),
        ("503", "Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
        ("429", "99999999", Some(60)),
        ("429", "soon", None),
    ] {
        let answer = [("status", status), ("Retry-After", answered)];
        let error = failed(scene.when(WeightZero, &answer), ErrorKind::Throttled, &[status]);
        assert_eq!(error.retry_after, expected.map(Duration::from_secs), "{answered}");
    }
    let answer = [("status", "307"), ("Location", "/elsewhere")];
    failed(scene.when(WeightZero, &answer), ErrorKind::Refused, &["307", "redirects"]);
    assert!(scene.receiver.said().is_empty(), "the redirect was followed");
    for status in ["400", "500", "503"] {
        let outcome = scene.when(WeightZero, &[("status", status), ("body", "sorry")]);
        failed(outcome, ErrorKind::Refused, &[status, "sorry"]);
    }
}

#[test]
fn the_secret_is_read_again_for_each_order() {
    let scene = Scene::new();
    let driven = scene.driven(&[]);
    applied(driven.does(Action::WeightZero, &pod()));
    scene.directory.write("secret", "another");
    let outcome = driven.does(Action::WeightZero, &pod());
    failed(outcome, ErrorKind::Denied, &["401", "webhook.secret-file"]);
    scene.directory.write("secret", " \n");
    failed(driven.does(Action::WeightZero, &pod()), ErrorKind::Denied, &["secret", "empty"]);
    scene.directory.write("secret", SECRET);
    applied(driven.does(Action::WeightZero, &pod()));
}

#[test]
fn a_receiver_that_does_not_answer_is_told_apart() {
    let scene = Scene::new();
    let hangs = format!("http://{}/?hang=1", scene.receiver.upstream);
    let outcome = scene.driven_by(&hangs, ", timeout: 300ms").does(Action::WeightZero, &pod());
    failed(outcome, ErrorKind::Timeout, &["300ms", "pending", "webhook.timeout"]);

    let nobody = format!("http://127.0.0.1:{}/", free_port());
    let outcome = scene.driven_by(&nobody, "").does(Action::WeightZero, &pod());
    failed(outcome, ErrorKind::Unreachable, &["nobody answers", "refused"]);

    let breaks = format!("http://{}/", application(drop));
    let outcome = scene.driven_by(&breaks, "").does(Action::WeightZero, &pod());
    failed(outcome, ErrorKind::Unreachable, &["broke"]);

    let large = "x".repeat(70 * 1024);
    let url = format!(
        "http://{}/",
        application(move |mut stream| {
            use std::io::{Read, Write};
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", large.len());
            let _ = stream.write_all((head + &large).as_bytes());
        })
    );
    let outcome = scene.driven_by(&url, "").does(Action::WeightZero, &pod());
    failed(outcome, ErrorKind::Refused, &["longer than"]);
}

#[test]
fn only_a_receiver_with_a_trusted_certificate_is_told() {
    let directory = Directory::new();
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let other =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let ca = directory.write("ca.pem", certified.cert.pem());
    let other = directory.write("other.pem", other.cert.pem());
    let pair = format!("{}{}", certified.signing_key.serialize_pem(), certified.cert.pem());
    directory.write("server.pem", pair);
    let scene = Scene::with("https", directory);
    let port = scene.receiver.upstream.rsplit_once(':').expect("a port").1;
    let url = format!("https://localhost:{port}/");

    let driven = scene.driven_by(&url, &format!(", ca: {ca:?}"));
    applied(driven.does(Action::WeightZero, &pod()));
    assert_eq!(scene.receiver.json()["verified"], true);
    let driven = scene.driven_by(&url, &format!(", ca: {other:?}"));
    let outcome = driven.does(Action::WeightZero, &pod());
    failed(outcome, ErrorKind::Denied, &["TLS", "webhook.ca"]);
    assert!(scene.receiver.said().is_empty());
}

#[test]
fn a_wrong_configuration_names_the_field() {
    let directory = Directory::new();
    let secret = directory.write("secret", SECRET);
    let empty = directory.write("empty", "");
    for (yaml, field) in [
        (format!("url: hooks, secret-file: {secret:?}"), "webhook.url: "),
        (format!("url: 'ftp://a/b', secret-file: {secret:?}"), "webhook.url: "),
        (format!("url: 'http://a:b@c/', secret-file: {secret:?}"), "webhook.url: "),
        (format!("url: 'http://a b/', secret-file: {secret:?}"), "webhook.url: "),
        ("url: 'http://a/', secret-file: /nonexistent".to_owned(), "webhook.secret-file: "),
        (format!("url: 'http://a/', secret-file: {empty:?}"), "webhook.secret-file: "),
        (format!("url: 'http://a/', secret-file: {secret:?}, timeout: 5"), "webhook.timeout: "),
        (format!("url: 'https://a/', secret-file: {secret:?}, ca: {secret:?}"), "webhook.ca: "),
        (format!("url: 'https://a/', secret-file: {secret:?}, ca: /nonexistent"), "webhook.ca: "),
    ] {
        let config: Config =
            serde_saphyr::from_str(&format!("webhook: {{ {yaml} }}")).expect("its form is right");
        let error = config.build().err().expect("an error").to_string();
        assert!(error.starts_with(&format!("balancer: {field}")), "{yaml}: {error}");
        assert!(!error.contains("controller-ca"), "{error}");
    }
}
