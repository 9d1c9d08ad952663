use super::{GET, OK, assert_idle, exchange, play};
use crate::Direction::FromUpstream;
use crate::testing::Script;

/// Plays a request and its response, then a second exchange: only if the first one's ends were
/// found does the second one begin and end where it should.
fn assert_framed(request: &str, response: &str, status_class: usize) {
    let outcome = exchange(request, response);
    assert_eq!(outcome.classes(), ["http", "idle"], "{request} {response}");
    let script = Script::new().client(request).upstream(response);
    let mut responses = [0; 5];
    responses[status_class] += 1;
    assert_idle(&script, 1, responses);
    responses[1] += 1;
    assert_idle(&script.client(GET).upstream(OK), 2, responses);
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

fn ok(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}")
}

#[test]
fn bodies_end_by_their_length() {
    assert_framed(GET, OK, 1);
    assert_framed(GET, &ok("content-LENGTH:0\r\n", ""), 1);
    assert_framed(&post("Content-Length: 3\r\n", "abc"), OK, 1);
    assert_framed(&post("Content-Length: 003 \r\n", "abc"), OK, 1);
    assert_framed(GET, &ok("Content-Length: 5, 5\r\n", "hello"), 1);
    let twice = "Content-Length: 5\r\nA: b\r\nContent-Length:5\r\n";
    assert_framed(&post(twice, "hello"), &ok(twice, "hello"), 1);
}

#[test]
fn a_request_without_a_length_has_no_body() {
    assert_framed(&post("", ""), OK, 1);
}

#[test]
fn responses_without_body_by_method_or_status() {
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_framed(head, &ok("Content-Length: 500\r\n", ""), 1);
    assert_framed(head, &ok("Transfer-Encoding: chunked\r\n", ""), 1);
    assert_framed(head, "HTTP/1.1 404 Not Found\r\n\r\n", 3);
    assert_framed(GET, "HTTP/1.1 204 No Content\r\n\r\n", 1);
    assert_framed(GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 2);
    assert_framed(GET, "HTTP/1.1 205\r\nContent-Length: 0\r\n\r\n", 1);
}

#[test]
fn interim_responses_come_before_the_final_one() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let continued = "HTTP/1.1 100 Continue\r\n\r\n";
    assert_framed(GET, &format!("{hints}{OK}"), 1);
    assert_framed(GET, &format!("{continued}{hints}{hints}{OK}"), 1);
    let outcome = exchange(GET, hints);
    assert_eq!(outcome.classes(), ["http", "http"]);
}

#[test]
fn chunks_with_extensions_and_trailers() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;a=b;c=\"d;e\"\r\nhello\r\n000;x\r\n\r\n",
        "5 \t;a\r\nhello\r\n0\r\nA: b\r\nC:\r\n\r\n",
        "0000000000000005\r\nhe\r\no\r\n1\r\n\n\r\n0\r\n\r\n",
        "1A\r\nabcdefghijklmnopqrstuvwxyz\r\na\r\n0123456789\r\n0\r\n\r\n",
    ] {
        assert_framed(&post(chunked, body), &ok(chunked, body), 1);
    }
    assert_framed(
        &post("Transfer-Encoding: gzip, Chunked\r\n", "0\r\n\r\n"),
        &ok("TE: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        1,
    );
}

#[test]
fn empty_lines_before_a_request_are_nobodys() {
    assert_framed(&format!("\r\n\r\n{GET}"), OK, 1);
    assert_framed(&post("Content-Length: 2\r\n", "ab\r\n"), OK, 1);
}

#[test]
fn targets_in_every_form() {
    for target in ["*", "http://a.example/b?c", "/a%20b?c=d&e", "a.example:443"] {
        assert_framed(&format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n"), OK, 1);
    }
}

#[test]
fn a_response_until_close_ends_with_the_connection() {
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
    ] {
        let script = Script::new().client(GET).upstream(head).upstream("a\r\n\r\nHTTP/1.1 200");
        let outcome = play(&script);
        assert_eq!(outcome.classes(), ["http", "http", "http"]);
        let ended = script.end(FromUpstream);
        assert_idle(&ended, 1, [0, 1, 0, 0, 0]);
    }
}

#[test]
fn http_1_0_with_keep_alive_goes_on() {
    let get = "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    let ok = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    assert_framed(get, ok, 1);
}

#[test]
fn http_1_0_without_keep_alive_ends() {
    let get = "GET / HTTP/1.0\r\n\r\n";
    let ok = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let script = Script::new().client(get).upstream(ok);
    assert_idle(&script, 1, [0, 1, 0, 0, 0]);
    // What comes after the end is nobody's exchange.
    let more = script.client("more");
    assert_idle(&more, 1, [0, 1, 0, 0, 0]);
}

#[test]
fn a_response_may_come_before_the_body_has_ended() {
    let outcome = play(
        &Script::new()
            .client("POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc")
            .upstream(OK)
            .client("def")
            .client(GET)
            .upstream(OK),
    );
    assert_eq!(outcome.classes(), ["http", "http", "idle", "http", "idle"]);
}

const EXPECT: &str = "PUT / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn a_body_may_wait_for_100_continue() {
    let script = Script::new()
        .client(EXPECT)
        .upstream("HTTP/1.1 100 Continue\r\n\r\n")
        .client("ab")
        .upstream(OK);
    assert_eq!(play(&script).classes(), ["http", "http", "http", "idle"]);
    assert_idle(&script.client(GET).upstream(OK), 2, [0, 2, 0, 0, 0]);
}

#[test]
fn a_declined_body_leaves_the_connection_idle() {
    let declined = "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n";
    let script = Script::new().client(EXPECT).upstream(declined);
    assert_idle(&script, 1, [0, 0, 0, 1, 0]);
}

#[test]
fn a_body_that_did_not_wait_is_a_body() {
    let declined = "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n";
    let script = Script::new().client(format!("{EXPECT}a")).upstream(declined).client("b");
    assert_eq!(play(&script).classes(), ["http", "http", "idle"]);
    let late = Script::new().client(EXPECT).upstream(OK).client("ab");
    assert_eq!(play(&late).classes(), ["http", "http", "idle"]);
    let asked_for = Script::new().client(EXPECT).upstream("HTTP/1.1 100 Continue\r\n\r\n");
    let outcome = play(&asked_for.upstream(declined).client("ab"));
    assert_eq!(outcome.classes(), ["http", "http", "http", "idle"]);
}

#[test]
fn long_lengths_are_counted() {
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nabc";
    assert_eq!(exchange(GET, response).classes(), ["http", "http"]);
}
