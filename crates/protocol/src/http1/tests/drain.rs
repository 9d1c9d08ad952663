use super::{GET, OK, OK_CLOSE, assert_surprise, play, tracker_with};
use crate::Direction::{FromClient, FromUpstream};
use crate::http1::{DrainOptions, Forwarding, HEAD_LIMIT_BYTES, Options, PATIENCE};
use crate::http1::{service_unavailable, tests::tracker};
use crate::testing::{Outcome, Script};
use crate::{Class, Step, Surprise};

/// Plays one exchange in a drain: what the client reads.
fn answered(response: &str) -> String {
    let outcome = play(&Script::new().drain().client(GET).upstream(response));
    assert_eq!(outcome.upstream_read(), GET);
    assert!(outcome.last().farewell_done, "{response}");
    assert!(outcome.last().is_safe_point, "{response}");
    outcome.client_read()
}

#[test]
fn the_last_response_says_close() {
    let outcome = play(&Script::new().client(GET).drain().upstream(OK).client(GET));
    assert_eq!(outcome.client_read(), OK_CLOSE);
    assert_eq!(outcome.upstream_read(), GET);
    assert!(!outcome.states[1].farewell_done);
    assert!(outcome.states[2].farewell_done);
    assert_eq!(outcome.last().events.refused, 1);
}

#[test]
fn only_the_connections_own_lines_change() {
    let head = |fields: &str| format!("HTTP/1.1 200  Fine \r\n{fields}content-LENGTH:0\r\n\r\n");
    for (fields, edited) in [
        ("", ""),
        ("Connection: keep-alive\r\n", "Connection: close\r\n"),
        ("connection:Keep-Alive\r\nKeep-Alive: timeout=5\r\n", "connection: close\r\n"),
        (
            "A:  b\t\r\nCONNECTION: X-Hop\r\nx-hop: 1\r\n",
            "A:  b\t\r\nCONNECTION: close, X-Hop\r\nx-hop: 1\r\n",
        ),
        (
            "Connection: keep-alive, X-A\r\nB: c\r\nConnection: , x-b ,keep-alive\r\nKEEP-ALIVE:\r\n",
            "Connection: close, X-A, x-b\r\nB: c\r\n",
        ),
        ("Connection-Id: keep-alive\r\n", "Connection-Id: keep-alive\r\n"),
    ] {
        let expected = head(edited);
        let expected = if edited.to_ascii_lowercase().contains("connection:") {
            expected
        } else {
            expected.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
        };
        assert_eq!(answered(&head(fields)), expected);
    }
}

#[test]
fn heads_that_say_it_already_are_left_alone() {
    assert_eq!(answered(OK_CLOSE), OK_CLOSE);
    let http10 = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(answered(http10), http10);
    let closing = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
    let outcome = play(&Script::new().drain().client(closing).upstream(OK));
    assert_eq!(outcome.client_read(), OK);
    assert!(outcome.last().farewell_done);
}

#[test]
fn http_1_0_keep_alive_becomes_close() {
    let get = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let ok = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    let outcome = play(&Script::new().drain().client(get).upstream(ok));
    assert_eq!(outcome.client_read(), ok.replace("keep-alive", "close"));
}

#[test]
fn bodies_without_a_length_go_on_to_their_end() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let expected = chunked.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
    assert_eq!(answered(chunked), expected);
    let until_close = "HTTP/1.1 200 OK\r\n\r\nok";
    let outcome = play(&Script::new().drain().client(GET).upstream(until_close).end(FromUpstream));
    assert_eq!(outcome.client_read(), until_close);
    assert!(!outcome.states[2].farewell_done);
    assert!(outcome.states[3].farewell_done);
}

#[test]
fn interim_responses_never_say_close() {
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n";
    assert_eq!(answered(&format!("{early}{OK}")), format!("{early}{OK_CLOSE}"));
}

#[test]
fn switching_responses_are_left_alone() {
    let upgrade = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switched = "HTTP/1.1 101 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let outcome = play(&Script::new().drain().client(upgrade).upstream(switched));
    assert_eq!(outcome.client_read(), switched);
    assert_eq!(outcome.last().class, Class::WebSocket);
    let connect = "CONNECT a:1 HTTP/1.1\r\n\r\n";
    let outcome = play(&Script::new().drain().client(connect).upstream(OK));
    assert_eq!((outcome.client_read().as_str(), outcome.last().class), (OK, Class::Upgraded));
    let outcome = play(&Script::new().drain().client(upgrade).upstream(OK));
    assert_eq!(outcome.client_read(), OK_CLOSE);
    assert!(outcome.last().farewell_done);
}

