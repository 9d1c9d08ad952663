//! What the proxy answers to those who look at it, and to those who tell it what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;

use rustix::process::Signal;

use crate::support::{
    Directory, Ebbtide, PATIENCE, QUICK, application, connect, echo, exchange, expect_refused,
    expect_reset, http, open_to_all,
};

/// What a kubelet reads of a hook's answer (docs/kubernetes.md), with room to spare.
const HOOK_BODY_BYTES: usize = 8 * 1024;

/// What Kubernetes keeps of a termination log.
const TERMINATION_LOG_BYTES: usize = 4096;

fn status_of(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let reply = http::request(addr, method, path).expect("an answer");
    let allow = reply.head.lines().find_map(|line| line.strip_prefix("allow: "));
    (reply.status, allow.unwrap_or_default().to_owned())
}

#[test]
fn nothing_that_changes_anything_answers_on_the_admin_address() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    let mut stream = connect(proxy.addr());
    exchange(&mut stream, b"hello");
    let list = http::request(proxy.control(), "GET", "/connections").expect("an answer").json();
    let connection = format!("/connections/{}", list["connections"][0]["id"]);
    for path in ["/drain", "/undrain", "/connections", &connection, "/quitquitquit"] {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"] {
            let (status, _) = status_of(proxy.admin(), method, path);
            assert_eq!(status, 404, "{method} {path}");
        }
    }
    let status = proxy.status();
    assert_eq!((&status["phase"], &status["activeConnections"]), (&"Serving".into(), &1.into()));
    exchange(&mut stream, b"untouched");
}

#[test]
fn wrong_methods_are_told_the_right_ones() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    for path in ["/", "/livez", "/readyz", "/metrics", "/status", "/hooks/wait"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let (status, allow) = status_of(proxy.admin(), method, path);
            assert_eq!((status, allow.as_str()), (405, "GET, HEAD"), "{method} {path}");
        }
    }
    for (method, path, right) in [
        ("GET", "/drain", "POST"),
        ("DELETE", "/undrain", "POST"),
        ("POST", "/connections", "GET, HEAD"),
        ("GET", "/connections/1", "DELETE"),
        ("POST", "/status", "GET, HEAD"),
    ] {
        let (status, allow) = status_of(proxy.control(), method, path);
        assert_eq!((status, allow.as_str()), (405, right), "{method} {path}");
    }
    assert_eq!(proxy.status()["phase"], "Serving", "a GET on /drain has drained");
    assert_eq!(status_of(proxy.control(), "GET", "/metrics").0, 404);
}

#[test]
fn what_can_be_looked_at_answers() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    proxy.addr();
    assert_eq!(proxy.get("/livez").status, 200);
    proxy.until("accepting", |status| status["listeners"][0]["state"] == "Accepting");
    assert_eq!(proxy.get("/readyz").status, 200);
    let page = proxy.get("/");
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    // No external assets.
    for elsewhere in ["http://", "https://", "src=", "@import"] {
        assert!(!page.body.contains(elsewhere), "{elsewhere}");
    }
    assert_eq!(proxy.get("/live").json()["status"]["phase"], "Serving");
    assert_eq!(proxy.get("/status?pretty").status, 200);
    assert_eq!(proxy.get("/nothing").status, 404);
}

/// Asks for a hook and leaves the answer for later.
fn ask_hook(proxy: &Ebbtide) -> TcpStream {
    let mut stream = connect(proxy.admin());
    http::send(&mut stream, "/hooks/wait").expect("asked");
    stream
}

/// Whether an answer is there already.
fn is_answered(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("it does not wait");
    let answered = stream.peek(&mut [0]).is_ok();
    stream.set_nonblocking(false).expect("it waits");
    answered
}

#[test]
fn a_hook_returns_when_no_drain_begins() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &["--wait-for-drain", "300ms"]);
    // Twice on one kept connection, as after a liveness restart.
    let mut stream = ask_hook(&proxy);
    assert_eq!(http::receive(&mut stream).expect("an answer").json()["phase"], "Serving");
    http::send(&mut stream, "/hooks/wait?again=1").expect("asked");
    let reply = http::receive(&mut stream).expect("an answer");
    assert_eq!((reply.status, &reply.json()["phase"]), (200, &"Serving".into()));
}

