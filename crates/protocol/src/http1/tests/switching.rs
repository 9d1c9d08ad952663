use super::{GET, OK, assert_idle, assert_surprise, play};
use crate::testing::Script;
use crate::{Class, Surprise};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\n\
                       Upgrade: websocket\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\
                        Connection: Upgrade\r\n\r\n";
const CONNECT: &str = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";

#[test]
fn a_101_to_websocket_is_one() {
    let script = Script::new()
        .client(UPGRADE)
        .upstream(format!("{SWITCHED}\u{1}\u{2}hi"))
        .client(b"\x81\x82\0\0\0\0hi");
    let outcome = play(&script);
    assert_eq!(outcome.classes(), ["http", "websocket", "websocket"]);
    assert_eq!(outcome.last().events.responses_ended, [1, 0, 0, 0, 0]);
}

#[test]
fn a_websockets_surprises_are_the_connections() {
    let script = Script::new().client(UPGRADE).upstream(SWITCHED).upstream(b"\x83\x00");
    assert_surprise(&script, Surprise::ReservedFrame);
    let compressed = b"\xc1\x01a";
    let script = Script::new().client(UPGRADE);
    let plain = script.clone().upstream(SWITCHED).upstream(compressed);
    assert_surprise(&plain, Surprise::ReservedFrame);
    let extended =
        SWITCHED.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
    let outcome = play(&script.upstream(extended).upstream(compressed));
    assert_eq!(outcome.last().class, Class::WebSocket);
}

#[test]
fn other_protocols_are_upgraded() {
    for (asked, agreed) in [("h2c", "a"), ("websocket", "other"), ("a, websocket", "a")] {
        let script = Script::new()
            .client(UPGRADE.replace("websocket", asked))
            .upstream(SWITCHED.replace("WebSocket", agreed) + "anything")
            .client("whatever");
        assert_eq!(play(&script).classes(), ["http", "upgraded", "upgraded"]);
    }
}

#[test]
fn connect_with_2xx_is_a_tunnel() {
    let script = Script::new()
        .client(CONNECT)
        .upstream("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        .client("\x16\x03");
    let outcome = play(&script);
    assert_eq!(outcome.classes(), ["http", "upgraded", "upgraded"]);
    assert_eq!(outcome.last().events.responses_ended, [0, 1, 0, 0, 0]);
}

#[test]
fn a_refused_switch_leaves_http() {
    let refused = "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno";
    for request in [CONNECT, UPGRADE] {
        let script = Script::new().client(request).upstream(refused).client(GET).upstream(OK);
        assert_idle(&script, 2, [0, 1, 0, 1, 0]);
    }
}

#[test]
fn an_upgrade_needs_connection_and_http_1_1() {
    for request in [
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade, keep-alive\r\n\r\n",
        GET,
    ] {
        let script = Script::new().client(request).upstream(SWITCHED);
        assert_surprise(&script, Surprise::UnaskedUpgrade);
    }
}

#[test]
fn nothing_may_come_before_the_answer() {
    for request in [CONNECT, UPGRADE] {
        let early = Script::new().client(request).client("a");
        assert_surprise(&early, Surprise::EarlyBytes);
    }
    let body = "POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: a\r\nContent-Length: 2\r\n\r\na";
    let early = Script::new().client(body).upstream(SWITCHED);
    assert_surprise(&early, Surprise::UnaskedUpgrade);
    let behind = Script::new().client(GET).client(UPGRADE).upstream(SWITCHED);
    assert_surprise(&behind, Surprise::UnaskedUpgrade);
}
