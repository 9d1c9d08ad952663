//! WebSockets in a drain: Python's `websockets` at both ends, and hand-made peers for what it never does.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::Ebbtide;
use crate::support::http1::{App, Wire};
use crate::support::peers::Peer;

/// An echo that tells each connection's extensions at its beginning, and its end.
const SERVER: &str = "
import asyncio, json, websockets
async def echo(ws):
    extensions = [str(e.name) for e in ws.protocol.extensions]
    print(json.dumps({'opened': extensions}), flush=True)
    try:
        async for message in ws:
            await ws.send(message)
    except websockets.ConnectionClosedError:
        pass
    print(json.dumps({'code': ws.close_code, 'reason': ws.close_reason}), flush=True)
async def main():
    async with websockets.serve(echo, '127.0.0.1', 0, max_size=None, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
";

/// Opens as many as it is told, and then does what the lines say: `echo N` sends N bytes on each
/// and compares what comes back, `wait` awaits the other side's Close, `close` closes.
const CLIENT: &str = "
import asyncio, json, sys, websockets
async def main():
    url, count = sys.argv[1], int(sys.argv[2])
    async def connect():
        return await websockets.connect(url, max_size=None, ping_interval=None, open_timeout=60,
                                        proxy=None)
    streams = await asyncio.gather(*[connect() for _ in range(count)])
    print(json.dumps({'opened': [e.name for e in streams[0].protocol.extensions]}), flush=True)
    async def echo(ws, size, index):
        message = (f'{index} ebbs and flows. ' * size)[:size]
        await ws.send(message)
        return await ws.recv() == message
    async def closed(ws):
        await ws.wait_closed()
        return [ws.close_code, ws.close_reason]
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        word, *rest = line.split()
        if word == 'echo':
            size = int(rest[0])
            same = await asyncio.gather(*[echo(ws, size, i) for i, ws in enumerate(streams)])
            print(json.dumps({'same': all(same)}), flush=True)
        elif word == 'wait':
            ends = await asyncio.gather(*[closed(ws) for ws in streams])
            print(json.dumps({'ends': ends}), flush=True)
        elif word == 'close':
            await asyncio.gather(*[ws.close() for ws in streams])
            print(json.dumps({'ends': [[ws.close_code, ws.close_reason] for ws in streams]}),
                  flush=True)
asyncio.run(main())
";

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// Close 1001 "server draining", as a server sends it.
const GOING_AWAY: &[u8] = b"\x88\x11\x03\xe9server draining";

/// Refuses new connections at once, and is over as soon as nothing blocks.
const QUICK: [&str; 8] =
    ["--protocol", "auto", "--drain-delay", "0", "--settled-for", "0", "--settle-period", "100ms"];

fn with<'a>(common: &[&'a str], own: &[&'a str]) -> Vec<&'a str> {
    [common, own].concat()
}

fn python_clients(proxy: &Ebbtide, count: usize) -> Peer {
    let url = format!("ws://{}/", proxy.addr());
    Peer::python_client(CLIENT, &[&url, &count.to_string()])
}

fn all_ends(peer: &Peer, count: usize, code: u16, reason: &str) {
    let ends = peer.json()["ends"].clone();
    let expected: Vec<_> = (0..count).map(|_| serde_json::json!([code, reason])).collect();
    assert_eq!(ends, Value::Array(expected));
}

/// What the server says of each connection's end, whatever it says of beginnings in between.
fn server_saw(server: &Peer, count: usize, code: u16, reason: &str) {
    let mut ended = 0;
    while ended < count {
        let said = server.json();
        if said["opened"].is_null() {
            assert_eq!(said, serde_json::json!({ "code": code, "reason": reason }));
            ended += 1;
        }
    }
}

/// A WebSocket of which the test is both ends.
fn open(proxy: &Ebbtide, app: &App) -> (Wire, Wire) {
    let mut client = Wire::connect(proxy.addr());
    client.send(UPGRADE);
    let mut upstream = app.accept();
    upstream.expect(UPGRADE);
    upstream.send(SWITCHING);
    client.expect(SWITCHING);
    (client, upstream)
}

/// Reads the masked Close that the application gets.
fn expect_masked_close(upstream: &mut Wire, code: u16, reason: &str) {
    let frame = upstream.take(6).expect("a Close");
    let length = 2 + u8::try_from(reason.len()).expect("short");
    assert_eq!(frame[..2], [0x88, 0x80 | length]);
    let payload = upstream.take(length.into()).expect("its payload");
    let key = frame[2..].iter().cycle();
    let payload: Vec<u8> = payload.iter().zip(key).map(|(byte, key)| byte ^ key).collect();
    assert_eq!(payload[..2], code.to_be_bytes());
    assert_eq!(String::from_utf8_lossy(&payload[2..]), reason);
}

fn masked_close(code: u16) -> Vec<u8> {
    // A key of zeros masks nothing.
    [&[0x88, 0x82, 0, 0, 0, 0][..], &code.to_be_bytes()].concat()
}

#[test]
fn streams_survive_a_drain_until_they_end_by_themselves() {
    let server = Peer::python(SERVER);
    let proxy = Ebbtide::proxy(&server.upstream, &QUICK);
    let mut clients = python_clients(&proxy, 20);
    assert_eq!(clients.json()["opened"], serde_json::json!(["permessage-deflate"]));
    assert_eq!(server.json()["opened"], serde_json::json!(["permessage-deflate"]));
    clients.say("echo 1000");
    assert_eq!(clients.json()["same"], true);
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    let status = proxy.until_phase("Draining");
    assert_eq!(status["byClass"]["websocket"], 20);
    assert_eq!(status["drainBlockingConnections"], 20);
    for size in [1, 125, 126, 65_535, 65_536, 300_000] {
        clients.say(&format!("echo {size}"));
        assert_eq!(clients.json()["same"], true, "{size} bytes");
    }
    clients.say("close");
    all_ends(&clients, 20, 1000, "");
    server_saw(&server, 20, 1000, "");
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
    assert!(finished.lines("connection force-closed by the drain").is_empty());
}

#[test]
fn in_closing_both_sides_are_told_that_the_server_drains() {
    let server = Peer::python(SERVER);
    let args = with(&QUICK, &["--drain-timeout", "3s", "--close-spread", "2s"]);
    let proxy = Ebbtide::proxy(&server.upstream, &args);
    let mut clients = python_clients(&proxy, 10);
    clients.json();
    clients.say("echo 10");
    assert_eq!(clients.json()["same"], true);
    clients.say("wait");
    proxy.signal(Signal::TERM);
    all_ends(&clients, 10, 1001, "server draining");
    server_saw(&server, 10, 1001, "server draining");
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(75));
    assert_eq!(finished.lines("drained")[0]["forced"], 10);
    for line in finished.lines("connection force-closed by the drain") {
        assert_eq!(line["class"], "websocket");
        assert_eq!(line["forced"], "asked");
    }
}

