//! HTTP/1 in a drain: real servers, clients that go on until they are told, and hand-made peers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::http1::{App, Wire};
use crate::support::peers::Peer;
use crate::support::{Ebbtide, PATIENCE};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const LAST_OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// A drain whose lame duck lasts until the test ends it.
const LAME_DUCK: [&str; 8] = [
    "--protocol",
    "http1",
    "--drain-delay",
    "10m",
    "--quiet-period",
    "0",
    "--drain-timeout",
    "20m",
];

/// A drain that turns new connections away at once and is over as soon as nothing blocks.
const QUICK: [&str; 8] =
    ["--protocol", "http1", "--drain-delay", "0", "--settled-for", "0", "--settle-period", "100ms"];

const NODE: &str = "require('http').createServer((request, response) => {
    response.setHeader('Content-Type', 'text/plain'); response.end('hello\\n');
}).listen(0, '127.0.0.1', function () { console.log(this.address().port) })";

const PYTHON: &str = "
from http.server import ThreadingHTTPServer, BaseHTTPRequestHandler
class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '6')
        self.end_headers()
        self.wfile.write(b'hello\\n')
    def log_message(self, *args): pass
class Server(ThreadingHTTPServer):
    request_queue_size = 128
server = Server(('127.0.0.1', 0), Handler)
print(server.server_port)
server.serve_forever()
";

const NGINX: &str = "location / { return 200 'hello\\n'; }";

/// The arguments that every test has, and some of its own.
fn with<'a>(common: &[&'a str], own: &[&'a str]) -> Vec<&'a str> {
    [common, own].concat()
}

/// Begins a drain. When this returns, every open connection has been told its order: the one task
/// that answers and gives orders has answered once more since.
fn drain(proxy: &Ebbtide) {
    let status = proxy.post("/drain").status;
    assert!((200..300).contains(&status), "{status}");
    proxy.until("in a drain", |status| status["phase"] != "Serving");
}

fn metric(proxy: &Ebbtide, name: &str) -> f64 {
    let metrics = proxy.get("/metrics").body;
    let line = metrics.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value);
    value.unwrap_or("0").parse().unwrap_or_else(|_| panic!("{name} in {metrics}"))
}

/// A connection with a whole exchange behind it.
fn idle(proxy: &Ebbtide, app: &App) -> (Wire, Wire) {
    let mut client = Wire::connect(proxy.addr());
    client.send(GET);
    let mut upstream = app.accept();
    upstream.head().expect("a request");
    upstream.send(OK);
    client.expect(OK);
    proxy.until_listed(client.addr(), |listed| listed["class"] == "idle");
    (client, upstream)
}

/// A connection whose request the application has and has not answered.
fn asked(proxy: &Ebbtide, app: &App) -> (Wire, Wire) {
    let mut client = Wire::connect(proxy.addr());
    client.send(GET);
    let mut upstream = app.accept();
    assert_eq!(upstream.head().expect("a request"), GET);
    (client, upstream)
}

/// What a client that goes on until it is told has seen.
struct Told {
    answers: u32,
    before_the_trigger: bool,
}

/// A keep-alive client that sends a request each 50 ms until it is told to stop. Any answer that
/// does not come whole is a panic.
fn go_on(addr: SocketAddr, triggered: Arc<AtomicBool>, warm: Arc<AtomicU32>) -> JoinHandle<Told> {
    std::thread::spawn(move || {
        let mut wire = Wire::connect(addr);
        let mut answers = 0;
        loop {
            wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let answer = wire.answer().unwrap_or_else(|error| {
                panic!("request {answers} of {} is lost: {error}", wire.addr())
            });
            answers += 1;
            assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.head);
            assert!(String::from_utf8_lossy(&answer.body).contains("hello\n"), "{answer:?}");
            if answer.says_close() {
                let before_the_trigger = !triggered.load(Ordering::SeqCst);
                wire.ends();
                return Told { answers, before_the_trigger };
            }
            if answers == 3 {
                warm.fetch_add(1, Ordering::SeqCst);
            }
            // The client's pace, not a wait for anything.
            std::thread::sleep(Duration::from_millis(50));
        }
    })
}

