//! `--upstream-reuse`: connections to the application serve one client after the other, and nothing
//! is lost, answered twice or told to the wrong client.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::http1::{App, Wire};
use crate::support::peers::Peer;
use crate::support::site::{Site, answer, is_readable, shut_off};
use crate::support::{Ebbtide, free_port, process};

/// Without a rest between two clients: what goes wrong then is what these tests are about.
const REUSE: [&str; 4] = ["--protocol", "http1", "--upstream-reuse", "--upstream-rest=0"];
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn proxy(upstream: &str, args: &[&str]) -> Ebbtide {
    Ebbtide::proxy(upstream, &[&REUSE, args].concat())
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn lent(proxy: &Ebbtide, event: &str) -> u64 {
    let name = format!("ebbtide_upstream_lent_total{{event=\"{event}\"}} ");
    let metrics = proxy.get("/metrics").body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {metrics}"))
}

fn until_lent(proxy: &Ebbtide, event: &str, count: u64) {
    proxy.until_metric(&format!("ebbtide_upstream_lent_total{{event=\"{event}\"}} {count}"));
}

/// One request on a connection of its own, which the client ends; the answer's body.
fn once(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut client = Wire::connect(addr);
    client.try_send(get(path))?;
    let body = client.answer()?.body;
    // Seen to its end, so that what it leaves is where the next one finds it.
    let _ = client.stream().shutdown(Shutdown::Write);
    client.is_cut();
    String::from_utf8(body).map_err(io::Error::other)
}

/// Many clients at once, each with one request after the other, a connection for each; what became
/// of those that were not answered with what they asked for.
fn crowd(addr: SocketAddr, clients: usize, requests: usize) -> Vec<(String, io::Error)> {
    std::thread::scope(|scope| {
        let client = |client| {
            move || {
                let ask = |request| {
                    let path = format!("/{client}-{request}");
                    match once(addr, &path) {
                        Ok(body) => {
                            assert_eq!(body, path, "another client's answer");
                            None
                        }
                        Err(error) => Some((path, error)),
                    }
                };
                (0..requests).filter_map(ask).collect::<Vec<_>>()
            }
        };
        let clients: Vec<_> = (0..clients).map(|number| scope.spawn(client(number))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    })
}

#[test]
fn many_clients_share_few_upstream_connections() {
    let site = Site::telling();
    let proxy = proxy(&site.upstream(), &[]);
    let lost = crowd(proxy.addr(), 8, 100);
    assert!(lost.is_empty(), "{lost:?}");
    let accepted = site.accepted();
    println!("800 clients over {accepted} connections");
    assert!(accepted <= 80, "{accepted} connections for 800 clients");
    until_lent(&proxy, "reused", 800 - accepted as u64);
    proxy.until_metric("ebbtide_requests_total 800");
}

#[test]
fn a_client_that_is_silent_costs_no_upstream_connection() {
    let site = Site::telling();
    let proxy = proxy(&site.upstream(), &[]);
    let mut client = Wire::connect(proxy.addr());
    let listed = proxy.until_listed(client.addr(), |_| true);
    assert_eq!(listed["class"], "idle");
    assert_eq!(site.accepted(), 0, "nobody has asked for anything");
    for round in 1..=2 {
        client.send(get("/a"));
        assert_eq!(client.answer().expect("an answer").body, b"/a");
        assert_eq!(site.accepted(), round);
        // It goes on to be a client, but its upstream connection is soon nobody's, and then over.
        until_lent(&proxy, "parked", round as u64);
        site.until_ended(round);
        proxy.until_listed(client.addr(), |listed| listed["class"] == "idle");
    }
}

#[test]
fn a_probe_costs_no_upstream_connection() {
    let site = Site::telling();
    let proxy = proxy(&site.upstream(), &[]);
    let mut probe = Wire::connect(proxy.addr());
    probe.half_close();
    probe.ends();
    proxy.until("none left", |status| status["activeConnections"] == 0);
    assert_eq!(site.accepted(), 0);
}

#[test]
fn a_client_that_keeps_asking_keeps_its_upstream_connection() {
    let site = Site::new(|visit| {
        visit.wire.try_send(answer(&visit.connection.to_string()))?;
        Ok(true)
    });
    let proxy = proxy(&site.upstream(), &[]);
    let mut client = Wire::connect(proxy.addr());
    for _ in 0..1000 {
        client.send(GET);
        client.answer().expect("an answer");
    }
    // A busy machine may have stopped for longer than a client is waited for.
    assert!(lent(&proxy, "parked") < 10, "hot keep-alive must not pay for it");
}

#[test]
fn every_kind_of_answer_leaves_the_connection_to_the_next_client() {
    const KINDS: [(&str, &str); 7] = [
        ("/204", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("/304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n"),
        ("/head", "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n"),
        ("/empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("/length", OK),
        ("/early", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "/chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
        ),
    ];
    let site = Site::new(|visit| {
        let kind = KINDS.iter().find(|(path, _)| *path == visit.path);
        let answer = kind.map_or_else(|| answer(&visit.path), |(_, response)| (*response).into());
        visit.wire.try_send(answer)?;
        Ok(true)
    });
    let proxy = proxy(&site.upstream(), &[]);
    for (path, response) in KINDS {
        let (method, reused) =
            (if path == "/head" { "HEAD" } else { "GET" }, lent(&proxy, "reused"));
        let mut client = Wire::connect(proxy.addr());
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.expect(response);
        client.half_close();
        client.ends();
        assert_eq!(once(proxy.addr(), "/after").expect("an answer"), "/after", "after {path}");
        let is_ruled_out = ["/204", "/304", "/head"].contains(&path);
        assert!(is_ruled_out || lent(&proxy, "reused") > reused, "not lent after {path}");
    }
}

#[test]
fn an_answer_until_the_end_ends_both() {
    let site = Site::new(|visit| {
        visit.wire.try_send("HTTP/1.1 200 OK\r\n\r\nuntil the end")?;
        Ok(false)
    });
    let proxy = proxy(&site.upstream(), &[]);
    for round in 1..=2 {
        let mut client = Wire::connect(proxy.addr());
        client.send(GET);
        client.expect("HTTP/1.1 200 OK\r\n\r\nuntil the end");
        client.ends();
        assert_eq!(site.accepted(), round);
    }
    assert_eq!(lent(&proxy, "parked"), 0);
}

#[test]
fn pipelined_requests_are_answered_before_the_next_client() {
    let site = Site::telling();
    let proxy = proxy(&site.upstream(), &[]);
    let mut client = Wire::connect(proxy.addr());
    let many: Vec<_> = (0..20).map(|number| format!("/{number}")).collect();
    client.send(many.iter().map(|path| get(path)).collect::<String>());
    for path in &many {
        assert_eq!(client.answer().expect("an answer").body, path.as_bytes());
    }
    client.half_close();
    client.ends();
    assert_eq!(once(proxy.addr(), "/next").expect("an answer"), "/next");
    assert_eq!(lent(&proxy, "reused"), 1);
    assert_eq!(site.accepted(), 1);
}

/// One exchange, after which the client ends. The application sees that end: its connection is
/// nobody else's.
fn assert_not_lent(request: &str, response: &str) {
    let app = App::new();
    let proxy = proxy(&app.upstream(), &[]);
    let mut client = Wire::connect(proxy.addr());
    client.send(request);
    let mut upstream = app.accept();
    upstream.expect(request);
    upstream.send(response);
    client.expect(response);
    client.half_close();
    upstream.ends();
    drop(upstream);
    client.ends();
    assert_eq!(lent(&proxy, "parked"), 0, "{request:?} {response:?}");
}

#[test]
fn a_connection_that_one_side_wants_closed_is_not_lent() {
    assert_not_lent("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", OK);
    assert_not_lent(GET, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    assert_not_lent("GET / HTTP/1.0\r\n\r\n", OK);
}

#[test]
fn upgrades_tunnels_and_connection_bound_authentication_are_not_lent() {
    let upgrade = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_not_lent(upgrade, OK);
    assert_not_lent(
        upgrade,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_not_lent("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n");
    assert_not_lent("GET / HTTP/1.1\r\nAuthorization: NTLM TlRMTVNTUAAB\r\n\r\n", OK);
    assert_not_lent("GET / HTTP/1.1\r\nAuthorization: Negotiate YIIB\r\n\r\n", OK);
    assert_not_lent(GET, "HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn what_is_answered_early_or_not_understood_is_not_lent() {
    let post = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab";
    assert_not_lent(post, OK);
    assert_not_lent("\r\nGET / HTTP/1.1\r\n\r\n", OK);
    assert_not_lent("GET / HTTP/1.1\nHost: a\n\n", OK);
    assert_not_lent(GET, &[OK, "HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n"].concat());
}

#[test]
fn a_client_that_goes_in_the_middle_of_a_head_takes_its_connection_along() {
    assert_not_lent_to_the_next("GET / HT");
    assert_not_lent_to_the_next("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab");
}

/// The client has begun this after an exchange, and goes.
fn assert_not_lent_to_the_next(begun: &str) {
    let app = App::new();
    let proxy = proxy(&app.upstream(), &[]);
    let mut first = Wire::connect(proxy.addr());
    // An exchange before, so that the connection had been one to lend.
    first.send(GET);
    let mut upstream = app.accept();
    upstream.expect(GET);
    upstream.send(OK);
    first.expect(OK);
    first.send(begun);
    upstream.expect(begun);
    first.half_close();
    upstream.ends();
    let mut next = Wire::connect(proxy.addr());
    next.send(GET);
    let mut other = app.accept();
    other.expect(GET);
    other.send(OK);
    next.expect(OK);
    assert_eq!(lent(&proxy, "reused"), 0);
}

#[test]
fn what_the_application_says_unasked_is_no_clients_answer() {
    let app = App::new();
    let proxy = proxy(&app.upstream(), &[]);
    let mut first = Wire::connect(proxy.addr());
    first.send(GET);
    let mut upstream = app.accept();
    upstream.expect(GET);
    upstream.send(OK);
    first.expect(OK);
    first.half_close();
    first.ends();
    upstream.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
    let mut next = Wire::connect(proxy.addr());
    next.send(GET);
    let mut other = app.accept();
    other.expect(GET);
    other.send(OK);
    next.expect(OK);
    // That connection is over: reset, because nobody has read what it said.
    upstream.is_cut();
}

/// An application that closes each connection when nothing more has come for a random moment, as
/// carefully as can be: it looks a last time behind a gate that nothing passes. What comes behind the
/// gate, or to the closed connection, was heard by nobody.
#[test]
fn an_application_that_closes_at_the_worst_moment_loses_no_request() {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 250;
    let moment = |most| Duration::from_micros(fastrand::u64(..most));
    let site = Site::new(move |visit| {
        visit.wire.try_send(answer(&visit.path))?;
        let stream = visit.wire.stream();
        if is_readable(stream, moment(5000)) || !shut_off(stream) {
            return Ok(true);
        }
        std::thread::sleep(moment(500));
        Ok(false)
    });
    let proxy = proxy(&site.upstream(), &[]);
    let lost = crowd(proxy.addr(), CLIENTS, REQUESTS);
    let (reused, resent) = (lent(&proxy, "reused"), lent(&proxy, "resent"));
    println!("{} connections, {reused} reused, {resent} requests sent again", site.accepted());
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    for client in 0..CLIENTS {
        for request in 0..REQUESTS {
            assert_eq!(site.served(&format!("/{client}-{request}")), 1, "{client}-{request}");
        }
    }
    assert!(resent > 0, "none met a connection that was just closed: the test tests nothing");
    assert_eq!(lent(&proxy, "lost"), 0);
}

/// One that ends without looking whether something has come, in order or with a reset, and often
/// without an answer: what nothing proves to be unread is not sent again.
#[test]
fn what_may_have_been_heard_is_never_sent_again() {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 200;
    let site = Site::new(|visit| {
        let [goes_on, is_answered, is_reset] = [(); 3].map(|()| fastrand::bool());
        if goes_on || is_answered {
            visit.wire.try_send(answer(&visit.path))?;
        }
        if goes_on {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_micros(fastrand::u64(..3000)));
        if is_reset {
            let socket = socket2::SockRef::from(visit.wire.stream());
            socket.set_linger(Some(Duration::ZERO)).expect("it lingers not");
        }
        Ok(false)
    });
    let proxy = proxy(&site.upstream(), &[]);
    let lost = crowd(proxy.addr(), CLIENTS, REQUESTS);
    let (resent, given_up) = (lent(&proxy, "resent"), lent(&proxy, "lost"));
    println!("{} of 1600 not answered; {resent} sent again, {given_up} not", lost.len());
    for client in 0..CLIENTS {
        for request in 0..REQUESTS {
            let path = format!("/{client}-{request}");
            assert!(site.served(&path) <= 1, "{path} was served {} times", site.served(&path));
        }
    }
    assert!(given_up > 0, "the test tests nothing");
}

/// The application reads the request and ends without a word, as if it had died of it.
#[test]
fn a_request_that_was_read_and_not_answered_is_not_sent_again() {
    for is_reset in [false, true] {
        let app = App::new();
        let proxy = proxy(&app.upstream(), &[]);
        let mut first = Wire::connect(proxy.addr());
        first.send(GET);
        let mut upstream = app.accept();
        upstream.expect(GET);
        upstream.send(OK);
        first.expect(OK);
        first.half_close();
        first.ends();
        let mut next = Wire::connect(proxy.addr());
        next.send(GET);
        upstream.expect(GET);
        if is_reset {
            let socket = socket2::SockRef::from(upstream.stream());
            socket.set_linger(Some(Duration::ZERO)).expect("it lingers not");
        }
        drop(upstream);
        assert_eq!(next.is_cut(), b"", "no answer");
        until_lent(&proxy, "lost", 1);
        assert_eq!(lent(&proxy, "resent"), 0);
    }
}

/// What does not come whole could not be sent again: it gets a connection of its own.
#[test]
fn a_request_that_does_not_come_whole_is_not_risked() {
    let site = Site::new(|visit| {
        if visit.path == "/long" {
            visit.wire.take(10)?;
        }
        visit.wire.try_send(answer(&visit.connection.to_string()))?;
        Ok(true)
    });
    let proxy = proxy(&site.upstream(), &[]);
    assert_eq!(once(proxy.addr(), "/").expect("an answer"), "0");
    let begun = "POST /long HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc";
    let mut client = Wire::connect(proxy.addr());
    client.send(begun);
    proxy.until_listed(client.addr(), |listed| listed["class"] == "http");
    client.send("defghij");
    assert_eq!(client.answer().expect("an answer").body, b"1");
    let mut split = Wire::connect(proxy.addr());
    split.send("GET / HT");
    proxy.until_listed(split.addr(), |listed| listed["class"] == "http");
    split.send("TP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(split.answer().expect("an answer").body, b"2");
    assert_eq!(lent(&proxy, "reused"), 0);
}

#[test]
fn each_request_names_its_own_client() {
    let site = Site::new(|visit| {
        let named = |line: &&str| line.starts_with("X-Forwarded-For: ");
        let line = visit.head.lines().find(named).unwrap_or_default().to_owned();
        visit.wire.try_send(answer(&line))?;
        Ok(true)
    });
    let proxy = proxy(&site.upstream(), &["--forward-client", "x-forwarded-for"]);
    for last in 2..12 {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        let source = SocketAddr::from(([127, 0, 0, last], 0));
        socket.bind(&source.into()).expect("an address of the loopback");
        socket.connect(&proxy.addr().into()).expect("a connection");
        let mut client = Wire::new(socket.into());
        client.send(GET);
        let body = client.answer().expect("an answer").body;
        assert_eq!(String::from_utf8_lossy(&body), format!("X-Forwarded-For: 127.0.0.{last}"));
        client.half_close();
        client.ends();
    }
    assert!(lent(&proxy, "reused") > 0);
}

#[test]
fn two_upstreams_do_not_mix() {
    let sites = ["one", "other"].map(|name| {
        Site::new(move |visit| {
            visit.wire.try_send(answer(name))?;
            Ok(true)
        })
    });
    let directory = crate::support::Directory::new();
    let listener =
        |site: &Site| format!("- listen: 127.0.0.1:0\n  upstream: {}\n", site.upstream());
    let text = format!(
        "protocol: http1\nupstream-reuse: true\nupstream-rest: 0s\nlisteners:\n{}{}",
        listener(&sites[0]),
        listener(&sites[1])
    );
    let file = directory.write("two.yaml", text);
    let proxy = Ebbtide::start(&[
        "proxy",
        "--config",
        &file,
        "--admin",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
    ]);
    let addrs = proxy.addrs(2);
    let names = addrs.iter().map(|addr| once(*addr, "/").expect("an answer")).collect::<Vec<_>>();
    for _ in 0..20 {
        for (addr, name) in addrs.iter().zip(&names) {
            assert_eq!(once(*addr, "/").expect("an answer"), *name);
        }
    }
    assert_ne!(names[0], names[1]);
    assert!(lent(&proxy, "reused") > 0);
}

#[test]
fn a_drain_closes_what_is_parked_and_is_not_held_up_by_it() {
    let site = Site::telling();
    let args = ["--drain-delay", "0", "--settled-for", "0", "--settle-period", "100ms"];
    let proxy = proxy(&site.upstream(), &args);
    once(proxy.addr(), "/a").expect("an answer");
    assert_eq!(lent(&proxy, "parked"), 1);
    proxy.signal(Signal::TERM);
    site.until_ended(1);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0), "{:#?}", finished.log);
}

#[test]
fn in_a_drain_clients_without_an_upstream_connection_are_served_and_told() {
    let site = Site::telling();
    let args = ["--drain-delay", "10m", "--quiet-period", "0", "--drain-timeout", "20m"];
    let proxy = proxy(&site.upstream(), &[&args[..], &["--idle-policy", "on-response"]].concat());
    let mut idle = Wire::connect(proxy.addr());
    idle.send(get("/a"));
    idle.answer().expect("an answer");
    until_lent(&proxy, "parked", 1);
    let mut silent = Wire::connect(proxy.addr());
    proxy.until_listed(silent.addr(), |_| true);
    assert!(proxy.post("/drain").status < 300);
    proxy.until_phase("LameDuck");
    site.until_ended(1);
    for client in [&mut idle, &mut silent] {
        client.send(get("/b"));
        let told = client.answer().expect("an answer");
        assert_eq!(told.body, b"/b");
        assert!(told.says_close(), "{}", told.head);
        client.ends();
    }
    assert_eq!(lent(&proxy, "reused"), 0);
    assert_eq!(lent(&proxy, "parked"), 1, "nothing is parked in a drain");
}

#[test]
fn in_a_drain_an_idle_client_is_closed() {
    let site = Site::telling();
    let args = ["--drain-delay", "10m", "--quiet-period", "0", "--drain-timeout", "20m"];
    let proxy = proxy(&site.upstream(), &[&args[..], &["--idle-close", "10ms"]].concat());
    let mut idle = Wire::connect(proxy.addr());
    idle.send(get("/a"));
    idle.answer().expect("an answer");
    until_lent(&proxy, "parked", 1);
    let mut silent = Wire::connect(proxy.addr());
    proxy.until_listed(silent.addr(), |_| true);
    assert!(proxy.post("/drain").status < 300);
    idle.ends();
    // Who has asked nothing yet may still do so until the lame duck is over.
    silent.send(get("/b"));
    assert!(silent.answer().expect("an answer").says_close());
    silent.ends();
    drop((idle, silent));
    proxy.until("none left", |status| status["activeConnections"] == 0);
}

#[test]
fn after_an_undrain_connections_are_lent_again() {
    let site = Site::telling();
    let args = ["--drain-delay", "10m", "--quiet-period", "0", "--drain-timeout", "20m"];
    let proxy = proxy(&site.upstream(), &[&args[..], &["--idle-policy", "on-response"]].concat());
    let mut client = Wire::connect(proxy.addr());
    proxy.until_listed(client.addr(), |_| true);
    assert!(proxy.post("/drain").status < 300);
    proxy.until_phase("LameDuck");
    assert!(proxy.post("/undrain").status < 300);
    proxy.until_phase("Serving");
    client.send(get("/a"));
    let first = client.answer().expect("an answer");
    assert!(!first.says_close());
    until_lent(&proxy, "parked", 1);
    client.send(get("/b"));
    assert_eq!(client.answer().expect("an answer").body, b"/b");
    assert_eq!(lent(&proxy, "reused") + site.accepted() as u64, 2);
}

#[test]
fn a_silent_client_ends_by_the_idle_timeout() {
    let site = Site::telling();
    let proxy = proxy(&site.upstream(), &["--idle-timeout", "400ms"]);
    let mut spoken = Wire::connect(proxy.addr());
    spoken.send(get("/a"));
    spoken.answer().expect("an answer");
    let mut silent = Wire::connect(proxy.addr());
    silent.is_cut();
    spoken.is_cut();
    let ended = |line: &serde_json::Value| line["end"] == "idle_timeout";
    proxy.line("that ends one", ended);
    proxy.until("none left", |status| status["activeConnections"] == 0);
}

/// Servers that end connections by themselves, under clients that come and go.
#[test]
fn real_servers_lose_nothing() {
    let node = "const s = require('http').createServer((q, r) => { r.end(q.url) });
        s.keepAliveTimeout = 1500; s.maxRequestsPerSocket = 20;
        s.listen(0, '127.0.0.1', function () { console.log(this.address().port) })";
    let python = "
from http.server import ThreadingHTTPServer, BaseHTTPRequestHandler
class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', str(len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())
    def log_message(self, *args): pass
class Server(ThreadingHTTPServer):
    request_queue_size = 128
server = Server(('127.0.0.1', 0), Handler)
print(server.server_port)
server.serve_forever()
";
    let port = free_port();
    let nginx = format!(
        "listen 127.0.0.1:{port}; keepalive_timeout 1s; location / {{ return 200 $request_uri; }}"
    );
    let mut nginx = Peer::nginx(&nginx);
    nginx.upstream = format!("127.0.0.1:{port}");
    for peer in [nginx, Peer::node(node), Peer::python(python)] {
        let proxy = proxy(&peer.upstream, &["--threads", "2"]);
        let addr = proxy.addr();
        let kept = AtomicU32::new(0);
        let lost = std::thread::scope(|scope| {
            // Clients that keep their connections, with pauses in which these are lent to others.
            for client in 0..4 {
                let kept = &kept;
                scope.spawn(move || {
                    let mut wire = Wire::connect(addr);
                    for request in 0..40 {
                        let path = format!("/kept-{client}-{request}");
                        wire.send(get(&path));
                        let answer = wire.answer().expect("an answer");
                        assert_eq!(String::from_utf8_lossy(&answer.body), path);
                        kept.fetch_add(1, Ordering::Relaxed);
                        if answer.says_close() {
                            wire.ends();
                            wire = Wire::connect(addr);
                        }
                        if request % 10 == 9 {
                            std::thread::sleep(Duration::from_millis(250));
                        }
                    }
                });
            }
            crowd(addr, 6, 150)
        });
        let (reused, resent) = (lent(&proxy, "reused"), lent(&proxy, "resent"));
        println!("{}: {reused} reused, {resent} sent again, {}", peer.upstream, lost.len());
        assert!(lost.is_empty(), "{lost:?}");
        assert_eq!(kept.load(Ordering::Relaxed), 160);
        assert!(reused > 100, "{reused} reused");
        assert_eq!(lent(&proxy, "lost"), 0);
    }
}

#[test]
fn it_says_what_it_wants_when_it_can_not_be_had() {
    let refused = |args: &[&str]| {
        let common = ["proxy", "--listen", "127.0.0.1:0", "--upstream-reuse"];
        let (code, _, error) = process::run(&[&common[..], args].concat());
        assert_eq!(code, Some(64), "{error}");
        error
    };
    for protocol in [&["--protocol", "tcp"][..], &["--protocol", "http2"], &[]] {
        let error = refused(&[&["--upstream", "127.0.0.1:1"], protocol].concat());
        assert!(error.contains("give --protocol http1 for listener"), "{error}");
    }
    let error = refused(&["--upstream", "unix:/a", "--protocol", "http1"]);
    assert!(error.contains("wants TCP to the application"), "{error}");
}
