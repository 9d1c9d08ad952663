//! HTTP/2 through the proxy, and what a drain tells it: real clients and servers, and frames by hand.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::frames::{
    DATA, END_STREAM, Frame, GOAWAY, HIGHEST_STREAM, PING, REFUSED_STREAM, RST_STREAM, Raw,
    WINDOW_UPDATE, last_streams,
};
use crate::support::h2::{Client, Nghttpd, Server, may_be_sent_again, runtime, whole};
use crate::support::tap::{Passed, Tap};
use crate::support::{Ebbtide, Finished, PATIENCE, QUICK, http};

/// How long a client has to answer the drain's PING.
const PING_PERIOD: Duration = Duration::from_secs(5);

/// A proxy that drains quickly.
fn proxy(upstream: SocketAddr, protocol: &str, more: &[&str]) -> Ebbtide {
    let mut args = QUICK.to_vec();
    args.extend(["--protocol", protocol]);
    args.extend(more);
    Ebbtide::proxy(&upstream.to_string(), &args)
}

/// A proxy whose lame duck is longer than the test.
fn lame_duck(upstream: SocketAddr) -> Ebbtide {
    let args = ["--protocol", "auto", "--drain-delay", "60s", "--quiet-period", "0"];
    Ebbtide::proxy(&upstream.to_string(), &args)
}

/// What /connections lists.
fn connections(proxy: &Ebbtide) -> Vec<Value> {
    let reply = http::request(proxy.control(), "GET", "/connections").expect("an answer");
    reply.json()["connections"].as_array().expect("a list").clone()
}

fn blocking(proxy: &Ebbtide, count: u64) -> Value {
    proxy.until(&format!("{count} blocking"), |status| status["drainBlockingConnections"] == count)
}

/// No connection was made to leave, and each one ended as it should.
fn nothing_was_forced(finished: &Finished) {
    assert_eq!(finished.code(), Some(0), "{:#?}", finished.log);
    for line in finished.lines("connection ended") {
        assert!(line["error"].is_null() && line["forced"].is_null(), "{line}");
        assert!(line["class"] == "http2" || line["class"] == "healthCheck", "{line}");
    }
}

/// The payload of the drain's PING, which stands right behind the first GOAWAY.
fn drain_ping(to_client: &[Frame]) -> Vec<u8> {
    let first = to_client.iter().position(|frame| frame.kind == GOAWAY).expect("a GOAWAY");
    assert!(to_client[first + 1].is(PING, 0), "{:?}", to_client[first + 1]);
    to_client[first + 1].payload.clone()
}

#[test]
fn every_connection_is_told_in_two_phases() {
    for protocol in ["http2", "auto"] {
        told_in_two_phases(protocol);
    }
}