fn keep_alive_clients_are_told(peer: &Peer, protocol: &str) {
    const CLIENTS: u32 = 40;
    let args = ["--protocol", protocol, "--drain-delay", "1s", "--quiet-period", "0"];
    let rest = ["--settled-for", "0", "--settle-period", "100ms"];
    let proxy = Ebbtide::proxy(&peer.upstream, &with(&args, &rest));
    let (triggered, warm) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let client = || go_on(proxy.addr(), Arc::clone(&triggered), Arc::clone(&warm));
    let clients: Vec<_> = (0..CLIENTS).map(|_| client()).collect();
    let deadline = Instant::now() + PATIENCE;
    while warm.load(Ordering::SeqCst) < CLIENTS {
        assert!(Instant::now() < deadline && !clients.iter().any(JoinHandle::is_finished));
        std::thread::yield_now();
    }
    triggered.store(true, Ordering::SeqCst);
    proxy.signal(Signal::TERM);
    for client in clients {
        let told = client.join().expect("none is lost");
        assert!(!told.before_the_trigger, "told before the drain");
        assert!(told.answers >= 3);
    }
    assert_eq!(proxy.finish().code(), Some(0));
}

#[test]
fn keep_alive_clients_of_nginx_are_told_once_and_lose_nothing() {
    let peer = Peer::nginx(NGINX);
    keep_alive_clients_are_told(&peer, "http1");
    keep_alive_clients_are_told(&peer, "auto");
}

#[test]
fn keep_alive_clients_of_python_are_told_once_and_lose_nothing() {
    let peer = Peer::python(PYTHON);
    keep_alive_clients_are_told(&peer, "http1");
    keep_alive_clients_are_told(&peer, "auto");
}

#[test]
fn keep_alive_clients_of_node_are_told_once_and_lose_nothing() {
    let peer = Peer::node(NODE);
    keep_alive_clients_are_told(&peer, "http1");
    keep_alive_clients_are_told(&peer, "auto");
}

#[test]
fn idle_connections_do_not_block_and_are_closed_around_idle_close() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    let idles: Vec<_> = (0..8).map(|_| idle(&proxy, &app)).collect();
    proxy.until("free of what blocks", |status| {
        status["drainBlockingConnections"] == 0 && status["byClass"]["idle"] == 8
    });
    let before = Instant::now();
    drain(&proxy);
    let after = Instant::now();
    for reader in idles.into_iter().map(|(mut client, mut upstream)| {
        std::thread::spawn(move || {
            client.ends();
            let at = Instant::now();
            upstream.ends();
            at
        })
    }) {
        let at = reader.join().expect("an end in order");
        assert!(at - before >= Duration::from_secs(1), "closed after {:?}", at - before);
        // A second more for a busy machine.
        assert!(at - after <= Duration::from_secs(4), "closed after {:?}", at - after);
    }
    proxy.until("empty", |status| status["activeConnections"] == 0);
    assert_eq!(proxy.status()["forcedCloses"], 0);
}

#[test]
fn idle_policy_immediate_closes_at_once() {
    let app = App::new();
    let args = with(&LAME_DUCK, &["--idle-policy", "immediate", "--idle-close", "5m"]);
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let (mut client, mut upstream) = idle(&proxy, &app);
    let (mut busy, mut answering) = asked(&proxy, &app);
    drain(&proxy);
    client.ends();
    upstream.ends();
    answering.send(OK);
    busy.expect(LAST_OK);
    busy.ends();
}

#[test]
fn idle_policy_on_response_waits_for_the_next_one() {
    let app = App::new();
    let args = with(&QUICK, &["--idle-policy", "on-response", "--idle-close", "1ms"]);
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let (mut client, mut upstream) = idle(&proxy, &app);
    drain(&proxy);
    proxy.until_phase("Drained");
    client.send(GET);
    assert_eq!(upstream.head().expect("a request"), GET);
    upstream.send(OK);
    client.expect(LAST_OK);
    client.ends();
}

#[test]
fn pipelined_requests_are_answered_and_the_close_is_on_the_last_answer() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    let mut client = Wire::connect(proxy.addr());
    client.send(GET.repeat(3));
    let mut upstream = app.accept();
    for _ in 0..3 {
        assert_eq!(upstream.head().expect("a request"), GET);
    }
    drain(&proxy);
    upstream.send(OK);
    client.expect(OK);
    upstream.send(OK.repeat(2));
    client.expect(OK);
    client.expect(LAST_OK);
    client.ends();
    upstream.ends();
}

#[test]
fn a_request_behind_the_last_answer_is_not_forwarded() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    let (mut client, mut upstream) = asked(&proxy, &app);
    drain(&proxy);
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    client.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\no");
    client.send(GET);
    let deadline = Instant::now() + PATIENCE;
    while metric(&proxy, "ebbtide_drain_refused_requests_total") < 1.0 {
        assert!(Instant::now() < deadline, "{}", proxy.get("/metrics").body);
        std::thread::yield_now();
    }
    upstream.send("k");
    client.expect("k");
    client.ends();
    upstream.ends();
}