#[test]
fn pipelined_requests_are_answered_and_the_last_says_close() {
    let script = Script::new().client(GET.repeat(3)).drain().upstream(OK).client(GET);
    let outcome = play(&script.clone().upstream(OK.repeat(3)).client(GET));
    assert_eq!(outcome.client_read(), format!("{OK}{OK}{OK}{OK_CLOSE}"));
    assert_eq!(outcome.upstream_read(), GET.repeat(4));
    assert!(outcome.last().farewell_done);
    // One read may bring all the answers.
    let outcome = play(&Script::new().client(GET.repeat(3)).drain().upstream(OK.repeat(3)));
    assert_eq!(outcome.client_read(), format!("{OK}{OK}{OK_CLOSE}"));
}

#[test]
fn half_a_request_counts_as_one() {
    let (begun, rest) = GET.split_at(9);
    let script = Script::new().client(format!("{GET}{begun}")).drain().upstream(OK);
    let outcome = play(&script.client(rest).upstream(OK));
    assert_eq!(outcome.client_read(), format!("{OK}{OK_CLOSE}"));
    assert_eq!(outcome.upstream_read(), GET.repeat(2));
}

#[test]
fn patience_with_pipelining_ends() {
    let patience = usize::from(PATIENCE);
    let mut script = Script::new().client(GET.repeat(2)).drain();
    for _ in 0..=patience {
        script = script.upstream(OK).client(GET);
    }
    let outcome = script.play_cut(tracker(), |_, _| Vec::new());
    assert_eq!(outcome.client_read(), OK.repeat(patience) + OK_CLOSE);
    let forwarded = outcome.upstream_read().matches("GET").count();
    assert_eq!(forwarded, patience + 1, "every forwarded request was answered");
    assert_eq!(outcome.last().events.refused, 1);
}

/// Guards: once the connection had become opaque, the client's bytes were forwarded again, behind the
/// gap that those left which a drain had kept back.
#[test]
fn nothing_is_forwarded_behind_what_was_not() {
    let last = "GET / HTTP/1.0\r\n\r\n";
    let script = Script::new().client(last).drain().client("x").upstream("odd\r\n").client("y");
    let outcome = play(&script.upstream("z"));
    assert_eq!(outcome.classes(), ["http", "http", "http", "opaque", "opaque", "opaque"]);
    assert_eq!(outcome.upstream_read(), last);
    assert_eq!(outcome.client_read(), "odd\r\nz");
}

#[test]
fn a_head_that_has_passed_is_followed_by_an_idle_connection() {
    let (head, body) = OK.split_at(OK.len() - 1);
    let script = Script::new().client(GET).upstream(head).drain().upstream(body);
    let outcome = play(&script);
    assert_eq!(outcome.client_read(), OK);
    assert_eq!(outcome.last().class, Class::Idle);
    assert!(!outcome.last().farewell_done);
    let outcome = play(&script.client(GET).upstream(OK));
    assert_eq!(outcome.client_read(), format!("{OK}{OK_CLOSE}"));
    assert!(outcome.last().farewell_done);
    // So is half a head.
    let (begun, rest) = OK.split_at(9);
    let outcome = play(&Script::new().client(GET).upstream(begun).drain().upstream(rest));
    assert_eq!((outcome.client_read().as_str(), outcome.last().class), (OK, Class::Idle));
}

#[test]
fn the_farewell_waits_for_a_body_that_the_upstream_still_reads() {
    let post = "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab";
    let script = Script::new().client(post).drain().upstream(OK).client("cdGET");
    let outcome = play(&script);
    assert_eq!(outcome.classes()[2], "http");
    assert!(!outcome.states[2].farewell_done && outcome.last().farewell_done);
    assert_eq!(outcome.upstream_read(), format!("{post}cd"));
    let outcome = play(&Script::new().client(post).drain().upstream(OK_CLOSE));
    assert!(outcome.last().farewell_done, "the upstream has said that it reads no further");
}