fn told_in_two_phases(protocol: &str) {
    let server = Server::start();
    let application_side = Tap::before(server.addr);
    let proxy = proxy(application_side.addr, protocol, &[]);
    let client_side = Tap::before(proxy.addr());
    runtime().block_on(async {
        let addr = client_side.addr;
        let unused = Client::connect(addr).await.expect("a connection");
        client_side.until("SETTINGS", |all| all.len() == 1 && !all[0].from_upstream.is_empty());
        let idle = Client::connect(addr).await.expect("a connection");
        assert_eq!(idle.get("/idle").await.expect("an answer"), "/idle");
        let held = Client::connect(addr).await.expect("a connection");
        let responses = [held.begin("/hold").await, held.begin("/hold").await];
        let both = Client::connect(addr).await.expect("a connection");
        let mut echo = both.echo().await.expect("a stream");
        echo.exchange(b"before").await.expect("echoed");
        server.until_seen(4);
        proxy.until_metric("ebbtide_goaway_sent_total{phase=\"first\"} 0");

        let status = blocking(&proxy, 2);
        assert_eq!(status["activeStreams"], 3, "{status}");
        assert_eq!(status["byClass"]["http2"], 4, "{status}");
        let streams: Vec<_> =
            connections(&proxy).iter().map(|shown| shown["openStreams"].clone()).collect();
        assert_eq!(streams, [0, 0, 2, 1], "{protocol}");

        proxy.signal(Signal::TERM);
        proxy.says("listener closed");
        for ended in [unused.connection, idle.connection] {
            ended.await.expect("a task").expect("an orderly end");
        }
        drop((unused.requests, idle.requests));
        echo.exchange(b"while draining").await.expect("echoed");
        // A client may end at the first GOAWAY, before the final one has reached the tap.
        let passed = client_side.until("what all but the last are told", |all| {
            all[..3].iter().all(|one| last_streams(&one.to_client()).len() == 2)
        });
        assert_eq!(last_streams(&passed[0].to_client()), [HIGHEST_STREAM, 0]);
        assert_eq!(last_streams(&passed[1].to_client()), [HIGHEST_STREAM, 1]);
        assert_eq!(last_streams(&passed[2].to_client()), [HIGHEST_STREAM, 3]);
        // Its request is not over: trailers may come, so it is not yet told the last stream.
        assert_eq!(last_streams(&passed[3].to_client()), [HIGHEST_STREAM]);
        assert_eq!(blocking(&proxy, 2)["phase"], "Draining");
        // The others are seen off in their own time.
        proxy.until("two connections", |status| status["activeConnections"] == 2);
        for shown in connections(&proxy) {
            assert_eq!(shown["class"], "http2");
            assert_eq!(shown["blocking"], true);
        }
        proxy.until_metric("ebbtide_goaway_sent_total{phase=\"first\"} 4");
        proxy.until_metric("ebbtide_goaway_sent_total{phase=\"final\"} 3");

        server.release(2);
        for response in responses {
            assert_eq!(whole(response.expect("a stream")).await.expect("an answer"), "/hold");
        }
        held.connection.await.expect("a task").expect("an orderly end");
        echo.exchange(b"to the end").await.expect("echoed");
        echo.end().await.expect("an orderly end");
        both.connection.await.expect("a task").expect("an orderly end");
    });
    let finished = proxy.finish();
    nothing_was_forced(&finished);
    assert_eq!(finished.lines("connection ended").len(), 4);

    let told = client_side.connections();
    assert_eq!(last_streams(&told[3].to_client()), [HIGHEST_STREAM, 1]);
    let theirs = application_side.connections();
    for (told, theirs) in told.iter().zip(&theirs) {
        let ping = drain_ping(&told.to_client());
        assert!(told.upstream_ended && !told.broke, "an orderly end");
        let answer = |frame: &Frame| frame.kind == PING && frame.payload == ping;
        assert!(told.to_upstream().iter().any(answer), "the client answers the PING");
        assert!(!theirs.to_upstream().iter().any(answer), "the application sees no answer to it");
    }
}

#[test]
fn streams_that_cross_the_first_goaway_are_served() {
    let server = Server::start();
    let proxy = proxy(server.addr, "auto", &[]);
    let mut client = Raw::client(proxy.addr());
    client.get(1, "/hold");
    server.until_seen(1);
    proxy.signal(Signal::TERM);
    assert_eq!(client.until_goaway(), HIGHEST_STREAM);
    let ping = client.until_ping();
    // These were sent by a client that had not read the GOAWAY yet.
    client.get(3, "/crossed");
    client.get(5, "/hold");
    assert_eq!(client.until_end_of(3), None);
    server.until_seen(3);
    client.answer_ping(&ping);
    assert_eq!(client.until_goaway(), 5);
    server.release(2);
    assert_eq!(client.until_end_of(1), None);
    assert_eq!(client.until_end_of(5), None);
    client.until_end();
    assert_eq!(server.seen(), ["/hold", "/crossed", "/hold"]);
    drop(client);
    nothing_was_forced(&proxy.finish());
}