#[test]
fn idle_ones_leave_when_their_budget_ends_with_the_code_that_was_chosen() {
    let server = Peer::python(SERVER);
    let code = ["--websocket-code", "1012", "--websocket-reason", "back soon"];
    let args = with(&with(&QUICK, &["--budget", "websocket=1s"]), &code);
    let proxy = Ebbtide::proxy(&server.upstream, &args);
    let mut clients = python_clients(&proxy, 3);
    clients.json();
    clients.say("wait");
    proxy.signal(Signal::TERM);
    all_ends(&clients, 3, 1012, "back soon");
    server_saw(&server, 3, 1012, "back soon");
    let finished = proxy.finish();
    assert_eq!(finished.lines("budget used up")[0]["connections"], 3);
    assert_eq!(finished.code(), Some(75));
}

#[test]
fn a_message_of_100_mb_is_not_cut_by_the_close_and_silence_ends_after_five_seconds() {
    const BYTES: usize = 100_000_000;
    /// Few, for a second is left for them: a busy machine carries the others meanwhile.
    const LAST_BYTES: usize = 1_000;
    const BUDGET: Duration = Duration::from_secs(1);
    /// For the answer to a Close.
    const ANSWER_PERIOD: Duration = Duration::from_secs(5);
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &with(&QUICK, &["--budget", "websocket=1s"]));
    let (mut client, mut upstream) = open(&proxy, &app);
    let (mut silent, mut silent_upstream) = open(&proxy, &app);
    upstream.send([&[0x82, 127][..], &(BYTES as u64).to_be_bytes()].concat());
    let reader = std::thread::spawn(move || {
        let frame = client.take(10 + BYTES).expect("the whole message");
        client.expect(GOING_AWAY);
        client.send(masked_close(1001));
        client.ends();
        // Last: on a busy machine it takes longer than a Close's answer may.
        assert!(frame[10..].iter().all(|&byte| byte == 7));
    });
    upstream.send(vec![7; BYTES - LAST_BYTES]);
    let before = Instant::now();
    proxy.signal(Signal::TERM);
    // The application is told at once: its client is between two frames.
    expect_masked_close(&mut upstream, 1001, "server draining");
    silent.expect(GOING_AWAY);
    expect_masked_close(&mut silent_upstream, 1001, "server draining");
    // Neither answers its Close, and is waited for after the budget; whose own end comes later still,
    // and would close it, see below.
    silent.ends();
    let waited = before.elapsed();
    assert!(waited >= BUDGET + ANSWER_PERIOD, "{waited:?}");
    silent_upstream.ends();
    upstream.send(vec![7; LAST_BYTES]);
    upstream.send(b"\x88\x02\x03\xe9");
    reader.join().expect("the message, the Close, the end");
    drop((upstream, silent, silent_upstream));
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(75));
    assert_eq!(finished.lines("drained")[0]["forced"], 2);
    for line in finished.lines("connection force-closed by the drain") {
        assert_eq!(line["forced"], "asked", "{line}");
    }
}

