//! HTTP/1.1 that becomes HTTP/2 by an Upgrade, with nghttp2's client and server.

use std::process::Command;

use rustix::process::Signal;

use super::late::lame_duck;
use super::nghttpx::Nghttpx;
use super::{blocking, proxy};
use crate::support::frames::{
    DATA, Frame, GOAWAY, HEADERS, HIGHEST_STREAM, PREFACE, Raw, SETTINGS,
};
use crate::support::h2::Nghttpd;
use crate::support::http1::{App, Wire};
use crate::support::{Directory, Ebbtide, QUICK};

const UPGRADE: &str = "GET /file HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                       Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";

/// An application that takes the offer up: nghttpx does, and nghttpd behind it has the file.
struct Application {
    upgrades: Nghttpx,
    _serves: Nghttpd,
    _root: Directory,
}

impl Application {
    fn start() -> Self {
        let root = Directory::new();
        std::fs::write(root.path().join("file"), b"a file").expect("a file");
        let serves = Nghttpd::start(root.path());
        Application { upgrades: Nghttpx::before(serves.addr), _serves: serves, _root: root }
    }
}

/// It counted as `upgraded`, was never told, and held the drain to its deadline.
#[test]
fn an_idle_upgraded_client_is_told_in_two_phases_and_does_not_hold_the_drain() {
    let application = Application::start();
    for protocol in ["auto", "http1"] {
        let proxy = proxy(application.upgrades.addr, protocol, &[]);
        let mut wire = Wire::connect(proxy.addr());
        wire.send(UPGRADE);
        let head = wire.head().expect("a 101");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        wire.send(PREFACE);
        let (stream, read) = wire.into_parts();
        let mut client = Raw::behind(stream, read);
        client.send(&Frame::new(SETTINGS, 0, 0, &[]));
        assert_eq!(client.until_end_of(1), None);
        assert!(client.heard.iter().any(|frame| frame.kind == DATA && frame.payload == b"a file"));
        let listed = |connection: &serde_json::Value| connection["class"] == "http2";
        proxy.until_listed(client.addr(), |connection| {
            listed(connection) && connection["openStreams"] == 0
        });
        blocking(&proxy, 0);
        proxy.signal(Signal::TERM);
        let ping = client.until_ping();
        client.answer_ping(&ping);
        client.until("the final GOAWAY", |frame| frame.kind == GOAWAY && frame.number() == 1);
        client.until_end();
        assert_eq!(client.last_streams(), [HIGHEST_STREAM, 1]);
        drop(client);
        let finished = proxy.finish();
        assert_eq!(finished.code(), Some(0), "{:#?}", finished.log);
    }
}

#[test]
fn nghttp_upgrades_through_the_proxy() {
    let application = Application::start();
    let proxy = proxy(application.upgrades.addr, "auto", &[]);
    let output = Command::new("nghttp")
        .args(["-uv", "--no-dep"])
        .arg(format!("http://{}/file", proxy.addr()))
        .output()
        .expect("nghttp, of Debian's nghttp2-client");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("HTTP Upgrade success") && said.contains(":status: 200"), "{said}");
}

#[test]
fn where_the_client_is_named_the_offer_is_taken_out() {
    let app = App::new();
    let mut args = QUICK.to_vec();
    args.extend(["--forward-client", "x-forwarded-for"]);
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let mut client = Wire::connect(proxy.addr());
    client.send(UPGRADE);
    let mut server = app.accept();
    let head = server.head().expect("a request");
    assert_eq!(head, "GET /file HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n");
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.answer().expect("an answer").body, b"ok");
}

/// In a drain the application's GOAWAY(0) to a client that has not asked: it hears that, and then the end.
#[test]
fn a_newcomer_hears_the_applications_own_goaway_before_the_end() {
    let app = App::new();
    let proxy = lame_duck(app.upstream().parse().expect("an address"), "auto");
    assert_eq!(proxy.post("/drain").status, 200);
    proxy.until_phase("LameDuck");
    let mut client = Raw::client(proxy.addr());
    let mut server = Raw::server(app.accept().into_stream());
    server.send(&Frame::goaway(0));
    client.until_end();
    assert_eq!(client.last_streams(), [0]);
    assert!(!client.heard.iter().any(|frame| frame.kind == HEADERS));
}