/// The process would reset what the client has not read yet, if it left before the client has.
#[test]
fn a_drain_waits_for_the_client_of_the_last_stream_to_close() {
    let server = Server::start();
    let proxy = proxy(server.addr, "http2", &[]);
    let mut client = Raw::client(proxy.addr());
    client.get(1, "/hold");
    server.until_seen(1);
    proxy.signal(Signal::TERM);
    let ping = client.until_ping();
    client.answer_ping(&ping);
    server.release(1);
    assert_eq!(client.until_end_of(1), None);
    client.until_end();
    let status = proxy.status();
    assert_eq!(status["drainBlockingConnections"], 1, "{status}");
    drop(client);
    let finished = proxy.finish();
    nothing_was_forced(&finished);
    assert_eq!(finished.lines("connection ended").len(), 1);
}

#[test]
fn a_client_that_never_answers_the_ping_is_told_the_last_stream_after_five_seconds() {
    let server = Server::start();
    let proxy = proxy(server.addr, "http2", &[]);
    let mut client = Raw::client(proxy.addr());
    client.get(1, "/hold");
    server.until_seen(1);
    let before = Instant::now();
    proxy.signal(Signal::TERM);
    assert_eq!(client.until_goaway(), HIGHEST_STREAM);
    let first = Instant::now();
    client.until_ping();
    assert_eq!(client.until_goaway(), 1);
    assert!(before.elapsed() >= PING_PERIOD, "{:?}", before.elapsed());
    assert!(first.elapsed() < PING_PERIOD + Duration::from_secs(2), "{:?}", first.elapsed());
    server.release(1);
    assert_eq!(client.until_end_of(1), None);
    client.until_end();
    drop(client);
    nothing_was_forced(&proxy.finish());
}

#[test]
fn a_client_that_ignores_the_last_stream_is_refused_and_does_not_hold_the_drain() {
    let server = Server::start();
    let limits = ["--drain-timeout", "4s", "--close-spread", "1s"];
    let proxy = proxy(server.addr, "http2", &limits);
    let mut client = Raw::client(proxy.addr());
    client.get(1, "/hold");
    server.until_seen(1);
    proxy.signal(Signal::TERM);
    let ping = client.until_ping();
    client.answer_ping(&ping);
    client.until("the final GOAWAY", |frame| frame.kind == GOAWAY && frame.number() == 1);
    for stream in (3..43).step_by(2) {
        client.get(stream, "/late");
        assert_eq!(client.until_end_of(stream), Some(REFUSED_STREAM));
    }
    // What a refused body took from the connection's window is given back.
    client.send(&Frame::request(43, "/late", 0));
    client.send(&Frame::new(DATA, END_STREAM, 43, &[0; 1000]));
    let credit = client.until("credit", |frame| frame.is(WINDOW_UPDATE, 0) && frame.stream == 0);
    assert_eq!(credit.number(), 1000);
    assert_eq!(server.seen(), ["/hold"]);
    // The one stream that it was promised goes on up to the deadline, and the connection with it.
    client.until_end();
    drop(client);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(75), "one connection was force-closed");
    let forced = finished.lines("connection force-closed by the drain");
    assert_eq!(forced.len(), 1, "{:#?}", finished.log);
    assert_eq!(forced[0]["class"], "http2");
}

#[test]
fn a_client_in_the_middle_of_a_request_is_served_late_streams_until_the_deadline() {
    let server = Server::start();
    let limits = ["--drain-timeout", "3s", "--close-spread", "500ms"];
    let proxy = proxy(server.addr, "auto", &limits);
    let mut client = Raw::client(proxy.addr());
    client.send(&Frame::request(1, "/echo", 0));
    server.until_seen(1);
    proxy.signal(Signal::TERM);
    let ping = client.until_ping();
    client.answer_ping(&ping);
    let mut served = 0;
    // It opens one after the other for as long as it is let.
    'open: for stream in (3..).step_by(2) {
        if client.try_send(&Frame::request(stream, "/late", END_STREAM)).is_err() {
            break;
        }
        loop {
            match client.try_next() {
                Ok(Some(frame)) if frame.stream == stream && frame.flags & END_STREAM != 0 => break,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break 'open,
            }
        }
        served += 1;
    }
    assert!(served > 0, "late streams are served while the last one can't be named");
    assert!(!client.heard.iter().any(|frame| frame.kind == RST_STREAM), "nothing was refused");
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(75));
    // The deadline may have come between the last request and its answer.
    let seen = server.seen().iter().filter(|path| *path == "/late").count();
    assert!(seen == served || seen == served + 1, "{seen} came, {served} were answered");
}