#[test]
fn between_fragments_a_close_stands_at_a_frames_boundary() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &with(&QUICK, &["--budget", "websocket=1s"]));
    let (mut client, mut upstream) = open(&proxy, &app);
    let fragments: [&[u8]; 4] = [b"\x01\x02ab", b"\x89\x01p", b"\x00\x02cd", b"\x8a\x00"];
    for fragment in fragments {
        upstream.send(fragment);
        client.expect(fragment);
    }
    // A half frame: the Close has to wait for its end.
    upstream.send(b"\x00\x04ef");
    client.expect(b"\x00\x04ef");
    proxy.signal(Signal::TERM);
    expect_masked_close(&mut upstream, 1001, "server draining");
    proxy.until_metric("ebbtide_websocket_close_sent_total{code=\"1001\"} 0");
    upstream.send(b"gh");
    client.expect(b"gh");
    client.expect(GOING_AWAY);
    proxy.until_metric("ebbtide_websocket_close_sent_total{code=\"1001\"} 1");
    client.send(masked_close(1001));
    upstream.send(b"\x88\x02\x03\xe9");
    client.ends();
    upstream.ends();
    drop((client, upstream));
    assert_eq!(proxy.finish().code(), Some(75));
}

#[test]
fn other_upgrades_are_opaque_and_block() {
    let app = App::new();
    let proxy = Ebbtide::proxy(&app.upstream(), &QUICK);
    let mut client = Wire::connect(proxy.addr());
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n\r\n";
    client.send(request);
    let mut upstream = app.accept();
    upstream.expect(request);
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n\r\n";
    upstream.send(switching);
    client.expect(switching);
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    proxy.until_phase("Draining");
    let listed = proxy.connections();
    assert_eq!(listed[0]["class"], "upgraded");
    assert_eq!(listed[0]["blocking"], true);
    client.send("\0anything\r\n\r\n");
    upstream.expect("\0anything\r\n\r\n");
    upstream.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect("HTTP/1.1 200 OK\r\n\r\n");
    drop(client);
    upstream.ends();
    drop(upstream);
    assert_eq!(proxy.finish().code(), Some(0));
}
