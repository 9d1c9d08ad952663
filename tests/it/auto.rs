//! What a listener does of whose protocol nothing was said: it finds out, and until it knows it neither
//! holds a byte back nor sees anybody off.

use std::net::SocketAddr;
use std::time::Instant;

use rustix::process::Signal;

use crate::support::http1::{App, Wire};
use crate::support::peers::Peer;
use crate::support::{Ebbtide, PATIENCE, QUICK};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GREETING: &str = "220 late\r\n";

/// A drain that lasts as long as its test, and in which what is idle is closed at once.
const LAME_DUCK: [&str; 8] = [
    "--drain-delay",
    "10m",
    "--quiet-period",
    "0",
    "--drain-timeout",
    "20m",
    "--idle-policy",
    "immediate",
];

/// Begins a drain. When this returns every open connection has its order.
fn drain(proxy: &Ebbtide) {
    assert_eq!(proxy.post("/drain").status, 200);
    proxy.until_phase("LameDuck");
}

const MAIL_SERVER: &str = "
import asyncio
from aiosmtpd.smtp import SMTP
class Handler:
    async def handle_DATA(self, server, session, envelope):
        print(envelope.content.decode().strip().splitlines()[-1], flush=True)
        return '250 kept'
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(), hostname='mail'), '127.0.0.1', 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.create_future()
asyncio.run(main())
";

const MAIL_CLIENT: &str = "
import smtplib, sys
mail = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))
mail.ehlo('a')
mail.mail('a@a')
mail.rcpt('b@b')
print('half way', flush=True)
sys.stdin.readline()
print(mail.data('sent after the signal')[0], flush=True)
mail.quit()
print('over', flush=True)
";

#[test]
fn a_mail_is_delivered_across_a_drain() {
    let server = Peer::python(MAIL_SERVER);
    let proxy = Ebbtide::proxy(&server.upstream, &QUICK);
    let mut client = Peer::python_client(MAIL_CLIENT, &[&proxy.addr().port().to_string()]);
    assert_eq!(client.line(), "half way");
    let listed = proxy.connections();
    assert_eq!(
        (&listed[0]["class"], &listed[0]["surprise"]),
        (&"opaque".into(), &"serverFirst".into())
    );
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    client.say("go on");
    assert_eq!(client.line(), "250");
    assert_eq!(server.line(), "sent after the signal");
    assert_eq!(client.line(), "over");
    assert_eq!(proxy.finish().code(), Some(0));
}

/// Guards: a connection on which nobody had spoken yet was taken for an idle one of HTTP. A drain
/// closed it within seconds, and a mail server may greet later than that.
#[test]
fn a_server_that_greets_late_is_awaited_in_a_drain() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    let mut idle = Wire::connect(proxy.addr());
    idle.send(GET);
    let mut idle_upstream = app.accept();
    idle_upstream.expect(GET);
    idle_upstream.send(OK);
    idle.expect(OK);
    proxy.until_listed(idle.addr(), |listed| listed["class"] == "idle");
    // Not all who spoke here were HTTP.
    let mut other = Wire::connect(proxy.addr());
    let mut other_upstream = app.accept();
    other.send("QUIT\r\n");
    other_upstream.expect("QUIT\r\n");
    proxy.until_listed(other.addr(), |listed| listed["class"] == "opaque");
    // A zero may be the beginning of an HTTP/2 server's SETTINGS.
    for (said, class) in [("", "silent"), ("\0", "tcp")] {
        let mut client = Wire::connect(proxy.addr());
        let mut upstream = app.accept();
        upstream.send(said);
        client.expect(said);
        drain(&proxy);
        idle.ends();
        let listed = proxy.until_listed(client.addr(), |listed| listed["class"] == class);
        assert_eq!((&listed["blocking"], &listed["excluded"]), (&true.into(), &().into()));
        upstream.send(GREETING);
        client.expect(GREETING);
        client.send("QUIT\r\n");
        upstream.expect("QUIT\r\n");
        proxy.until_listed(client.addr(), |listed| listed["surprise"] == "serverFirst");
        client.half_close();
        upstream.ends();
        upstream.send("221 bye\r\n");
        drop(upstream);
        client.expect("221 bye\r\n");
        client.ends();
    }
}