#[test]
fn what_a_client_sends_behind_its_last_answer_does_not_cost_it_the_answer() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    let (mut client, mut upstream) = asked(&proxy, &app);
    drain(&proxy);
    upstream.send(OK);
    client.wait_for_bytes();
    upstream.ends();
    // A socket that is closed by now would answer these with a reset.
    client.send(GET.repeat(10));
    client.expect(LAST_OK);
    client.ends();
    drop(client);
    proxy.until("empty", |status| status["activeConnections"] == 0);
}

#[test]
fn a_response_that_takes_long_completes_and_the_process_leaves_with_it() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &QUICK);
    let (mut client, mut upstream) = asked(&proxy, &app);
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    let status = proxy.until_phase("Draining");
    assert_eq!(status["activeRequests"], 1);
    upstream.send(OK);
    client.expect(LAST_OK);
    client.ends();
    drop((client, upstream));
    let ended = Instant::now();
    let finished = proxy.finish();
    // Stated by the issue: half a second after the last connection's end.
    assert!(ended.elapsed() < Duration::from_millis(500), "{:?}", ended.elapsed());
    assert_eq!(finished.code(), Some(0));
}

#[test]
fn the_process_stays_until_a_slow_reader_has_its_last_answer() {
    const BYTES: usize = 1_000_000;
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &QUICK);
    let (mut client, mut upstream) = asked(&proxy, &app);
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"));
    upstream.send(vec![b'x'; BYTES]);
    // The proxy has all of it, and the client not one byte more than its kernel takes.
    upstream.ends();
    let status = proxy.status();
    assert_eq!(status["phase"], "Draining");
    assert_eq!(status["drainBlockingConnections"], 1);
    let answer = client.answer().expect("the whole answer");
    assert!(answer.says_close() && answer.body.len() == BYTES);
    client.ends();
    drop(client);
    assert_eq!(proxy.finish().code(), Some(0));
}

#[test]
fn a_response_whose_head_had_been_sent_completes_and_its_connection_is_idle_then() {
    let app = App::new();
    let args = with(&LAME_DUCK, &["--idle-close", "10ms"]);
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let (mut client, mut upstream) = asked(&proxy, &app);
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    client.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    drain(&proxy);
    assert_eq!(proxy.status()["drainBlockingConnections"], 1);
    upstream.send("k");
    client.expect("k");
    client.ends();
    upstream.ends();
}

#[test]
fn a_lame_duck_tells_new_connections_first_and_an_undrain_tells_nobody() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &with(&LAME_DUCK, &["--idle-close", "10m"]));
    let (mut old, mut old_upstream) = idle(&proxy, &app);
    drain(&proxy);
    let (mut client, mut upstream) = asked(&proxy, &app);
    upstream.send(OK);
    client.expect(LAST_OK);
    client.ends();
    let (mut late, mut late_upstream) = asked(&proxy, &app);
    assert_eq!(proxy.post("/undrain").status, 200);
    proxy.until_phase("Serving");
    late_upstream.send(OK);
    late.expect(OK);
    for (client, upstream) in [(&mut old, &mut old_upstream), (&mut late, &mut late_upstream)] {
        for _ in 0..2 {
            client.send(GET);
            assert_eq!(upstream.head().expect("a request"), GET);
            upstream.send(OK);
            client.expect(OK);
        }
    }
}

#[test]
fn what_the_application_says_about_the_connection_is_replaced_and_the_rest_stays() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    drain(&proxy);
    let cases = [
        (
            "HTTP/1.1 200 OK\r\nsErVeR: x\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length:0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nsErVeR: x\r\nConnection: close\r\nContent-Length:0\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: Keep-Alive, X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: close, X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        ),
    ];
    for (answered, expected) in cases {
        let (mut client, mut upstream) = asked(&proxy, &app);
        upstream.send(answered);
        client.expect(expected);
        client.ends();
    }
}

#[test]
fn every_kind_of_response_is_told_at_its_end() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &LAME_DUCK);
    drain(&proxy);
    // Request, what comes before the final head, that head without its blank line, body.
    let cases = [
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "", "200 OK\r\nContent-Length: 5\r\n", ""),
        (GET, "", "204 No Content\r\n", ""),
        (GET, "", "304 Not Modified\r\nContent-Length: 7\r\n", ""),
        (
            GET,
            "",
            "200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n",
            "3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
            "200 OK\r\nContent-Length: 1\r\n",
            "a",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "201 Created\r\nContent-Length: 1\r\n",
            "a",
        ),
    ];
    for (request, before, head, body) in cases {
        let mut client = Wire::connect(proxy.addr());
        client.send(request);
        let mut upstream = app.accept();
        upstream.expect(request);
        upstream.send(before);
        client.expect(before);
        if before.contains("100 Continue") {
            client.send("abc");
            upstream.expect("abc");
        }
        upstream.send(format!("HTTP/1.1 {head}\r\n{body}"));
        client.expect(format!("HTTP/1.1 {head}Connection: close\r\n\r\n{body}"));
        client.ends();
        upstream.ends();
    }
    // One that ends with its connection says so already.
    let (mut client, mut upstream) = asked(&proxy, &app);
    upstream.send("HTTP/1.1 200 OK\r\n\r\nabc");
    client.expect("HTTP/1.1 200 OK\r\n\r\nabc");
    upstream.send("def");
    client.expect("def");
    drop(upstream);
    client.ends();
    drop(client);
    proxy.until("empty", |status| status["activeConnections"] == 0);
}

