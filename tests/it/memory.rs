//! What an idle connection costs in memory, that what is over costs nothing, and what strangers may cost a controller.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::api;
use crate::support::churn::{echo, runtime};
use crate::support::crowd::{Crowd, alone};
use crate::support::{Ebbtide, Reply, Restrictions, http};

const CONNECTIONS: usize = 5_000;
/// A quarter of the relay's smallest buffer, so that one kept by an idle connection is seen.
const MOST_BYTES: usize = 4 * 1024;

/// The process's share of memory that is no file's, in bytes: its share of the program's text grows
/// when another test's proxy ends.
fn proportional_set_size(pid: i32) -> usize {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).expect("a line of it");
    let kib: usize = pss.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let _alone = alone();
    let roomy = Restrictions::of_a_pod().descriptors(20_000);
    let proxy = Ebbtide::proxy_under(&roomy, &echo().to_string(), &[]);
    let addr = proxy.addr();
    runtime().block_on(async {
        // What the first connections warm up is not theirs.
        let few = Crowd::gather(addr, 100).await;
        let before = proportional_set_size(proxy.pid());
        let crowd = Crowd::gather(addr, CONNECTIONS).await;
        let after = proportional_set_size(proxy.pid());
        let each = after.saturating_sub(before) / CONNECTIONS;
        println!("{each} bytes of the process for each idle connection");
        assert!(each < MOST_BYTES, "{each} bytes for each idle connection");
        drop((few, crowd));
    });
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers every request with the same response.
fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; REQUEST.len()];
                while stream.read_exact(&mut request).is_ok() {
                    stream.write_all(RESPONSE).expect("taken");
                }
            });
        }
    });
    addr
}

/// Sends requests on a few connections at once.
fn ask(addr: SocketAddr, times: usize) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(addr).expect("a connection");
                let mut response = [0; RESPONSE.len()];
                for _ in 0..times / 8 {
                    stream.write_all(REQUEST).expect("taken");
                    stream.read_exact(&mut response).expect("answered");
                    assert_eq!(response, RESPONSE);
                }
            });
        }
    });
}

/// Each request's duration was kept until somebody scraped /metrics, which nobody did.
#[test]
fn requests_that_are_over_leave_nothing_behind() {
    const REQUESTS: usize = 400_000;
    // Every sample kept would be 6.6 MiB.
    const MOST_GROWTH: usize = 1024 * 1024;
    let _alone = alone();
    let proxy = Ebbtide::proxy(&application().to_string(), &["--protocol", "http1"]);
    let addr = proxy.addr();
    ask(addr, REQUESTS / 8);
    let before = proportional_set_size(proxy.pid());
    ask(addr, REQUESTS);
    let grown = proportional_set_size(proxy.pid()).saturating_sub(before);
    println!("{grown} bytes more after {REQUESTS} requests");
    assert!(grown < MOST_GROWTH, "{grown} bytes more after {REQUESTS} requests");
}

/// Strangers come over so many connections at once.
const REPORTERS: usize = 8;

/// A controller for a thousand targets, of which none is lost while a test lasts, and so none makes room.
fn controller() -> (Ebbtide, SocketAddr) {
    let controller = Ebbtide::start(&[
        "controller",
        "--listen",
        "127.0.0.1:0",
        "--max-targets",
        &MOST_TARGETS.to_string(),
        "--lost-after",
        "1h",
        "--max-source-rate",
        "1000000",
    ]);
    let addr = controller.takes_reports();
    (controller, addr)
}

const MOST_TARGETS: usize = 1_000;