/// Near the deadline it is asked to leave as plain TCP is; nobody has said anything that could be lost.
#[test]
fn who_never_speaks_keeps_a_drain_waiting_until_closing() {
    let app = App::new();
    let args = [&QUICK[..], &["--drain-timeout", "2s", "--close-spread", "1s"]].concat();
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let mut client = Wire::connect(proxy.addr());
    let mut upstream = app.accept();
    proxy.until_listed(client.addr(), |listed| listed["blocking"] == true);
    proxy.signal(Signal::TERM);
    client.ends();
    upstream.ends();
    drop((client, upstream));
    let finished = proxy.finish();
    assert_eq!(finished.lines("asking to leave")[0]["survivors"], 1);
    let forced = finished.lines("connection force-closed by the drain");
    assert_eq!((&forced[0]["class"], &forced[0]["forced"]), (&"silent".into(), &"asked".into()));
}

#[test]
fn first_bytes_pass_at_once_wherever_they_are_cut() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let cases: [(&[u8], &str); 5] = [
        (GET.as_bytes(), "http"),
        (preface, "http2"),
        (b"\x16\x03\x01\x02\0\x01\0", "opaque"),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", "opaque"),
        (b"*1\r\n$4\r\nPING\r\n", "opaque"),
    ];
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    for is_draining in [false, true] {
        if is_draining {
            drain(&proxy);
        }
        for (bytes, class) in cases {
            for at in 1..bytes.len() {
                let (first, rest) = bytes.split_at(at);
                let mut client = Wire::connect(proxy.addr());
                client.send(first);
                let mut upstream = app.accept();
                upstream.expect(first);
                client.send(rest);
                upstream.expect(rest);
                if !is_draining {
                    proxy.until_listed(client.addr(), |listed| listed["class"] == class);
                }
                if class == "opaque" {
                    upstream.send("\0back");
                    client.expect("\0back");
                }
            }
        }
    }
}

#[test]
fn a_client_that_ends_before_it_speaks_is_still_spoken_to() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    for is_draining in [false, true] {
        if is_draining {
            drain(&proxy);
        }
        for first in ["", "GE"] {
            let mut client = Wire::connect(proxy.addr());
            client.send(first);
            client.half_close();
            let mut upstream = app.accept();
            upstream.expect(first);
            upstream.ends();
            upstream.send(GREETING);
            client.expect(GREETING);
            drop(upstream);
            client.ends();
        }
    }
}

/// What a balancer puts before a client's first bytes is the application's to read.
#[test]
fn the_proxy_protocol_passes_as_it_is() {
    let one = b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 80\r\n";
    let two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x08\x12\x67\0\x50";
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    for header in [&one[..], two] {
        for text in [[header, GET.as_bytes()].concat(), header.to_vec()] {
            let mut client = Wire::connect(proxy.addr());
            client.send(&text);
            let mut upstream = app.accept();
            upstream.expect(&text);
            upstream.send(OK);
            client.expect(OK);
            let listed = proxy.until_listed(client.addr(), |listed| listed["class"] == "opaque");
            assert_eq!(listed["blocking"], true);
        }
    }
}

/// Waits until the proxy has read what this client sent: the kernel's table of sockets says so.
fn until_read(client: SocketAddr, proxy: SocketAddr) {
    let port = |addr: SocketAddr| format!(":{:04X}", addr.port());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
        let is_read = table.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let ends = [fields[1].ends_with(&port(proxy)), fields[2].ends_with(&port(client))];
            ends == [true, true] && fields[4].ends_with(":00000000")
        });
        if is_read {
            return;
        }
        assert!(Instant::now() < deadline, "the proxy does not read");
        std::thread::yield_now();
    }
}

/// Guards: only what came with the first read was looked at, so that a client whose first word was
/// cut got a FIN.
#[test]
fn a_request_that_comes_in_pieces_is_answered_503_too() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &[&QUICK[..], &["--reject", "http503"]].concat());
    let open = Wire::connect(proxy.addr());
    let _upstream = app.accept();
    assert_eq!(proxy.post("/drain").status, 200);
    proxy.until("rejecting", |status| status["listeners"][0]["state"] == "Rejecting");
    for first in ["G", "GET", "GET /"] {
        let mut client = Wire::connect(proxy.addr());
        client.send(first);
        until_read(client.addr(), proxy.addr());
        client.send(&GET[first.len()..]);
        let answer = client.answer().expect("an answer");
        assert!(answer.head.starts_with("HTTP/1.1 503 "), "{}", answer.head);
        client.ends();
    }
    for other in ["", "*1\r\n$4\r\nPING\r\n"] {
        let mut client = Wire::connect(proxy.addr());
        client.send(other);
        client.ends();
    }
    drop(open);
}