#[test]
fn a_hook_that_comes_before_the_drain_waits_for_its_end() {
    let args = [&QUICK[..], &["--wait-for-drain", "60s"]].concat();
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let mut connection = connect(proxy.addr());
    exchange(&mut connection, b"hello");
    let mut hook = ask_hook(&proxy);
    proxy.post("/drain");
    proxy.until("refusing", |status| status["listeners"][0]["state"] == "Refusing");
    assert!(!is_answered(&hook));
    drop(connection);
    assert_eq!(http::receive(&mut hook).expect("an answer").json()["phase"], "Drained");
}

#[test]
fn many_ask_at_once_and_broken_hooks_do_not_touch_the_drain() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let mut connection = connect(proxy.addr());
    exchange(&mut connection, b"hello");
    proxy.post("/drain");
    let deadline = proxy.status()["drainDeadline"].clone();
    proxy.until("refusing", |status| status["listeners"][0]["state"] == "Refusing");
    let mut hooks: Vec<TcpStream> = (0..100).map(|_| ask_hook(&proxy)).collect();
    // Half of them break, in the two ways that a connection can.
    for (index, hook) in hooks.split_off(50).into_iter().enumerate() {
        if index % 2 == 0 {
            crate::support::application::reset(hook);
        }
    }
    // On the control address, too.
    let mut local = connect(proxy.control());
    http::send(&mut local, "/hooks/wait").expect("asked");
    let status = proxy.status();
    assert_eq!((&status["phase"], &status["drainDeadline"]), (&"Draining".into(), &deadline));
    exchange(&mut connection, b"untouched");
    assert!(!hooks.iter().any(is_answered), "a connection is open");
    drop(connection);
    for hook in hooks.iter_mut().chain([&mut local]) {
        let reply = http::receive(hook).expect("an answer");
        assert_eq!((reply.status, &reply.json()["phase"]), (200, &"Drained".into()));
        assert!(reply.body.len() < HOOK_BODY_BYTES);
    }
    // A kubelet that was restarted asks again: on a kept connection, and on a new one.
    let again = &mut hooks[0];
    http::send(again, "/hooks/wait").expect("asked");
    assert_eq!(http::receive(again).expect("an answer").json()["phase"], "Drained");
    let mut new = ask_hook(&proxy);
    assert_eq!(http::receive(&mut new).expect("an answer").json()["phase"], "Drained");
}

#[test]
fn hooks_are_answered_before_the_process_exits() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let mut connection = connect(proxy.addr());
    exchange(&mut connection, b"hello");
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    let mut hooks: Vec<TcpStream> = (0..50).map(|_| ask_hook(&proxy)).collect();
    // Answered behind them, so they have been heard.
    proxy.status();
    drop(connection);
    for hook in &mut hooks {
        assert_eq!(http::receive(hook).expect("an answer").json()["phase"], "Drained");
    }
    assert_eq!(proxy.finish().code(), Some(0));
}

/// An application that never ends a connection on which something was said.
fn stubborn() -> SocketAddr {
    application(|mut stream| {
        let mut words = Vec::new();
        let _ = stream.read_to_end(&mut words);
        while !words.is_empty() {
            std::thread::park();
        }
    })
}

#[test]
fn a_hook_returns_at_the_deadline() {
    let args = ["--drain-delay", "0", "--drain-timeout", "1s", "--settle-period", "100ms"];
    let proxy = Ebbtide::proxy(&stubborn().to_string(), &args);
    let mut connection = connect(proxy.addr());
    connection.write_all(b"x").expect("sent");
    proxy.until("one connection", |status| status["activeConnections"] == 1);
    proxy.post("/drain");
    let mut hook = ask_hook(&proxy);
    let reply = http::receive(&mut hook).expect("an answer").json();
    // Not Drained: that takes two more seconds, in which the connection may take its FIN.
    assert_eq!(reply["phase"], "Closing", "{reply:#}");
    let now = std::time::SystemTime::now();
    let deadline = reply["drainDeadline"].as_str().expect("a deadline");
    assert!(now >= humantime::parse_rfc3339(deadline).expect("a time"), "{reply:#}");
}

