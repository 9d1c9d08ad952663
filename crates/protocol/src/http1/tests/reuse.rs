//! When an upstream connection may serve another client, and when never again.

use super::{GET, OK, OK_CLOSE, tracker_with};
use crate::Class;
use crate::Direction::{FromClient, FromUpstream};
use crate::http1::{Forwarding, Options, Tracker};
use crate::testing::{Outcome, Script};

fn tracker() -> Tracker {
    tracker_with(Options { upstream_reuse: true, ..Options::default() })
}

fn play(script: &Script) -> Outcome {
    script.play(tracker)
}

fn after(request: &str, response: &str) -> bool {
    let script = Script::new().client(request).upstream(response);
    let outcome = play(&script);
    assert!(!outcome.states[0].is_reusable, "{request:?} is not answered yet");
    outcome.last().is_reusable
}

fn assert_bound(script: &Script) {
    // Not after this, and not after any exchange that follows.
    for script in [script.clone(), script.clone().client(GET).upstream(OK)] {
        assert!(!play(&script).last().is_reusable, "{script:?}");
    }
}

#[test]
fn after_a_whole_exchange_it_may_serve_another_client() {
    let post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    let chunks =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n";
    let http10 = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let http10_ok = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    for (request, response) in [
        (GET, OK),
        (GET, chunks),
        (GET, "HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
        (GET, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("HEAD / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        (post, OK),
        (http10, http10_ok),
        ("GET / HTTP/1.1\r\nAuthorization: Basic bnRsbTo=\r\n\r\n", OK),
    ] {
        assert!(after(request, response), "{request:?} {response:?}");
    }
}

#[test]
fn without_being_asked_for_it_never_may() {
    let script = Script::new().client(GET).upstream(OK);
    assert!(!script.play(|| tracker_with(Options::default())).last().is_reusable);
}

#[test]
fn whoever_says_close_closes() {
    assert!(!after(GET, OK_CLOSE));
    assert!(!after("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", OK));
    assert!(!after("GET / HTTP/1.0\r\n\r\n", OK));
    assert!(!after(GET, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    let until_close = Script::new().client(GET).upstream("HTTP/1.1 200 OK\r\n\r\nok");
    assert_bound(&until_close);
    assert_bound(&until_close.end(FromUpstream));
}

#[test]
fn in_an_exchange_it_is_this_clients() {
    let half = Script::new().client(GET).upstream(OK).client("GET /");
    assert!(!play(&half).last().is_reusable);
    let pipelined = Script::new().client([GET, GET].concat()).upstream(OK);
    assert!(!play(&pipelined).last().is_reusable);
    assert!(play(&pipelined.upstream(OK)).last().is_reusable);
    let body = Script::new().client("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab");
    assert!(!play(&body).last().is_reusable);
    let answer =
        Script::new().client(GET).upstream("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    assert!(!play(&answer).last().is_reusable);
}

#[test]
fn what_answers_before_it_has_been_asked_whole_is_not_trusted_again() {
    let begun = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab";
    assert_bound(&Script::new().client(begun).upstream(OK).client("c"));
    let waiting = "POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    assert_bound(&Script::new().client(waiting).upstream(OK).client("abc"));
    let refused = "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n";
    assert_bound(&Script::new().client(waiting).upstream(refused));
    let asked = "HTTP/1.1 100 Continue\r\n\r\n";
    let script = Script::new().client(waiting).upstream(asked).client("abc").upstream(OK);
    assert!(play(&script).last().is_reusable);
}

#[test]
fn authentication_that_belongs_to_the_connection_keeps_it() {
    for field in [
        "Authorization: NTLM TlRMTVNTUAAB",
        "Authorization: negotiate YIIB",
        "Proxy-Authorization: NTLM TlRMTVNTUAAB",
    ] {
        let request = format!("GET / HTTP/1.1\r\n{field}\r\n\r\n");
        assert_bound(&Script::new().client(request).upstream(OK));
    }
    for field in [
        "WWW-Authenticate: NTLM",
        "WWW-Authenticate: Basic realm=\"a\", Negotiate",
        "Proxy-Authenticate: Negotiate",
    ] {
        let response = format!("HTTP/1.1 401 No\r\n{field}\r\nContent-Length: 0\r\n\r\n");
        assert_bound(&Script::new().client(GET).upstream(response));
    }
}

#[test]
fn who_asks_for_another_protocol_keeps_it() {
    let upgrade = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n";
    assert_bound(&Script::new().client(upgrade).upstream(OK));
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n";
    assert_bound(&Script::new().client(upgrade).upstream(switched));
    let connect = "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_bound(
        &Script::new().client(connect).upstream("HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n"),
    );
}

#[test]
fn what_is_not_understood_keeps_it() {
    assert_bound(&Script::new().client("\0").upstream(OK));
    assert_bound(&Script::new().client(GET).upstream([OK, OK].concat()));
    assert_bound(&Script::new().client(format!("\r\n{GET}")).upstream(OK));
    assert_bound(&Script::new().client(format!("{GET}\r\n")).upstream(OK));
}

#[test]
fn the_clients_end_leaves_it_when_nothing_was_begun() {
    let whole = Script::new().client(GET).upstream(OK).end(FromClient);
    assert!(play(&whole).last().is_reusable);
    assert!(play(&Script::new().end(FromClient)).last().is_reusable);
    // The end was passed on with what was begun.
    let asked = Script::new().client(GET).end(FromClient).upstream(OK);
    assert!(!play(&asked).last().is_reusable);
    let half = Script::new().client(GET).upstream(OK).client("GET /").end(FromClient);
    assert!(!play(&half).last().is_reusable);
}

#[test]
fn the_upstreams_end_ends_it() {
    let script = Script::new().client(GET).upstream(OK).end(FromUpstream);
    assert!(!play(&script).last().is_reusable);
}

#[test]
fn in_a_drain_it_stays_where_it_is() {
    let script = Script::new().client(GET).upstream(OK).drain();
    assert!(!play(&script).last().is_reusable);
    assert!(play(&script.clone().undrain()).last().is_reusable);
    let told = script.client(GET).upstream(OK).undrain();
    assert!(!play(&told).last().is_reusable, "its client was told that it ends");
}

#[test]
fn a_request_that_names_its_client_passes_too() {
    let options = || Options {
        forwarding: Some(Forwarding::Both),
        upstream_reuse: true,
        ..Options::default()
    };
    let mut tracker = tracker_with(options());
    for _ in 0..2 {
        let _ = tracker.step(FromClient, GET.as_bytes());
        let _ = tracker.step(FromClient, GET.as_bytes());
        let _ = tracker.step(FromUpstream, OK.as_bytes());
        assert!(tracker.is_reusable());
    }
}

#[test]
fn a_client_that_goes_on_counts_as_before() {
    let options = || std::sync::Arc::new(Options { upstream_reuse: true, ..Options::default() });
    let client = std::net::Ipv4Addr::LOCALHOST.into();
    let probe = "GET / HTTP/1.1\r\nUser-Agent: kube-probe/1\r\n\r\n";
    for (class, last) in [(Class::HealthCheck, "healthCheck"), (Class::Idle, "idle")] {
        let script = Script::new().client(probe).upstream(OK);
        let outcome = script.play(|| Tracker::resumed(options(), client, class));
        assert_eq!(outcome.last().class.name(), last);
    }
}
