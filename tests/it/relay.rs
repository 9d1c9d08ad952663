//! The data path: bytes unchanged, ends passed on as they are, bounds kept.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::support::application::{listen, random_bytes, reset, send_back};
use crate::support::{
    Directory, Ebbtide, PATIENCE, application, connect, echo, exchange, expect_end, expect_reset,
    free_port, http, open_to_all, process, usage,
};

/// Far more than the kernel holds on a path: a stalled path stops long before it.
const ENDLESS: usize = 512 * 1024 * 1024;

/// Sends in pieces whose sizes fit no buffer's.
fn send_in_odd_pieces(mut stream: &TcpStream, bytes: &[u8]) {
    let mut random = fastrand::Rng::with_seed(3);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(random.usize(1..100_000).min(rest.len()));
        stream.write_all(piece).expect("sent");
        rest = behind;
    }
    stream.shutdown(Shutdown::Write).expect("ended");
}

fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("read to an orderly end");
    bytes
}

/// An application that hands each connection to the test.
fn handed_over() -> (SocketAddr, Receiver<TcpStream>) {
    let (sender, receiver) = channel();
    let addr = application(move |stream| {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        // The test may be over.
        let _ = sender.send(stream);
    });
    (addr, receiver)
}

/// A proxied connection, from both its ends.
fn pair(args: &[&str]) -> (Ebbtide, TcpStream, TcpStream) {
    let (addr, accepted) = handed_over();
    let proxy = Ebbtide::proxy(&addr.to_string(), args);
    let client = connect(proxy.addr());
    let server = accepted.recv_timeout(PATIENCE).expect("the application's end");
    (proxy, client, server)
}

#[test]
fn bytes_pass_unchanged_both_ways_at_once() {
    let (_proxy, client, server) = pair(&[]);
    let [up, down] = [4, 5].map(|seed| random_bytes(seed, 16 * 1024 * 1024 + 7));
    std::thread::scope(|scope| {
        scope.spawn(|| send_in_odd_pieces(&client, &up));
        scope.spawn(|| send_in_odd_pieces(&server, &down));
        let at_server = scope.spawn(|| read_to_end(&server));
        assert!(read_to_end(&client) == down, "the client got other bytes");
        assert!(at_server.join().expect("read") == up, "the application got other bytes");
    });
}

#[test]
fn a_client_that_has_ended_still_gets_its_answer() {
    let (proxy, mut client, mut server) = pair(&[]);
    client.write_all(b"question").expect("sent");
    client.shutdown(Shutdown::Write).expect("ended");
    assert_eq!(read_to_end(&server), b"question");
    server.write_all(b"answer").expect("sent");
    drop(server);
    assert_eq!(read_to_end(&client), b"answer");
    let ended = proxy.says("connection ended");
    assert_eq!((&ended["end"], &ended["from_client_bytes"]), (&"finished".into(), &8.into()));
}

#[test]
fn an_application_that_has_ended_still_hears_the_client() {
    let (proxy, mut client, mut server) = pair(&[]);
    server.write_all(b"greeting").expect("sent");
    server.shutdown(Shutdown::Write).expect("ended");
    assert_eq!(read_to_end(&client), b"greeting");
    client.write_all(b"late words").expect("sent");
    drop(client);
    assert_eq!(read_to_end(&server), b"late words");
    assert_eq!(proxy.says("connection ended")["end"], "finished");
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let (proxy, mut client, mut server) = pair(&[]);
    client.write_all(b"x").expect("sent");
    server.read_exact(&mut [0]).expect("there");
    reset(client);
    expect_reset(&mut server);
    assert_eq!(proxy.says("connection ended")["end"], "client_broke");

    let (proxy, mut client, mut server) = pair(&[]);
    client.write_all(b"x").expect("sent");
    server.read_exact(&mut [0]).expect("there");
    reset(server);
    expect_reset(&mut client);
    assert_eq!(proxy.says("connection ended")["end"], "upstream_broke");
}

/// Guards memory: the proxy takes from one side only what the other takes from it.
#[test]
fn a_client_that_does_not_read_stops_the_application() {
    let (proxy, client, server) = pair(&[]);
    let before = usage::resident_bytes(proxy.pid());
    server.set_write_timeout(Some(Duration::from_secs(1))).expect("a time-out");
    let bytes = random_bytes(6, 1024 * 1024);
    let mut sent = 0;
    // A write that waits a whole second finds that nothing moves any more.
    while sent < ENDLESS {
        match (&server).write(&bytes[sent % bytes.len()..]) {
            Ok(written) => sent += written,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                break;
            }
        }
    }
    let grown = usage::resident_bytes(proxy.pid()).saturating_sub(before);
    println!("the application could send {sent} bytes; the proxy grew by {grown}");
    assert!(sent < ENDLESS, "nothing stopped it");
    assert!(grown < 2 * 1024 * 1024, "the proxy grew by {grown} bytes");
    drop(server);
    let mut received = 0;
    for chunk in read_to_end(&client).chunks(bytes.len()) {
        assert!(chunk == &bytes[..chunk.len()], "other bytes after {received}");
        received += chunk.len();
    }
    assert_eq!(received, sent);
}

