//! What a drain tells each connection, in two phases, and what it waits for.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{blocking, nothing_was_forced, proxy};
use crate::support::frames::{Frame, GOAWAY, HIGHEST_STREAM, PING, Raw, last_streams};
use crate::support::h2::{Client, Server, runtime, whole};
use crate::support::tap::Tap;

/// How long a client has to answer the drain's PING.
const PING_PERIOD: Duration = Duration::from_secs(5);

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
            proxy.connections().iter().map(|shown| shown["openStreams"].clone()).collect();
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
        for shown in proxy.connections() {
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
        for shown in proxy.connections() {
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