#[test]
fn a_connection_without_streams_does_not_hold_a_drain_and_learns_the_last_stream() {
    for protocol in ["http2", "auto"] {
        let server = Server::start();
        let proxy = proxy(server.addr, protocol, &[]);
        let mut used = Raw::client(proxy.addr());
        used.get(1, "/once");
        assert_eq!(used.until_end_of(1), None);
        let mut unused = Raw::client(proxy.addr());
        unused.until("SETTINGS", |_| true);
        let status = proxy.until("two connections", |status| status["byClass"]["http2"] == 2);
        assert_eq!(status["activeStreams"], 0, "{status}");
        blocking(&proxy, 0);
        for shown in connections(&proxy) {
            assert_eq!((&shown["class"], &shown["blocking"]), (&"http2".into(), &false.into()));
        }
        proxy.signal(Signal::TERM);
        // Neither answers the PING, and nobody waits for it.
        used.until_end();
        unused.until_end();
        assert_eq!(used.last_streams(), [HIGHEST_STREAM, 1], "{protocol}");
        assert_eq!(unused.last_streams(), [HIGHEST_STREAM, 0], "{protocol}");
        nothing_was_forced(&proxy.finish());
    }
}

#[test]
fn a_drain_that_is_undone_says_no_more_and_the_next_one_does() {
    let server = Server::start();
    let application_side = Tap::before(server.addr);
    let proxy = lame_duck(application_side.addr);
    let mut client = Raw::client(proxy.addr());
    client.get(1, "/before");
    assert_eq!(client.until_end_of(1), None);
    assert_eq!(proxy.post("/drain").status, 200);
    assert_eq!(client.until_goaway(), HIGHEST_STREAM);
    let ping = client.until_ping();
    assert_eq!(proxy.post("/undrain").status, 200);
    proxy.until_phase("Serving");
    client.answer_ping(&ping);
    for stream in [3, 5] {
        client.get(stream, "/undone");
        assert_eq!(client.until_end_of(stream), None);
    }
    let mut other = Raw::client(proxy.addr());
    other.get(1, "/other");
    assert_eq!(other.until_end_of(1), None);
    assert_eq!(client.last_streams(), [HIGHEST_STREAM]);
    assert!(other.last_streams().is_empty(), "{:?}", other.last_streams());

    assert_eq!(proxy.post("/drain").status, 200);
    assert_eq!(client.until_goaway(), 5, "its PING was answered long ago");
    assert_eq!(other.until_goaway(), HIGHEST_STREAM);
    let second = other.until_ping();
    other.answer_ping(&second);
    client.until_end();
    other.until_end();
    assert_eq!(other.last_streams(), [HIGHEST_STREAM, 1]);
    for passed in application_side.connections() {
        let pings = passed.to_upstream().into_iter().filter(|frame| frame.kind == PING);
        assert_eq!(pings.count(), 0, "the application never sees an answer to our PING");
    }
}

#[test]
fn a_connection_that_comes_in_the_lame_duck_is_served_and_told() {
    let server = Server::start();
    let proxy = lame_duck(server.addr);
    proxy.addr();
    assert_eq!(proxy.post("/drain").status, 200);
    let mut client = Raw::client(proxy.addr());
    client.get(1, "/hold");
    assert_eq!(client.until_goaway(), HIGHEST_STREAM);
    let ping = client.until_ping();
    client.answer_ping(&ping);
    server.until_seen(1);
    assert_eq!(client.until_goaway(), 1);
    server.release(1);
    assert_eq!(client.until_end_of(1), None);
    client.until_end();
}

