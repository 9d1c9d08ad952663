use super::{GET, OK, assert_idle, play};
use crate::protocol::testing::Script;

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