#[test]
fn a_hook_returns_when_the_drain_is_undone() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let mut connection = connect(proxy.addr());
    exchange(&mut connection, b"hello");
    proxy.post("/drain");
    let mut hook = ask_hook(&proxy);
    // Asked behind it on the same address, and answered: the hook has been heard.
    proxy.status();
    assert!(!is_answered(&hook));
    proxy.post("/undrain");
    assert_eq!(http::receive(&mut hook).expect("an answer").json()["phase"], "Serving");
}

#[test]
fn readiness_while_draining_is_as_the_policy_says() {
    for (policy, in_lame_duck, in_draining) in
        [("keep", 200, 200), ("fail-after-delay", 200, 503), ("fail-now", 503, 503)]
    {
        let args = ["--drain-delay", "1s", "--quiet-period", "0", "--readiness-on-drain", policy];
        let proxy = Ebbtide::proxy(&echo().to_string(), &args);
        let mut connection = connect(proxy.addr());
        exchange(&mut connection, b"hello");
        assert_eq!(proxy.get("/readyz").status, 200, "{policy}");
        assert_eq!(proxy.post("/drain").json()["phase"], "LameDuck");
        let ready = proxy.get("/readyz").status;
        // Only if the delay was not over meanwhile on a slow machine.
        if proxy.status()["phase"] == "LameDuck" {
            assert_eq!(ready, in_lame_duck, "{policy}");
        }
        proxy.until_phase("Draining");
        assert_eq!(proxy.get("/readyz").status, in_draining, "{policy}");
        assert_eq!(proxy.get("/livez").status, 200, "{policy}");
        assert_eq!(proxy.post("/undrain").status, 200);
        proxy.until("accepting", |status| status["listeners"][0]["state"] == "Accepting");
        assert_eq!(proxy.get("/readyz").status, 200, "{policy}");
    }
}

/// The samples of a page in the text format, family by family.
fn families(text: &str) -> BTreeMap<String, Vec<(String, f64)>> {
    let mut types = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut families: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped.insert(rest.split_once(' ').expect("a name and its help").0.to_owned());
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(series.insert(sample.to_owned()), "{sample} twice");
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        assert!(labels.ends_with('}'), "{line}");
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|family| types.get(*family).is_some_and(|kind| kind == "histogram"))
            .unwrap_or(name);
        let kind = types.get(family).unwrap_or_else(|| panic!("no type: {line}"));
        assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        assert!(helped.contains(family), "no help: {line}");
        families.entry(family.to_owned()).or_default().push((sample.to_owned(), value));
    }
    families
}

/// The families that a proxy of opaque bytes has.
const FAMILIES: [&str; 20] = [
    "ebbtide_accept_errors_total",
    "ebbtide_accept_paused_total",
    "ebbtide_accept_queue_aborted_total",
    "ebbtide_build_info",
    "ebbtide_connection_age_seconds",
    "ebbtide_connections_active",
    "ebbtide_connections_total",
    "ebbtide_drain_blocking_connections",
    "ebbtide_drain_deadline_timestamp_seconds",
    "ebbtide_drain_duration_seconds",
    "ebbtide_drain_forced_closes_total",
    "ebbtide_drain_late_connections_total",
    "ebbtide_drain_rejected_total",
    "ebbtide_drain_started_timestamp_seconds",
    "ebbtide_drain_state",
    "ebbtide_handshakes_aborted_total",
    "ebbtide_report_age_seconds",
    "ebbtide_report_attempts_total",
    "ebbtide_upstream_failures_total",
    "ebbtide_upstream_lent_total",
];