/// A connection between the proxy and an application that speaks frame by frame.
fn by_hand(proxy: impl Fn(SocketAddr) -> Ebbtide) -> (Ebbtide, Raw, Raw) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let proxy = proxy(listener.local_addr().expect("an address"));
    let client = Raw::client(proxy.addr());
    let (stream, _) = listener.accept().expect("a connection");
    (proxy, client, Raw::server(stream))
}

/// `:status 200` of the static table.
fn answer(stream: u32) -> Frame {
    Frame::new(1, 4 | END_STREAM, stream, &[0x88])
}

#[test]
fn what_an_application_announced_itself_is_not_contradicted() {
    let (proxy, mut client, mut application) = by_hand(|addr| proxy(addr, "http2", &[]));
    client.get(1, "/a");
    client.get(3, "/b");
    application.until("the second request", |frame| frame.stream == 3);
    application.send(&Frame::goaway(1));
    assert_eq!(client.until_goaway(), 1);
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    // Stream 3 was disowned by the application; stream 1 is what there is to wait for.
    blocking(&proxy, 1);
    application.send(&answer(1));
    assert_eq!(client.until_end_of(1), None);
    client.until_end();
    let last_streams = client.last_streams();
    assert!(last_streams.iter().all(|last| *last == 1), "{last_streams:?}");
    drop((client, application));
    nothing_was_forced(&proxy.finish());
}

#[test]
fn an_application_can_not_take_back_what_the_drain_has_announced() {
    let (proxy, mut client, mut application) = by_hand(|addr| proxy(addr, "http2", &[]));
    client.get(1, "/a");
    application.until("the request", |frame| frame.stream == 1);
    proxy.signal(Signal::TERM);
    let ping = client.until_ping();
    client.answer_ping(&ping);
    client.until("the final GOAWAY", |frame| frame.kind == GOAWAY && frame.number() == 1);
    application.send(&Frame::goaway(HIGHEST_STREAM));
    assert_eq!(client.until_goaway(), 1);
    // A client's own PING is still the application's to answer.
    client.send(&Frame::new(PING, 0, 0, b"our ping"));
    application
        .until("the client's PING", |frame| frame.is(PING, 0) && frame.payload == b"our ping");
    application.answer_ping(b"our ping");
    client.until("its answer", |frame| frame.is(PING, 1) && frame.payload == b"our ping");
    application.send(&answer(1));
    assert_eq!(client.until_end_of(1), None);
    client.until_end();
    application.until_end();
    drop((client, application));
    nothing_was_forced(&proxy.finish());
}

#[test]
fn a_server_and_the_drain_that_leave_at_once_agree() {
    let server = Server::start();
    let proxy = proxy(server.addr, "auto", &[]);
    let tap = Tap::before(proxy.addr());
    runtime().block_on(async {
        let client = Client::connect(tap.addr).await.expect("a connection");
        let held = client.begin("/hold").await.expect("a stream");
        assert_eq!(client.get("/first").await.expect("an answer"), "/first");
        proxy.signal(Signal::TERM);
        server.leave();
        let both_said = async {
            let said = |passed: &Passed| {
                last_streams(&passed.to_client()).iter().filter(|last| **last == 3).count() == 2
            };
            while !said(&tap.connections()[0]) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, both_said).await.expect("two words of the last stream");
        server.release(1);
        assert_eq!(whole(held).await.expect("an answer"), "/hold");
        client.connection.await.expect("a task").expect("an orderly end");
    });
    let last_streams = last_streams(&tap.connections()[0].to_client());
    assert!(last_streams.is_sorted_by(|earlier, later| earlier >= later), "{last_streams:?}");
    nothing_was_forced(&proxy.finish());
}

