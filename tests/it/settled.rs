//! When a drain is over: at once when nothing is left and nothing can come, and soon when a client is dead.

use rustix::process::Signal;
use socket2::{SockFilter, SockRef};

use crate::support::http1::{App, Wire};
use crate::support::{Ebbtide, connect, echo, exchange};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A drain without a lame duck that waits for ever until it has settled.
const UNSETTLED: [&str; 8] = [
    "--drain-delay",
    "0",
    "--drain-timeout",
    "2h",
    "--settled-for",
    "1h",
    "--settle-period",
    "100ms",
];

#[test]
fn nothing_settles_when_every_listener_is_closed_and_no_connection_remains() {
    for connections in [0, 3] {
        let proxy = Ebbtide::proxy(&echo().to_string(), &UNSETTLED);
        let mut streams: Vec<_> = (0..connections).map(|_| connect(proxy.addr())).collect();
        for stream in &mut streams {
            exchange(stream, b"hello");
        }
        // With nobody there the process may end before another line is read.
        proxy.addr();
        proxy.signal(Signal::TERM);
        if connections > 0 {
            proxy.says("listener closed");
        }
        drop(streams);
        assert_eq!(proxy.finish().code(), Some(0));
    }
}

#[test]
fn an_idle_connection_that_remains_is_waited_for_because_it_may_begin_again() {
    let app = App::new();
    let args = [&UNSETTLED[..], &["--protocol", "http1", "--idle-policy", "on-response"]].concat();
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let mut client = Wire::connect(proxy.addr());
    client.send(GET);
    let mut upstream = app.accept();
    upstream.head().expect("a request");
    upstream.send(OK);
    client.expect(OK);
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    let status = proxy.until("not blocked", |status| status["drainBlockingConnections"] == 0);
    assert_eq!((&status["phase"], &status["activeConnections"]), (&"Draining".into(), &1.into()));
    // It begins again, and is served.
    client.send(GET);
    upstream.head().expect("a request");
    let blocked = proxy.until("blocked", |status| status["drainBlockingConnections"] == 1);
    assert_eq!(blocked["phase"], "Draining");
    upstream.send(OK);
    assert!(client.answer().expect("an answer").says_close());
    client.ends();
    drop((client, upstream));
    assert_eq!(proxy.finish().code(), Some(0));
}

#[test]
fn a_listener_that_goes_on_accepting_is_waited_for() {
    let args = [&UNSETTLED[..], &["--reject", "accept"]].concat();
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let stream = connect(proxy.addr());
    proxy.until("busy", |status| status["drainBlockingConnections"] == 1);
    proxy.signal(Signal::TERM);
    proxy.until_phase("Draining");
    drop(stream);
    proxy.until("empty", |status| status["activeConnections"] == 0);
    assert_eq!(proxy.status()["phase"], "Draining");
    // Who comes now is served.
    exchange(&mut connect(proxy.addr()), b"late");
}

/// Guards: TCP_USER_TIMEOUT, once set, makes the kernel ignore how many keep-alive probes went
/// unanswered, and a dead client held a drain for five minutes. Needs root: a filter on a socket.
#[test]
fn a_dead_client_that_owes_nothing_ends_by_the_probes_and_not_by_the_user_time_out() {
    let args = ["--drain-delay", "0", "--drain-timeout", "20m", "--settled-for", "0"];
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let mut client = connect(proxy.addr());
    exchange(&mut client, b"hello");
    // BPF_RET with 0: the client's kernel drops all that comes, and answers nothing.
    let deaf = [SockFilter::new(0x06, 0, 0, 0)];
    SockRef::from(&client).attach_filter(&deaf).expect("a filter, which needs root");
    proxy.signal(Signal::TERM);
    let ended = proxy.says("connection ended");
    assert_eq!(ended["end"], "client_broke", "{ended}");
    assert_eq!(proxy.finish().code(), Some(0));
    drop(client);
}