#[test]
fn metrics_tell_the_whole_drain_up_to_the_exit() {
    // A controller that stores what it hears until the drain is over, and then says nothing: the
    // process stays, about to exit, for as long as the test looks.
    let controller = application(|mut stream| {
        let mut report = [0; 16 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut report) {
            if !String::from_utf8_lossy(&report[..read]).contains("\"Drained\"") {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            }
        }
    });
    let url = format!("http://{controller}");
    let args = ["--drain-delay", "0", "--drain-timeout", "2s", "--settle-period", "100ms"];
    let reporting = ["--controller", &url, "--final-report-timeout", "100s", "--reject", "reset"];
    let proxy = Ebbtide::proxy(&stubborn().to_string(), &[&args[..], &reporting].concat());
    let text = proxy.get("/metrics").body;
    let at_start = families(&text);
    for name in FAMILIES.iter().filter(|name| !name.contains("_report_")) {
        assert!(at_start.contains_key(*name), "{name} is not there at the start:\n{text}");
    }
    let mut forced = connect(proxy.addr());
    forced.write_all(b"x").expect("sent");
    drop(connect(proxy.addr()));
    proxy.until("one connection", |status| status["activeConnections"] == 1);
    proxy.signal(Signal::TERM);
    proxy.until("rejecting", |status| status["listeners"][0]["state"] == "Rejecting");
    // The reset may come before the handshake is seen to be over.
    match TcpStream::connect(proxy.addr()) {
        Ok(mut rejected) => expect_reset(&mut rejected),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    proxy.until_phase("Drained");
    proxy.says("connection force-closed by the drain");
    // The process leaves after the phase is seen; that it took so long is the last thing it notes.
    let text = loop {
        let text = proxy.get("/metrics").body;
        if text.contains("ebbtide_drain_duration_seconds_count 1") {
            break text;
        }
    };
    let found = families(&text);
    for name in FAMILIES {
        assert!(found.contains_key(name), "{name} is not in:\n{text}");
    }
    let value = |sample: &str| {
        let all = found.values().flatten();
        all.into_iter().find(|(name, _)| name == sample).map(|(_, value)| *value)
    };
    for (sample, expected) in [
        ("ebbtide_drain_state{state=\"Drained\"}", 1.0),
        ("ebbtide_drain_state{state=\"Serving\"}", 0.0),
        ("ebbtide_drain_blocking_connections", 0.0),
        ("ebbtide_connections_active{class=\"tcp\"}", 0.0),
        ("ebbtide_connections_total{result=\"accepted\"}", 1.0),
        ("ebbtide_connections_total{result=\"excluded\"}", 1.0),
        ("ebbtide_connections_total{result=\"rejected\"}", 1.0),
        ("ebbtide_drain_rejected_total{mode=\"reset\"}", 1.0),
        ("ebbtide_drain_duration_seconds_count", 1.0),
        ("ebbtide_accept_queue_aborted_total", 0.0),
        ("ebbtide_handshakes_aborted_total", 0.0),
    ] {
        assert_eq!(value(sample), Some(expected), "{sample} in:\n{text}");
    }
    let forced: f64 = found["ebbtide_drain_forced_closes_total"].iter().map(|(_, n)| n).sum();
    assert!((forced - 1.0).abs() < 0.01, "{text}");
    let ages = value("ebbtide_drain_deadline_timestamp_seconds").expect("a deadline")
        - value("ebbtide_drain_started_timestamp_seconds").expect("a start");
    assert!((ages - 2.0).abs() < 0.01, "{ages}");
}

#[test]
fn the_termination_log_gets_one_line() {
    let directory = Directory::new();
    let path = directory.write("termination-log", "what was there before is replaced\n".repeat(9));
    open_to_all(Path::new(&path));
    let args = [&QUICK[..], &["--termination-log", &path]].concat();
    // The harness gives another one; the flag may be given once.
    let mut line = vec!["proxy", "--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    let upstream = echo().to_string();
    line.extend(["--listen", "127.0.0.1:0", "--upstream", &upstream]);
    line.extend(&args);
    let proxy = Ebbtide::start(&line);
    exchange(&mut connect(proxy.addr()), b"hello");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.finish().code(), Some(0));
    let text = std::fs::read_to_string(&path).expect("the log");
    assert!(text.starts_with("ebbtide: drained in "), "{text}");
    assert!(text.ends_with(" 0 connections force-closed, 0 rejected\n"), "{text}");
    assert_eq!(text.lines().count(), 1);
    assert!(text.len() < TERMINATION_LOG_BYTES);
}

#[test]
fn a_termination_log_that_kubernetes_did_not_make_is_not_made() {
    let directory = Directory::new();
    let path = directory.path().join("termination-log");
    let text = path.to_str().expect("text");
    let upstream = echo().to_string();
    let mut line = vec!["proxy", "--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    line.extend(["--listen", "127.0.0.1:0", "--upstream", &upstream, "--termination-log", text]);
    line.extend(QUICK);
    let proxy = Ebbtide::start(&line);
    proxy.addr();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.finish().code(), Some(0));
    assert!(!path.exists());
}

/// A client with another address on the loopback.
fn connect_from(source: Ipv4Addr, addr: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("an address of the loopback");
    socket.connect_timeout(&addr.into(), PATIENCE).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

#[test]
fn health_checks_are_shown_and_keep_no_drain_from_ending() {
    let args = [&QUICK[..], &["--health-check-from", "127.0.0.2/32"]].concat();
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let addr = proxy.addr();
    let mut check = connect_from(Ipv4Addr::new(127, 0, 0, 2), addr);
    exchange(&mut check, b"are you well");
    let mut client = connect(addr);
    exchange(&mut client, b"hello");

    // Bytes pass before what they are is told.
    let status = proxy.until("known", |status| status["byClass"]["opaque"] == 1);
    assert_eq!(status["activeConnections"], 2);
    assert_eq!(status["drainBlockingConnections"], 1);
    assert_eq!(
        (&status["byClass"]["opaque"], &status["byClass"]["healthCheck"]),
        (&1.into(), &1.into())
    );
    let list = http::request(proxy.control(), "GET", "/connections").expect("an answer").json();
    let entry = &list["connections"][0];
    assert_eq!((&entry["class"], &entry["blocking"]), (&"healthCheck".into(), &false.into()));
    assert_eq!(entry["excluded"], "only checks our health");

    proxy.post("/drain");
    proxy.until("refusing", |status| status["listeners"][0]["state"] == "Refusing");
    drop(client);
    let status = proxy.until_phase("Drained");
    assert_eq!((&status["activeConnections"], &status["forcedCloses"]), (&1.into(), &0.into()));
    exchange(&mut check, b"still well");
    // Nor does it keep the process from exiting.
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.finish().code(), Some(0));
    expect_refused(addr);
}

#[test]
fn a_connection_without_a_byte_is_counted_as_a_probe() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    drop(connect(proxy.addr()));
    let ended = proxy.says("connection ended");
    assert_eq!((&ended["class"], &ended["from_client_bytes"]), (&"healthCheck".into(), &0.into()));
    let text = proxy.get("/metrics").body;
    let found = families(&text);
    let excluded = "ebbtide_connections_total{result=\"excluded\"}".to_owned();
    assert!(found["ebbtide_connections_total"].contains(&(excluded, 1.0)), "{text}");
}

/// Guards against a lame duck that probes prolong, which come for as long as the pod is there.
#[test]
fn probes_do_not_keep_the_lame_duck_from_being_quiet() {
    let args = ["--drain-delay", "200s", "--drain-timeout", "300s", "--quiet-period", "1s"];
    let all = [&args[..], &["--settled-for", "0", "--health-check-from", "127.0.0.2/32"]].concat();
    let proxy = Ebbtide::proxy(&echo().to_string(), &all);
    let addr = proxy.addr();
    proxy.post("/drain");
    // As often as the status is asked, until the phase changes although they came.
    proxy.until("no lame duck any more", |status| {
        let over = status["phase"] != "LameDuck";
        if !over {
            // Refused when the phase has just changed.
            drop(TcpStream::connect(addr));
        }
        over
    });
}
