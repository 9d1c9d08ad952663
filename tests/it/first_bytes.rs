//! Empty lines before the first request: nobody's, in every protocol and in every mode (RFC 9112 §2.2).

use rustix::process::Signal;

use crate::support::http1::{App, Wire};
use crate::support::{Ebbtide, QUICK};

/// In `auto` it was opaque, and held the drain to its deadline.
#[test]
fn a_client_that_has_sent_an_empty_line_is_idle() {
    for protocol in ["auto", "http1"] {
        let app = App::new();
        let mut args = QUICK.to_vec();
        args.extend(["--protocol", protocol]);
        let proxy = Ebbtide::proxy(&app.upstream(), &args);
        let mut client = Wire::connect(proxy.addr());
        client.send("\r\n");
        let mut server = app.accept();
        server.expect("\r\n");
        proxy.until_listed(client.addr(), |entry| entry["class"] == "idle");
        client.send("GET / HTTP/1.1\r\n\r\n");
        server.expect("GET / HTTP/1.1\r\n\r\n");
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(client.answer().expect("an answer").body, b"ok");
        let mut other = Wire::connect(proxy.addr());
        other.send("\r\n\r\n");
        proxy.until_listed(other.addr(), |entry| entry["class"] == "idle");
        proxy.signal(Signal::TERM);
        for mut idle in [client, other] {
            idle.ends();
        }
        drop(server);
        let finished = proxy.finish();
        assert_eq!(finished.code(), Some(0), "{protocol}: {:#?}", finished.log);
    }
}

/// It got a FIN and no answer.
#[test]
fn a_client_that_is_turned_away_with_503_may_send_an_empty_line_first() {
    for (protocol, first, rest) in [
        ("auto", "\r\n", "GET / HTTP/1.1\r\n\r\n"),
        ("auto", "\r", "\nGET / HTTP/1.1\r\n\r\n"),
        ("http1", "\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"),
        ("http1", "\r\nGE", "T / HTTP/1.1\r\n\r\n"),
    ] {
        let app = App::new();
        let args = ["--protocol", protocol, "--reject", "http503", "--drain-delay", "0"];
        let proxy = Ebbtide::proxy(&app.upstream(), &args);
        let mut held = Wire::connect(proxy.addr());
        held.send("GET / HTTP/1.1\r\n\r\n");
        let _server = app.accept();
        proxy.until("busy", |status| status["drainBlockingConnections"] == 1);
        assert_eq!(proxy.post("/drain").status, 200);
        proxy.until("rejecting", |status| status["listeners"][0]["state"] == "Rejecting");
        let mut client = Wire::connect(proxy.addr());
        client.send(first);
        client.send(rest);
        let answer = client.answer().expect("an answer");
        assert!(answer.head.starts_with("HTTP/1.1 503 "), "{protocol} {first:?}: {}", answer.head);
        assert!(answer.says_close());
    }
}