#[test]
fn without_a_drain_not_a_byte_is_changed() {
    let root = std::env::temp_dir().join(format!("ebbtide-nghttpd-{}", std::process::id()));
    std::fs::create_dir_all(&root).expect("a directory");
    std::fs::write(root.join("file"), vec![b'x'; 20_000]).expect("a file");
    let nghttpd = Nghttpd::start(&root);
    let application_side = Tap::before(nghttpd.addr);
    for protocol in ["http2", "auto"] {
        let proxy = proxy(application_side.addr, protocol, &[]);
        let client_side = Tap::before(proxy.addr());
        let before = application_side.connections().len();
        let mut load = Command::new("h2load");
        load.args(["-c16", "-m32", "-n4000"]).arg(format!("http://{}/file", client_side.addr));
        let output = load.output().expect("h2load, of Debian's nghttp2-client");
        let said = String::from_utf8_lossy(&output.stdout);
        let all = "4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored";
        assert!(said.contains(all), "{said}");
        proxy.until("no connection", |status| status["activeConnections"] == 0);
        let sorted = |mut connections: Vec<Passed>| {
            connections.sort();
            connections.into_iter().map(|passed| (passed.from_client, passed.from_upstream))
        };
        let sent: Vec<_> = sorted(client_side.connections()).collect();
        let came: Vec<_> = sorted(application_side.connections().split_off(before)).collect();
        assert_eq!(sent.len(), 16);
        assert!(sent == came, "what one side reads is what the other has sent");

        // And as a human would look at it.
        let mut look = Command::new("nghttp");
        look.args(["-nv"]).arg(format!("http://{}/file", proxy.addr()));
        let output = look.output().expect("nghttp, of Debian's nghttp2-client");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(":status: 200") && said.contains("; END_STREAM"), "{said}");
    }
    std::fs::remove_dir_all(root).expect("removed");
}

/// nghttp2's own client under load when the drain begins: whatever it was given leave for is done.
#[test]
fn clients_under_load_lose_nothing_in_a_drain() {
    let server = Server::start();
    let proxy = proxy(server.addr, "auto", &[]);
    let tap = Tap::before(proxy.addr());
    runtime().block_on(async {
        let clients: Vec<_> = (0..16)
            .map(|_| {
                let addr = tap.addr;
                tokio::spawn(async move {
                    let client = Client::connect(addr).await.expect("a connection");
                    let mut streams = tokio::task::JoinSet::new();
                    let client = std::sync::Arc::new(client);
                    for _ in 0..8 {
                        let client = std::sync::Arc::clone(&client);
                        streams.spawn(async move {
                            let mut answered = 0;
                            loop {
                                match client.get("/load").await {
                                    Ok(_) => answered += 1,
                                    // Sent above the last stream, or not at all.
                                    Err(error) if may_be_sent_again(&error) => return answered,
                                    Err(error) => panic!("lost after {answered}: {error:?}"),
                                }
                            }
                        });
                    }
                    streams.join_all().await.into_iter().sum::<u64>()
                })
            })
            .collect();
        while server.seen().len() < 1000 {
            tokio::task::yield_now().await;
        }
        proxy.signal(Signal::TERM);
        let mut answered = 0;
        for client in clients {
            let whole = tokio::time::timeout(PATIENCE, client).await.expect("an end");
            answered += whole.expect("nothing lost");
        }
        // What was answered is what was served: nothing was served and then called unserved.
        assert_eq!(server.seen().len() as u64, answered);
    });
    // A client may end before the final word has reached the tap.
    let passed = tap.until("what each is told", |all| {
        all.iter().all(|one| last_streams(&one.to_client()).len() >= 2)
    });
    assert_eq!(passed.len(), 16);
    for passed in passed {
        let last_streams = last_streams(&passed.to_client());
        assert_eq!(last_streams.len(), 2, "{last_streams:?}");
        assert_eq!(last_streams[0], HIGHEST_STREAM);
        assert!(!passed.broke);
    }
    nothing_was_forced(&proxy.finish());
}