#[test]
fn the_farewell_does_not_wait_for_a_declined_body() {
    let expect = "PUT / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let declined = "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n";
    let outcome = play(&Script::new().client(expect).drain().upstream(declined).client("ab"));
    assert!(outcome.last().farewell_done);
    assert_eq!(outcome.upstream_read(), expect);
    // Nor does what the client sends meanwhile disturb it.
    let (head, body) = ("HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n", "no");
    let script = Script::new().client(expect).drain().upstream(head).client("ab").upstream(body);
    let outcome = play(&script);
    assert!(outcome.last().farewell_done);
    assert_eq!(outcome.upstream_read(), expect);
}

#[test]
fn undrain_after_a_request_was_kept_back_lets_no_later_one_pass() {
    let script = Script::new().client(GET).drain().upstream(OK_CLOSE).client("GE").undrain();
    let outcome = play(&script.client("T / HTTP/1.1\r\n\r\n"));
    assert_eq!(outcome.upstream_read(), GET);
    assert_eq!(outcome.last().events.refused, 1);
}

#[test]
fn an_idle_connection_is_not_told_before_its_next_response() {
    let outcome = play(&Script::new().client(GET).upstream(OK).drain());
    assert_eq!(outcome.last().class, Class::Idle);
    assert!(outcome.last().is_safe_point && !outcome.last().farewell_done);
}

#[test]
fn undrain_before_the_farewell_leaves_no_trace() {
    let outcome = play(&Script::new().client(GET).drain().undrain().upstream(OK).client(GET));
    assert_eq!(outcome.client_read(), OK);
    assert_eq!(outcome.last().class, Class::Http);
    // Also of a head that is held.
    let (begun, rest) = OK.split_at(9);
    let script = Script::new().client(GET).drain().upstream(begun).undrain().upstream(rest);
    assert_eq!(play(&script).client_read(), OK);
}

#[test]
fn undrain_after_the_farewell_does_not_unsay_it() {
    let (begun, rest) = OK.split_at(OK.len() - 1);
    let script = Script::new().client(GET).drain().upstream(begun).undrain().upstream(rest);
    let outcome = play(&script.client(GET));
    assert_eq!(outcome.client_read(), OK_CLOSE);
    assert_eq!(outcome.upstream_read(), GET);
    assert!(outcome.last().farewell_done);
}

#[test]
fn a_held_head_is_released_when_the_upstream_ends() {
    let script = Script::new().client(GET).drain().upstream("HTTP/1.1 20").end(FromUpstream);
    assert_eq!(play(&script).client_read(), "HTTP/1.1 20");
}

#[test]
fn surprises_pass_in_a_drain_too() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(HEAD_LIMIT_BYTES));
    let script = Script::new().client(GET).drain().upstream(&long);
    let outcome = script.play_cut(tracker(), |_, length| (1000..length).step_by(1000).collect());
    assert_eq!(outcome.last().class, Class::Opaque(Surprise::HeadTooLong));
    assert_eq!(outcome.client_read(), long);
    let script = Script::new().client(GET).drain().upstream("HTTP/1.1 200 OK\n\n");
    assert_surprise(&script, Surprise::BareLineFeed);
    assert_eq!(play(&script).client_read(), "HTTP/1.1 200 OK\n\n");
}

#[test]
fn the_deadline_is_told_when_asked_for() {
    let date = "Sun, 22 Nov 2026 14:00:00 GMT";
    let options = DrainOptions::default().with_drain_deadline(date);
    let line = format!("Drain-Deadline: {date}\r\n");
    let said = OK_CLOSE.replace("\r\n\r\n", &format!("\r\n{line}\r\n"));
    for response in [OK, OK_CLOSE] {
        let script = Script::new().drain_with(options.clone()).client(GET).upstream(response);
        let outcome = play(&script);
        assert_eq!(outcome.client_read(), said);
        assert!(outcome.last().farewell_done);
    }
    let no_value = DrainOptions::default().with_drain_deadline("a\r\nb: c");
    let outcome = play(&Script::new().drain_with(no_value).client(GET).upstream(OK));
    assert_eq!(outcome.client_read(), OK_CLOSE);
}

