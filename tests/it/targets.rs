//! `ebbtide targets`: the fleet in a terminal.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::process::{program, run};
use crate::support::{Directory, Ebbtide, QUICK, Restrictions, echo, http};

/// Reports for a pod that serves, with a class of this name.
fn report(controller: &Ebbtide, pod: &str, class: &str) {
    let addr = controller.takes_reports();
    let body = serde_json::json!({
        "schemaVersion": "v1", "namespace": "shop", "podName": pod, "podUID": "u1",
        "startTime": "2024-05-01T10:00:00Z", "sequence": 1, "phase": "Serving",
        "drainTimeoutSeconds": 300, "activeConnections": 2, "drainBlockingConnections": 2,
        "byClass": {class: 2}, "forcedCloses": 0, "rejected": 0, "oldestConnectionSeconds": 7,
        "listeners": []
    })
    .to_string();
    let mut stream = TcpStream::connect(addr).expect("the controller");
    let length = body.len();
    write!(
        stream,
        "POST /v1/reports HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("sent");
    assert_eq!(http::receive(&mut stream).expect("an answer").status, 200);
}

#[test]
fn targets_are_listed_chosen_and_asked() {
    let controller = Ebbtide::controller("127.0.0.1:0");
    let url = format!("http://{}", controller.takes_reports());
    report(&controller, "cart-0", "websocket");
    report(&controller, "search-0", "http2");
    let targets = |args: &[&str]| run(&[&["targets", "--controller", &url], args].concat());
    let (status, out, error) = targets(&[]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.starts_with("2 targets, 0 leaving with 0 connections"), "{out}");
    for part in ["shop/cart-0", "shop/search-0", "Serving", "2 websocket", "registered"] {
        assert!(out.contains(part), "no {part} in {out}");
    }
    for name in ["cart", "shop/cart", "cart-0", "shop/cart-0", "shop~cart-0~u1"] {
        let (status, out, error) = targets(&["-o", "json", name]);
        assert_eq!(status, Some(0), "{name}: {error}");
        let list: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{name}: {list}");
        assert_eq!(list[0]["report"]["podName"], "cart-0");
    }
    let (status, out, error) = targets(&["drain", "cart-0"]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.starts_with("asked shop/cart-0 to drain"), "{out}");
    assert!(targets(&[]).1.contains("asked to drain"));
    assert_eq!(targets(&["undrain", "shop/cart-0"]).0, Some(0));
    assert!(!targets(&[]).1.contains("asked to drain"));
}

#[test]
fn a_real_proxy_is_drained_by_the_command() {
    let controller = Ebbtide::controller("127.0.0.1:0");
    let url = format!("http://{}", controller.takes_reports());
    let args = [&["--controller", url.as_str()], &QUICK[..]].concat();
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let pod = proxy.status()["podName"].as_str().expect("a name").to_owned();
    let targets = |args: &[&str]| run(&[&["targets", "--controller", &url], args].concat());
    let listed = || targets(&[&pod]).0 == Some(0);
    while !listed() {
        std::thread::yield_now();
    }
    assert_eq!(targets(&["drain", &pod]).0, Some(0));
    proxy.until_phase("Drained");
    assert_eq!(targets(&["undrain", &pod]).0, Some(0));
    proxy.until_phase("Serving");
}

#[test]
fn what_goes_wrong_says_what_to_do() {
    let controller = Ebbtide::controller("127.0.0.1:0");
    let url = format!("http://{}", controller.takes_reports());
    let directory = Directory::new();
    let empty = directory.write("token", "\n");
    let free = crate::support::free_port();
    let nobody = format!("http://127.0.0.1:{free}");
    for (args, code, parts) in [
        (vec!["--controller", &nobody], 69, &["no controller there", "EBBTIDE_CONTROLLER"][..]),
        (vec!["--controller", "nowhere"], 64, &["--controller", "write http://"]),
        (vec!["--controller", &url, "cart"], 69, &["`cart`", "`ebbtide targets` lists them"]),
        (vec!["--controller", &url, "drain", "cart"], 69, &["`cart`", "lists them"]),
        (vec!["--controller", &url, "drain"], 64, &["<TARGET>"]),
        (vec!["--controller", &url, "--token-file", "/no/such"], 64, &["/no/such", "No such file"]),
        (vec!["--controller", &url, "--token-file", &empty], 64, &["holds no token"]),
        (vec!["--controller", &url, "-o", "xml"], 64, &["table, json"]),
    ] {
        let (status, _, error) = run(&[&["targets"][..], &args].concat());
        assert_eq!(status, Some(code), "{args:?}: {error}");
        for part in parts {
            assert!(error.contains(part), "{args:?}: no `{part}` in: {error}");
        }
    }
}

/// What a report says must not reach the terminal as a command to it.
/// Our controller takes no such word; this is somebody else's.
fn careless_controller(list: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).expect("a head");
        }
        let length = list.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.get_mut().write_all((head + &list).as_bytes()).expect("taken");
    });
    addr
}

#[test]
fn a_terminal_is_told_nothing_by_reports() {
    let controller = Ebbtide::controller("127.0.0.1:0");
    report(&controller, "cart-0", "evil");
    let list = http::request(controller.takes_reports(), "GET", "/v1/targets");
    let mut list = list.expect("an answer").json();
    list[0]["report"]["byClass"] = serde_json::json!({"\u{1b}]0;evil\u{7}\u{9b}2J\r": 2});
    let url = format!("http://{}", careless_controller(list.to_string()));
    let (status, out, error) = run(&["targets", "--controller", &url]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.contains("]0;evil"), "{out}");
    assert!(!out.chars().any(|it| it.is_control() && it != '\n'), "{out:?}");
}

#[test]
fn a_watch_goes_on_when_the_controller_was_away() {
    let controller = Ebbtide::controller("127.0.0.1:0");
    let addr = controller.takes_reports();
    report(&controller, "cart-0", "http");
    let mut command = Command::new(program());
    command.args(["targets", "--watch", "-o", "json", "--controller", &format!("http://{addr}")]);
    let _confined = Restrictions::of_a_pod().apply(&mut command);
    let mut watch =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let mut errors = BufReader::new(watch.stderr.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert!(line().contains("cart-0"));
    drop(controller);
    let error = errors.next().expect("a line").expect("text");
    assert!(error.contains("no controller there"), "{error}");
    let controller = Ebbtide::controller(&addr.to_string());
    controller.takes_reports();
    while line() != "[]" {}
    watch.kill().expect("it runs");
    watch.wait().expect("a child of ours");
}
