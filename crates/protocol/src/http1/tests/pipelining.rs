use super::{GET, OK, assert_idle, play, tracker};
use crate::Class;
use crate::http1::OUTSTANDING_LIMIT;
use crate::testing::Script;

#[test]
fn answers_come_in_order() {
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    let no_body = "HTTP/1.1 404 No\r\nContent-Length: 7\r\n\r\n";
    let script =
        Script::new().client(format!("{GET}{head}{post}")).upstream(format!("{OK}{no_body}{OK}"));
    assert_idle(&script, 3, [0, 2, 0, 1, 0]);
}

#[test]
fn a_connection_is_busy_until_the_last_answer() {
    let script = Script::new().client(GET.repeat(2)).upstream(OK).upstream(OK);
    let outcome = play(&script);
    assert_eq!(outcome.classes(), ["http", "http", "idle"]);
}

#[test]
fn nothing_is_answered_after_close() {
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let script = Script::new().client(GET.repeat(3)).upstream(closing);
    assert_idle(&script, 3, [0, 1, 0, 0, 0]);
}

/// Some requests are always waiting, for longer than there is room to remember them at once.
#[test]
fn what_was_asked_is_remembered_in_turn() {
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let no_body = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    let mut script = Script::new().client(GET).client(head).client(GET);
    for _ in 0..OUTSTANDING_LIMIT {
        script = script.upstream(OK).client(head);
        script = script.upstream(no_body).client(GET);
    }
    let rest = script.upstream(OK).upstream(no_body).upstream(OK);
    let last = rest.play_cut(tracker(), |_, _| Vec::new()).last();
    assert_eq!(last.class, Class::Idle);
    assert_eq!(last.events.requests_begun as usize, 3 + 2 * OUTSTANDING_LIMIT);
}
