//! An application that says a GOAWAY of its own.

use std::net::{SocketAddr, TcpListener};

use rustix::process::Signal;

use super::{blocking, nothing_was_forced, proxy};
use crate::support::frames::{END_STREAM, Frame, GOAWAY, HIGHEST_STREAM, PING, Raw, last_streams};
use crate::support::h2::{Client, Server, runtime, whole};
use crate::support::tap::{Passed, Tap};
use crate::support::{Ebbtide, PATIENCE};

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
