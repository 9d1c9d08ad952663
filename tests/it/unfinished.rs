//! Clients that begin something and do not go on: a drain gives them up, and never a slow application.

use rustix::process::Signal;

use crate::support::http1::{App, Wire};
use crate::support::{Ebbtide, QUICK};

/// Shorter than the defaults, so that a test takes a second; the deadline is far away.
const BOUNDS: [&str; 6] =
    ["--drain-head-timeout", "300ms", "--drain-request-timeout", "600ms", "--drain-timeout", "10m"];

fn proxy(app: &App, protocol: &str, more: &[&str]) -> Ebbtide {
    let mut args = QUICK.to_vec();
    args.extend(BOUNDS);
    args.extend(["--protocol", protocol]);
    args.extend(more);
    Ebbtide::proxy(&app.upstream(), &args)
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
const EXPECT: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;ext";
/// HEADERS without END_HEADERS: half a request of HTTP/2, behind the preface and SETTINGS.
const HALF_BLOCK: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x01\0\0\0\x01\x82";
/// A record of 64 bytes of a ClientHello, of which 20 come.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\0\x40\x01\0\0\x3c\x03\x03abcdefghi";

/// Each of these held a drain to its deadline.
#[test]
fn what_a_client_has_begun_and_does_not_finish_is_given_up_and_counted_apart() {
    for (protocol, begun, unfinished) in [
        ("auto", &b"GE"[..], "head"),
        ("auto", b"GET / HTTP/1.1\r\nHo", "head"),
        ("http1", b"GET / HTTP/1.1\r\nHo", "head"),
        ("http1", b"G", "head"),
        ("auto", b"PRI * HTTP/2.0\r\n", "head"),
        ("http2", HALF_BLOCK, "head"),
        ("auto", HALF_HELLO, "head"),
        ("auto", POST.as_bytes(), "request"),
        ("http1", EXPECT.as_bytes(), "request"),
        ("auto", CHUNKED.as_bytes(), "request"),
    ] {
        let app = App::new();
        let proxy = proxy(&app, protocol, &[]);
        let mut client = Wire::connect(proxy.addr());
        client.send(begun);
        let mut server = app.accept();
        server.take(begun.len()).expect("what the client has sent");
        proxy.signal(Signal::TERM);
        let listed = proxy.until_listed(client.addr(), |entry| entry["unfinished"] == unfinished);
        assert_eq!(listed["blocking"], true, "{listed}");
        client.is_cut();
        server.is_cut();
        drop(client);
        let finished = proxy.finish();
        let told = begun.escape_ascii();
        assert_eq!(finished.code(), Some(0), "{protocol} {told}: {:#?}", finished.log);
        let lines = finished.lines("client given up: it did not finish what it had begun");
        assert_eq!(lines.len(), 1, "{protocol} {told}: {:#?}", finished.log);
        let end = format!("{unfinished}_timeout");
        assert_eq!(lines[0]["end"].as_str(), Some(end.as_str()), "{protocol} {told}");
        assert!(lines[0]["forced"].is_null());
    }
}

/// A byte now and then does not keep an extension of a chunk, or a head, going.
#[test]
fn filler_that_never_ends_is_given_up() {
    for begun in [CHUNKED, "GET / HTTP/1.1\r\nA: b"] {
        let app = App::new();
        let proxy = proxy(&app, "auto", &[]);
        let mut client = Wire::connect(proxy.addr());
        client.send(begun);
        let mut server = app.accept();
        server.take(begun.len()).expect("what the client has sent");
        proxy.signal(Signal::TERM);
        // Until the proxy no longer takes them.
        while client.try_send("x").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        drop(client);
        assert_eq!(proxy.finish().code(), Some(0));
    }
}

#[test]
fn a_body_that_goes_on_and_a_slow_application_are_waited_for() {
    let app = App::new();
    let proxy = proxy(&app, "auto", &[]);
    let mut slow = Wire::connect(proxy.addr());
    slow.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut slow_server = app.accept();
    slow_server.head().expect("a request");
    let mut early = Wire::connect(proxy.addr());
    early.send(POST);
    let mut early_server = app.accept();
    early_server.head().expect("a request");
    early_server.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na");
    early.head().expect("the beginning of an answer");
    let mut client = Wire::connect(proxy.addr());
    client.send(POST);
    let mut server = app.accept();
    server.head().expect("a request");
    let mut stalled = Wire::connect(proxy.addr());
    stalled.send(POST);
    let _stalled_server = app.accept();
    proxy.signal(Signal::TERM);
    // Three waits' worth of bodies, byte by byte, while others wait for their application.
    for _ in 0..10 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        client.send("x");
    }
    proxy.says("client given up: it did not finish what it had begun");
    server.take(10).expect("the whole body");
    for (server, client, rest) in [
        (&mut server, &mut client, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (&mut slow_server, &mut slow, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        server.send(rest);
        assert_eq!(client.answer().expect("an answer").body, b"ok");
    }
    early.send("0123456789");
    early_server.take(10).expect("the body");
    early_server.send("bc");
    early.expect("abc");
    drop((slow, early, client, stalled));
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0), "{:#?}", finished.log);
    assert_eq!(finished.lines("client given up: it did not finish what it had begun").len(), 1);
}

#[test]
fn outside_of_a_drain_a_head_is_bounded_where_that_is_asked_for() {
    let app = App::new();
    let proxy = proxy(&app, "auto", &["--head-timeout", "300ms"]);
    let mut idle = Wire::connect(proxy.addr());
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut idle_server = app.accept();
    idle_server.head().expect("a request");
    let mut client = Wire::connect(proxy.addr());
    client.send("GET / HT");
    let _server = app.accept();
    client.is_cut();
    proxy.until_metric("ebbtide_clients_given_up_total{unfinished=\"head\"} 1");
    idle_server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(idle.answer().expect("an answer").body, b"ok");
}

/// A wait that an undrain has ended begins anew in the next drain.
#[test]
fn an_undrain_gives_a_client_its_time_back() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &["--drain-head-timeout", "10m"]);
    let mut client = Wire::connect(proxy.addr());
    client.send("GET / HT");
    let mut server = app.accept();
    server.expect("GET / HT");
    assert_eq!(proxy.post("/drain").status, 200);
    proxy.until_listed(client.addr(), |entry| entry["unfinished"] == "head");
    assert_eq!(proxy.post("/undrain").status, 200);
    proxy.until_listed(client.addr(), |entry| entry["unfinished"].is_null());
    client.send("TP/1.1\r\n\r\n");
    server.expect("TP/1.1\r\n\r\n");
}
