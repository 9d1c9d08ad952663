//! Connections that were opened ahead and have carried nothing yet: a pool's are idle, and a server that
//! greets late is waited for.

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::Ebbtide;
use crate::support::frames::Raw;
use crate::support::h2::Server;
use crate::support::http1::{App, Wire};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GREETING: &str = "220 late\r\n";
const FORCED: &str = "connection force-closed by the drain";

/// A drain that refuses at once and has its deadline behind every test's.
const LONG: [&str; 10] = [
    "--drain-delay",
    "0",
    "--drain-timeout",
    "20m",
    "--settled-for",
    "0",
    "--settle-period",
    "100ms",
    "--idle-policy",
    "immediate",
];

/// A client that sends nothing, and the application's end of its connection.
fn silent(proxy: &Ebbtide, app: &App) -> (Wire, Wire) {
    let client = Wire::connect(proxy.addr());
    (client, app.accept())
}

/// One that has had an answer, and stays.
fn spoken(proxy: &Ebbtide, app: &App) -> (Wire, Wire) {
    let (mut client, mut upstream) = silent(proxy, app);
    client.send(GET);
    upstream.head().expect("a request");
    upstream.send(OK);
    client.expect(OK);
    (client, upstream)
}

fn listed(proxy: &Ebbtide, client: &Wire, is_blocking: bool) -> Value {
    proxy.until_listed(client.addr(), |entry| {
        entry["class"] == "silent" && entry["blocking"] == is_blocking
    })
}

#[test]
fn where_all_who_spoke_were_http_a_silent_connection_is_idle() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LONG);
    let (mut spoken, _upstream) = spoken(&proxy, &app);
    let mut pool: Vec<_> = (0..5).map(|_| silent(&proxy, &app)).collect();
    for (client, _) in &pool {
        listed(&proxy, client, true);
    }
    proxy.signal(Signal::TERM);
    spoken.ends();
    for (client, upstream) in &mut pool {
        client.ends();
        upstream.ends();
    }
    drop((spoken, pool));
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
    assert!(finished.lines(FORCED).is_empty());
}

#[test]
fn in_a_lame_duck_a_silent_connection_says_why_it_does_not_block_and_can_still_ask() {
    let app = App::new();
    let args = ["--drain-delay", "10m", "--quiet-period", "0", "--idle-policy", "immediate"];
    let args = [&args[..], &["--drain-timeout", "20m"]].concat();
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let (mut spoken, _upstream) = spoken(&proxy, &app);
    let (mut client, mut upstream) = silent(&proxy, &app);
    assert_eq!(proxy.post("/drain").status, 200);
    let entry = listed(&proxy, &client, false);
    let excluded = entry["excluded"].as_str().expect("a reason");
    assert!(excluded.contains("all others spoke HTTP"), "{excluded}");
    // Whoever is idle has ended by now; the silent one may still be used.
    spoken.ends();
    client.send(GET);
    upstream.head().expect("a request");
    upstream.send(OK);
    assert!(client.answer().expect("an answer").says_close());
    client.ends();
}

/// What was heard before: nothing, or something that is not HTTP beside it.
#[test]
fn where_it_may_be_a_server_that_greets_late_a_silent_connection_is_waited_for() {
    for was_heard in [&[][..], &["\x16\x03\x01"], &["\x16\x03\x01", GET]] {
        let app = App::new();
        let proxy = Ebbtide::proxy(&app.upstream(), &LONG);
        for bytes in was_heard {
            let (mut client, mut upstream) = silent(&proxy, &app);
            client.send(bytes);
            upstream.expect(bytes);
        }
        let (mut client, mut upstream) = silent(&proxy, &app);
        listed(&proxy, &client, true);
        proxy.signal(Signal::TERM);
        proxy.says("listener closed");
        listed(&proxy, &client, true);
        upstream.send(GREETING);
        client.expect(GREETING);
        client.send("QUIT\r\n");
        upstream.expect("QUIT\r\n");
        drop((client, upstream));
        assert_eq!(proxy.finish().code(), Some(0), "{was_heard:?}");
    }
}

