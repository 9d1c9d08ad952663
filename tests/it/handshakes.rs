//! Authentication that belongs to a connection: a drain lets the handshake end before it says close.

use crate::support::Ebbtide;
use crate::support::http1::{App, Wire};

const LAME_DUCK: [&str; 6] =
    ["--drain-delay", "10m", "--quiet-period", "0", "--drain-timeout", "20m"];

fn request(scheme: &str, credentials: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {scheme} {credentials}\r\n\r\n")
}

fn challenge(scheme: &str, data: &str) -> String {
    format!(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {scheme} {data}\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The 401 with the challenge said close, in the lame duck too, so that no such handshake came to its end.
#[test]
fn ntlm_and_negotiate_handshakes_end_on_the_connection_that_they_began_on() {
    for (scheme, legs) in [("NTLM", 1), ("Negotiate", 3)] {
        let app = App::new();
        let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
        assert_eq!(proxy.post("/drain").status, 200);
        proxy.until_phase("LameDuck");
        let mut client = Wire::connect(proxy.addr());
        client.send(request(scheme, "first"));
        let mut server = app.accept();
        for leg in 0..legs {
            server.head().expect("a request");
            server.send(challenge(scheme, &format!("data{leg}")));
            let answer = client.answer().expect("a challenge");
            assert!(!answer.says_close(), "{scheme}: {}", answer.head);
            let peer = client.addr();
            proxy.until_listed(peer, |entry| entry["unfinished"] == "head");
            client.send(request(scheme, &format!("next{leg}")));
        }
        server.head().expect("the last request");
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let answer = client.answer().expect("an answer");
        assert!(answer.says_close() && answer.body == b"ok", "{}", answer.head);
        client.ends();
    }
}

#[test]
fn an_offer_without_a_challenge_says_close() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    assert_eq!(proxy.post("/drain").status, 200);
    proxy.until_phase("LameDuck");
    let mut client = Wire::connect(proxy.addr());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = app.accept();
    server.head().expect("a request");
    server.send(challenge("NTLM", ""));
    assert!(client.answer().expect("an offer").says_close());
}