/// Sends the reports of strangers `first` and on; gives back how many were taken.
fn report_strangers(
    addr: SocketAddr,
    strangers: std::ops::Range<usize>,
    report: impl Fn(usize) -> Value + Sync,
    look: impl Fn(&Reply) + Sync,
) -> usize {
    let each = strangers.len() / REPORTERS;
    let taken = |first: usize| {
        let mut stream = TcpStream::connect(addr).expect("a connection");
        let taken = (first..first + each).filter(|number| {
            let body = report(*number).to_string();
            let head = format!(
                "POST /v1/reports HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).expect("taken");
            let reply = http::receive(&mut stream).expect("an answer");
            look(&reply);
            reply.status == 200
        });
        taken.count()
    };
    std::thread::scope(|scope| {
        let firsts = (0..REPORTERS).map(|it| strangers.start + it * each);
        let reporters: Vec<_> = firsts.map(|first| scope.spawn(move || taken(first))).collect();
        reporters.into_iter().map(|it| it.join().expect("it ends")).sum()
    })
}

/// A pod of a service that nobody has heard of.
fn stranger(number: usize, phase: &str) -> Value {
    let mut report = api::report(&format!("pod-{number}"), 1, phase);
    report["service"] = json!(format!("service-{number}"));
    report
}

/// As when somebody invents pods: the table has its size, and the refused leave nothing behind.
#[test]
fn strangers_without_number_cost_a_controller_nothing_and_who_is_known_is_served() {
    const STRANGERS: usize = 100_000;
    // Eleven bytes of each would be seen.
    const MOST_GROWTH: usize = 1024 * 1024;
    let _alone = alone();
    let (controller, addr) = controller();
    let serving = |number| stranger(number, "Serving");
    let refused = |reply: &Reply| {
        if reply.status != 200 {
            assert_eq!(reply.status, 503, "{}", reply.body);
            assert!(reply.head.contains("\r\nretry-after: 1\r\n"), "{}", reply.head);
            assert!(reply.body.contains("raise --max-targets"), "{}", reply.body);
        }
    };
    assert_eq!(report_strangers(addr, 0..10 * MOST_TARGETS, serving, refused), MOST_TARGETS);
    let before = proportional_set_size(controller.pid());
    let range = 10 * MOST_TARGETS..10 * MOST_TARGETS + STRANGERS;
    assert_eq!(report_strangers(addr, range, serving, refused), 0);
    let grown = proportional_set_size(controller.pid()).saturating_sub(before);
    println!("{grown} bytes more after {STRANGERS} strangers");
    assert!(grown < MOST_GROWTH, "{grown} bytes more after {STRANGERS} strangers");
    let list = http::request(addr, "GET", "/v1/targets").expect("an answer").json();
    let known = &list[0]["report"];
    let mut next = known.clone();
    next["sequence"] = json!(2);
    next["phase"] = json!("Draining");
    let reply = api::send(addr, "POST /v1/reports", &[], &next.to_string());
    assert_eq!((reply.status, &reply.json()["sequence"]), (200, &json!(2)), "{}", reply.body);
}

/// Pods that have gone make room for others: so the table never refuses, and what it forgets must be gone.
#[test]
fn strangers_that_go_as_they_come_leave_nothing_behind() {
    const STRANGERS: usize = 40_000;
    // A hundred bytes of each would be seen.
    const MOST_GROWTH: usize = 4 * 1024 * 1024;
    let _alone = alone();
    let (controller, addr) = controller();
    let drained = |number| stranger(number, "Drained");
    let taken = report_strangers(addr, 0..STRANGERS / 4, drained, |_| {});
    assert!(taken > 2 * MOST_TARGETS, "{taken} of them were taken");
    let before = proportional_set_size(controller.pid());
    let taken = report_strangers(addr, STRANGERS..2 * STRANGERS, drained, |_| {});
    let grown = proportional_set_size(controller.pid()).saturating_sub(before);
    println!("{grown} bytes more after {STRANGERS} strangers, of which {taken} were taken");
    assert!(grown < MOST_GROWTH, "{grown} bytes more after {STRANGERS} strangers");
}

/// As much of everything as is taken, and as much around it as fits.
fn largest(number: usize) -> Value {
    let long = |what: &str, length: usize| {
        format!("{what}-{number}-{}", "x".repeat(length))[..length].to_owned()
    };
    let mut report = stranger(number, "Draining");
    // All texts together are bounded: three long names leave room for the rest.
    for field in ["namespace", "podName", "service"] {
        report[field] = json!(long(field, 253));
    }
    report["reason"] = json!(long("reason", 48));
    for class in 0..16 {
        report["byClass"][long(&class.to_string(), 16)] = json!(u64::MAX);
    }
    let listener = |port| json!({"address": long("a", 12), "port": port, "state": long("s", 10)});
    report["listeners"] = (0..32).map(listener).collect();
    report["unknown"] = json!("x".repeat(48 * 1024));
    report
}

#[test]
fn the_largest_reports_cost_what_the_documents_say() {
    // What --help and docs/api.md say.
    const MOST_BYTES: usize = 12 * 1024;
    let _alone = alone();
    let (controller, addr) = controller();
    let before = proportional_set_size(controller.pid());
    let taken = report_strangers(addr, 0..MOST_TARGETS, largest, |reply| {
        assert_eq!(reply.status, 200, "{}", reply.body);
    });
    let each = proportional_set_size(controller.pid()).saturating_sub(before) / taken;
    println!("{each} bytes for each of {taken} of the largest reports");
    assert!(each < MOST_BYTES, "{each} bytes for each of the largest reports");
    for (field, value, part) in [
        ("byClass", (0..2000).map(|it| (it.to_string(), json!(1))).collect(), "16 entries"),
        (
            "listeners",
            vec![json!({"address": "", "port": 1, "state": ""}); 1500].into(),
            "32 entries",
        ),
        ("nodeName", json!("x".repeat(60_000)), "253 bytes"),
        ("byClass", json!({"x".repeat(60_000): 1}), "48 bytes"),
        ("unknown", json!("x".repeat(70_000)), "65536 bytes"),
    ] {
        let mut report = stranger(0, "Serving");
        report[field] = value;
        let reply = api::send(addr, "POST /v1/reports", &[], &report.to_string());
        assert!([400, 413].contains(&reply.status), "{field}: {}", reply.body);
        assert!(reply.body.contains(part), "{field}: {}", reply.body);
    }
}