#[test]
fn a_budget_ends_silent_connections_before_the_deadline() {
    let app = App::new();
    let args = [&LONG[..], &["--budget", "silent=500ms"]].concat();
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let (mut client, upstream) = silent(&proxy, &app);
    listed(&proxy, &client, true);
    proxy.signal(Signal::TERM);
    client.ends();
    drop((client, upstream));
    let finished = proxy.finish();
    let forced = finished.lines(FORCED);
    assert_eq!((forced.len(), &forced[0]["class"]), (1, &"silent".into()), "{forced:?}");
    assert_eq!(finished.code(), Some(75));
}

/// A proxy whose lame duck ends by its delay: later than a client that asks nothing is seen off when
/// nothing holds that back.
fn short_lame_duck(upstream: &str, protocol: &str) -> Ebbtide {
    let args = ["--protocol", protocol, "--drain-delay", "8s", "--quiet-period", "0"];
    let args = [&args[..], &["--idle-policy", "immediate", "--settle-period", "100ms"]].concat();
    Ebbtide::proxy(upstream, &args)
}

/// Expects that the connection of this client ended only after the lame duck did.
fn expect_end_behind_the_lame_duck(proxy: &Ebbtide, client: SocketAddr) {
    let peer = client.to_string();
    let is_end =
        |line: &Value| line["message"] == "connection ended" && line["peer"] == peer.as_str();
    proxy.line("the connection's end", is_end);
    let log = proxy.log();
    let end = log.iter().position(is_end);
    let draining =
        log.iter().position(|line| line["message"] == "phase" && line["phase"] == "Draining");
    assert!(draining.is_some() && draining < end, "{draining:?} {end:?}");
}

#[test]
fn a_connection_that_was_opened_ahead_is_left_alone_until_the_lame_duck_is_over() {
    let app = App::new();
    let proxy = short_lame_duck(&app.upstream(), "http1");
    let (mut before, _before_upstream) = silent(&proxy, &app);
    assert_eq!(proxy.post("/drain").status, 200);
    let (mut client, _upstream) = silent(&proxy, &app);
    for client in [&mut before, &mut client] {
        client.ends();
        expect_end_behind_the_lame_duck(&proxy, client.addr());
    }
}

#[test]
fn an_http2_connection_that_was_opened_ahead_is_left_alone_until_the_lame_duck_is_over() {
    let server = Server::start();
    let pairs = ["http2", "auto"].map(|protocol| {
        let proxy = short_lame_duck(&server.addr.to_string(), protocol);
        proxy.addr();
        assert_eq!(proxy.post("/drain").status, 200);
        let client = Raw::client(proxy.addr());
        (protocol, proxy, client)
    });
    for (protocol, proxy, mut client) in pairs {
        client.until_end();
        assert_eq!(client.last_streams(), [0], "{protocol}");
        let peer = proxy.says("connection ended")["peer"].clone();
        let peer = peer.as_str().expect("an address").parse().expect("an address");
        expect_end_behind_the_lame_duck(&proxy, peer);
    }
}

/// Guards: a listener that was drained for an operator has heard nothing else when it serves again.
#[test]
fn an_undrain_makes_a_silent_connection_block_again() {
    let app = App::new();
    let args = ["--drain-delay", "10m", "--quiet-period", "0", "--drain-timeout", "20m"];
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let (_spoken, _upstream) = spoken(&proxy, &app);
    let (client, _silent) = silent(&proxy, &app);
    for _ in 0..2 {
        assert_eq!(proxy.post("/drain").status, 200);
        listed(&proxy, &client, false);
        assert_eq!(proxy.post("/undrain").status, 200);
        listed(&proxy, &client, true);
    }
}