#[test]
fn http503_answers_the_first_request_of_a_new_connection() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &with(&QUICK, &["--reject", "http503"]));
    let (mut busy, mut answering) = asked(&proxy, &app);
    drain(&proxy);
    proxy.until("rejecting", |status| status["listeners"][0]["state"] == "Rejecting");
    let mut client = Wire::connect(proxy.addr());
    client.send(GET);
    let answer = client.answer().expect("an answer");
    assert!(answer.head.starts_with("HTTP/1.1 503 "), "{}", answer.head);
    assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
    client.ends();
    answering.send(OK);
    busy.expect(LAST_OK);
    busy.ends();
    proxy.until_phase("Drained");
    assert_eq!(proxy.status()["rejected"], 1);
}

#[test]
fn health_checks_told_by_their_agent_do_not_block() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &QUICK);
    let mut client = Wire::connect(proxy.addr());
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.33\r\n\r\n");
    let mut upstream = app.accept();
    upstream.head().expect("a request");
    let listed = proxy.until_listed(client.addr(), |listed| listed["class"] == "healthCheck");
    assert_eq!(listed["blocking"], false);
    proxy.signal(Signal::TERM);
    // The application still owes the answer.
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
    assert_eq!(finished.lines("drained")[0]["forced"], 0);
}

#[test]
fn the_last_answer_tells_the_deadline_when_asked_to() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &with(&LAME_DUCK, &["--drain-deadline-header"]));
    let (mut client, mut upstream) = idle(&proxy, &app);
    drain(&proxy);
    client.send(GET);
    upstream.head().expect("a request");
    upstream.send(OK);
    let answer = client.answer().expect("an answer");
    assert!(answer.says_close());
    let told = answer.field("drain-deadline").expect("the deadline");
    let told = httpdate::parse_http_date(&told).expect("a date");
    let status = proxy.status();
    let deadline = status["drainDeadline"].as_str().expect("a deadline");
    let deadline = humantime::parse_rfc3339(deadline).expect("a time");
    let apart = deadline.duration_since(told).unwrap_or_else(|error| error.duration());
    // HTTP's dates have whole seconds.
    assert!(apart <= Duration::from_secs(1), "{apart:?}");
}

#[test]
fn what_is_not_understood_passes_untouched_and_is_shown() {
    let app = App::new();
    let args = with(&["--protocol", "auto"], &LAME_DUCK[2..]);
    let proxy = Ebbtide::proxy(&app.upstream(), &args);
    let cases: [(&[u8], &str); 4] = [
        (b"\0\x01garbage\xff\r\n\r\n", "unknownProtocol"),
        (b"GET / HTTP/1.1\nHost: a\n\n", "bareLineFeed"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\n", "invalidLength"),
        (b"\x16\x03\x01\x02\x00\x01", "tls"),
    ];
    drain(&proxy);
    for (request, surprise) in cases {
        let mut client = Wire::connect(proxy.addr());
        client.send(request);
        let mut upstream = app.accept();
        upstream.expect(request);
        upstream.send(OK);
        client.expect(OK);
        let listed = proxy.until_listed(client.addr(), |listed| listed["class"] == "opaque");
        assert_eq!(listed["surprise"], surprise);
        assert_eq!(listed["blocking"], true);
        let name = format!("ebbtide_opaque_total{{surprise=\"{surprise}\"}}");
        assert!(metric(&proxy, &name) >= 1.0, "{}", proxy.get("/metrics").body);
        client.half_close();
        upstream.ends();
        drop(upstream);
        client.ends();
    }
}

#[test]
fn a_budget_ends_requests_that_would_use_the_whole_time() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &with(&QUICK, &["--budget", "http=1s"]));
    let (mut client, upstream) = asked(&proxy, &app);
    proxy.signal(Signal::TERM);
    proxy.says("budget used up");
    assert_eq!(String::from_utf8_lossy(&client.is_cut()), "");
    drop(upstream);
    drop(client);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(75));
    assert_eq!(finished.lines("drained")[0]["forced"], 1);
    assert_eq!(finished.lines("connection force-closed by the drain")[0]["class"], "http");
}