fn forwarded(forwarding: Forwarding, request: &str) -> Outcome {
    let options = || Options { forwarding: Some(forwarding), ..Options::default() };
    // A drain lets the script's relay accept edits; these come without one, too.
    let script = Script::new().drain().undrain().client(request).upstream(OK);
    script.play(|| tracker_with(options()))
}

#[test]
fn request_heads_say_whom_they_come_from() {
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    for (forwarding, before, after) in [
        (Forwarding::XForwardedFor, "", "X-Forwarded-For: 192.0.2.1\r\n"),
        (
            Forwarding::XForwardedFor,
            "x-forwarded-for: ::1 \r\nA: b\r\n",
            "x-forwarded-for: ::1, 192.0.2.1 \r\nA: b\r\n",
        ),
        (
            Forwarding::XForwardedFor,
            "X-Forwarded-For: a\r\nX-Forwarded-For:\r\n",
            "X-Forwarded-For: a\r\nX-Forwarded-For: 192.0.2.1\r\n",
        ),
        (Forwarding::Forwarded, "", "Forwarded: for=192.0.2.1\r\n"),
        (
            Forwarding::Both,
            "Forwarded: for=a\r\n",
            "Forwarded: for=a, for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\n",
        ),
    ] {
        let outcome = forwarded(forwarding, &get(before));
        assert_eq!(outcome.upstream_read(), get(after));
        assert_eq!(outcome.last().class, Class::Idle);
    }
}

#[test]
fn pipelined_requests_and_their_bodies_are_forwarded() {
    let post = "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab\r\n";
    let outcome = forwarded(Forwarding::XForwardedFor, &post.repeat(2));
    let said = post.replace("\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n");
    assert_eq!(outcome.upstream_read(), said.repeat(2));
    let outcome = forwarded(Forwarding::XForwardedFor, "GET /\r\n");
    assert_eq!(outcome.upstream_read(), "GET /\r\n");
}

#[test]
fn a_rejected_connection_is_told_when_to_come_back() {
    let response = String::from_utf8(service_unavailable(7)).expect("it is text");
    let outcome = play(&Script::new().client(GET).upstream(&response));
    assert_eq!(outcome.last().events.responses_ended, [0, 0, 0, 0, 1]);
    assert!(response.contains("\r\nRetry-After: 7\r\n"));
    assert!(response.contains("\r\nConnection: close\r\n"));
}

#[test]
fn ends_of_the_client_are_not_ends_of_the_exchange() {
    let script = Script::new().client(GET).end(FromClient).drain().upstream(OK);
    let outcome = play(&script);
    assert_eq!(outcome.client_read(), OK_CLOSE);
    assert!(outcome.last().farewell_done);
}

#[test]
fn the_farewell_is_done_when_the_old_head_is_gone() {
    let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let mut tracker = tracker();
    tracker.begin_drain(&DrainOptions::default());
    assert_eq!(tracker.step(FromClient, GET.as_bytes()), Step::Pass(GET.len()));
    assert!(matches!(tracker.step(FromUpstream, empty.as_bytes()), Step::Insert(_)));
    assert!(!tracker.farewell_done() && !tracker.is_safe_point());
    let (some, rest) = empty.as_bytes().split_at(9);
    assert_eq!(tracker.step(FromUpstream, some), Step::Drop(9));
    assert!(!tracker.farewell_done() && !tracker.is_safe_point());
    assert_eq!(tracker.step(FromUpstream, rest), Step::Drop(rest.len()));
    assert!(tracker.farewell_done() && tracker.is_safe_point());
}

#[test]
fn a_request_head_that_is_held_keeps_the_connection() {
    let forwarding = Some(Forwarding::Forwarded);
    let mut tracker = tracker_with(Options { forwarding, ..Options::default() });
    assert_eq!(tracker.step(FromClient, b"GET / HT"), Step::Hold);
    assert_eq!(tracker.class(), Class::Http);
    assert!(!tracker.is_safe_point());
    assert!(matches!(tracker.step(FromClient, GET.as_bytes()), Step::Insert(_)));
    assert_eq!(tracker.step(FromClient, GET.as_bytes()), Step::Drop(GET.len()));
    assert_eq!(tracker.step(FromUpstream, OK.as_bytes()), Step::Pass(OK.len()));
    assert!(tracker.is_safe_point());
}