/// The application has ended its side, and the client leaves its own open without a word.
#[test]
fn a_half_closed_connection_that_is_silent_is_ended() {
    let (proxy, mut client, server) = pair(&["--half-closed-timeout", "300ms"]);
    server.shutdown(Shutdown::Write).expect("ended");
    expect_end(&mut client);
    let mut server = server;
    expect_reset(&mut server);
    assert_eq!(proxy.says("connection ended")["end"], "half_closed_timeout");
}

/// Guards: a client that sent its request and a FIN was reset when the answer took longer than the time-out.
#[test]
fn a_client_that_has_ended_its_side_gets_an_answer_that_takes_longer_than_the_timeout() {
    for protocol in ["tcp", "auto", "http1"] {
        let args = ["--half-closed-timeout", "200ms", "--protocol", protocol];
        let (_proxy, mut client, mut server) = pair(&args);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        client.shutdown(Shutdown::Write).expect("ended");
        let mut request = Vec::new();
        server.read_to_end(&mut request).expect("the request and its end");
        // The application thinks for several time-outs.
        std::thread::sleep(Duration::from_secs(1));
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("sent");
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("the answer and its end");
        assert!(answer.ends_with(b"ok"), "{protocol}");
    }
}

/// Guards: a download that its client had paused was reset although the application was done.
#[test]
fn a_download_that_the_client_pauses_for_longer_than_the_timeout_is_whole() {
    for protocol in ["tcp", "auto"] {
        let args = ["--half-closed-timeout", "200ms", "--protocol", protocol];
        let (_proxy, mut client, mut server) = pair(&args);
        let bytes = random_bytes(9, 1024 * 1024);
        let sent = bytes.clone();
        let application = std::thread::spawn(move || server.write_all(&sent));
        client.read_exact(&mut [0; 1000]).expect("the beginning");
        // The client reads nothing for several time-outs.
        std::thread::sleep(Duration::from_secs(1));
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("the rest and its end");
        assert!(rest == bytes[1000..], "{protocol}: {} bytes", rest.len() + 1000);
        application.join().expect("the application").expect("all was taken");
    }
}

#[test]
fn an_idle_connection_is_ended_only_where_that_was_asked_for() {
    let (proxy, mut client, mut server) = pair(&["--idle-timeout", "300ms"]);
    client.write_all(b"x").expect("sent");
    server.read_exact(&mut [0]).expect("there");
    expect_reset(&mut client);
    expect_reset(&mut server);
    assert_eq!(proxy.says("connection ended")["end"], "idle_timeout");
}

/// What one side says again and again keeps the other's silence from counting.
#[test]
fn a_connection_on_which_something_moves_is_not_idle() {
    let (proxy, mut client, mut server) = pair(&["--idle-timeout", "400ms"]);
    let deadline = std::time::Instant::now() + Duration::from_millis(1500);
    // Real time is what this is about: words much closer together than the time-out, for longer.
    while std::time::Instant::now() < deadline {
        server.write_all(b"x").expect("sent");
        client.read_exact(&mut [0]).expect("there");
        std::thread::sleep(Duration::from_millis(50));
    }
    expect_reset(&mut client);
    assert_eq!(proxy.says("connection ended")["end"], "idle_timeout");
}

#[test]
fn one_connection_can_be_closed_by_its_id() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    let [mut first, mut second] = [0, 1].map(|_| {
        let mut stream = connect(proxy.addr());
        exchange(&mut stream, b"hello");
        stream
    });
    let peer = second.local_addr().expect("its address");
    let entry = proxy.until_listed(peer, |entry| entry["class"] == "opaque");
    assert_eq!(proxy.connections().len(), 2);
    assert_eq!(entry["fromClientBytes"], 5);
    assert_eq!((&entry["blocking"], &entry["leaving"]), (&true.into(), &false.into()));
    let path = format!("/connections/{}", entry["id"]);
    let closed = http::request(proxy.control(), "DELETE", &path).expect("an answer");
    assert_eq!((closed.status, &closed.json()["leaving"]), (200, &true.into()));
    expect_end(&mut second);
    drop(second);
    exchange(&mut first, b"untouched");
    proxy.until("one connection", |status| status["activeConnections"] == 1);
    for (path, status) in [(path.as_str(), 404), ("/connections/x", 400), ("/connections/", 404)] {
        let reply = http::request(proxy.control(), "DELETE", path).expect("an answer");
        assert_eq!(reply.status, status, "{path}");
    }
    // The same as people do it.
    let id = proxy.until_listed(first.local_addr().expect("its address"), |_| true);
    let control = proxy.control().to_string();
    let id = id["id"].to_string();
    let (status, ..) = process::run(&["connections", "--control", &control, "--close", &id]);
    assert_eq!(status, Some(0));
    expect_end(&mut first);
}

#[test]
fn ipv6_and_dual_stack_listeners_serve() {
    let upstream = echo().to_string();
    let v6 = Ebbtide::proxy(&upstream, &["--listen", "[::1]:0"]);
    exchange(&mut connect(v6.addr()), b"over IPv6");

    let both = Ebbtide::proxy(&upstream, &["--listen", "[::]:0"]);
    let port = both.addr().port();
    let mut v4 = connect((Ipv4Addr::LOCALHOST, port).into());
    exchange(&mut v4, b"over IPv4");
    exchange(&mut connect((Ipv6Addr::LOCALHOST, port).into()), b"over IPv6");
    // An IPv4 client is shown as one.
    let list = http::request(both.control(), "GET", "/connections").expect("an answer").json();
    let peer = v4.local_addr().expect("its address").to_string();
    let entries = list["connections"].as_array().expect("a list");
    assert!(entries.iter().any(|entry| entry["peer"] == peer.as_str()), "{list:#}");
}

#[test]
fn an_upstream_may_be_a_unix_socket_or_a_name() {
    let directory = Directory::new();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("a listener");
    open_to_all(&path);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut question = Vec::new();
            stream.read_to_end(&mut question).expect("the client's half has ended");
            stream.write_all(&question).expect("answered");
        }
    });
    let proxy = Ebbtide::proxy(&format!("unix:{}", path.display()), &[]);
    let mut client = connect(proxy.addr());
    let question = random_bytes(8, 300_000);
    client.write_all(&question).expect("sent");
    client.shutdown(Shutdown::Write).expect("ended");
    assert!(read_to_end(&client) == question, "other bytes");

    let name = format!("localhost:{}", echo().port());
    let proxy = Ebbtide::proxy(&name, &[]);
    exchange(&mut connect(proxy.addr()), b"by name");
}

#[test]
fn several_threads_serve_as_one() {
    let args = ["--threads", "2", "--drain-delay", "0", "--settled-for", "0"];
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let addr = proxy.addr();
    let text = random_bytes(9, 100_000);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    exchange(&mut connect(addr), &text);
                }
            });
        }
    });
    let mut last = connect(addr);
    exchange(&mut last, b"here");
    proxy.signal(rustix::process::Signal::TERM);
    proxy.says("listener closed");
    exchange(&mut last, b"still here");
    drop(last);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
    assert_eq!(finished.lines("connection ended").len(), 201);
}

#[test]
fn as_many_connections_as_allowed_and_the_next_one_waits() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &["--max-connections", "2"]);
    let addr = proxy.addr();
    let mut open = [0, 1].map(|_| connect(addr));
    for stream in &mut open {
        exchange(stream, b"served");
    }
    let mut third = connect(addr);
    third.write_all(b"waiting").expect("taken by the kernel");
    proxy.says("as many connections are open as --max-connections allows: accepting pauses");
    assert_eq!(proxy.status()["activeConnections"], 2);
    assert!(proxy.get("/metrics").body.contains("ebbtide_accept_paused_total 1"));
    let [first, second] = open;
    drop(first);
    let mut back = [0; 7];
    third.read_exact(&mut back).expect("served as soon as there is room");
    assert_eq!(&back, b"waiting");
    drop(second);
}

#[test]
fn a_connection_waits_for_an_application_that_is_late() {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let proxy = Ebbtide::proxy(&addr.to_string(), &["--upstream-wait", "60s"]);
    let mut client = connect(proxy.addr());
    client.write_all(b"early").expect("sent");
    proxy.until("one that waits", |status| status["activeConnections"] == 1);
    listen(TcpListener::bind(addr).expect("still free"), send_back);
    let mut back = [0; 5];
    client.read_exact(&mut back).expect("served in the end");
    assert_eq!(&back, b"early");
}

#[test]
fn a_connection_to_an_application_that_does_not_come_is_reset() {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let proxy = Ebbtide::proxy(&addr.to_string(), &["--upstream-wait", "300ms"]);
    let mut client = connect(proxy.addr());
    expect_reset(&mut client);
    let line = proxy.says("connection reset: the application can't be reached");
    assert_eq!(line["end"], "no_upstream");
    let metrics = proxy.get("/metrics").body;
    assert!(
        metrics.contains("ebbtide_upstream_failures_total{reason=\"not_there\"} 1"),
        "{metrics}"
    );
}
