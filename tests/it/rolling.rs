//! A rolling update of two pods behind a real HAProxy: meetings and requests go through it all the time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::application::random_bytes;
use crate::support::crowd::alone;
use crate::support::haproxy::Haproxy;
use crate::support::http1::Wire;
use crate::support::peers::Peer;
use crate::support::{Ebbtide, PATIENCE};

/// Sends back the bodies of requests and the messages of WebSockets, and says each time which pod
/// it is. Its WebSocket knows short frames that are not fragmented; an end without a Close is an
/// error that it tells.
const APPLICATION: &str = "
const http = require('http'), crypto = require('crypto'), pod = 'POD';
const frame = (opcode, payload) => {
    const head = payload.length < 126 ? Buffer.from([0x80 | opcode, payload.length])
        : Buffer.from([0x80 | opcode, 126, payload.length >> 8, payload.length & 255]);
    return Buffer.concat([head, payload]);
};
const server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = Buffer.concat(parts);
    response.writeHead(200, { 'X-Pod': pod, 'Content-Length': body.length });
    response.end(body);
});
server.keepAliveTimeout = 0;
server.on('upgrade', (request, socket, head) => {
    const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
    const accept = crypto.createHash('sha1').update(key).digest('base64');
    socket.setNoDelay(true);
    socket.write('HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\n' +
        `Upgrade: websocket\\r\\nX-Pod: ${pod}\\r\\nSec-WebSocket-Accept: ${accept}\\r\\n\\r\\n`);
    let unread = head, closed = false;
    const read = (bytes) => {
        unread = Buffer.concat([unread, bytes]);
        while (!closed && unread.length >= 2) {
            const short = unread[1] & 127, start = short === 126 ? 4 : 2;
            if (unread.length < start) return;
            const length = short === 126 ? unread.readUInt16BE(2) : short, end = start + 4 + length;
            if (unread.length < end) return;
            const payload = Buffer.from(unread.subarray(start + 4, end));
            for (let i = 0; i < length; i++) payload[i] ^= unread[start + i % 4];
            const opcode = unread[0] & 15;
            unread = unread.subarray(end);
            closed = opcode === 8;
            socket.write(frame(opcode, payload));
            if (closed) socket.end();
        }
    };
    socket.on('data', read);
    socket.on('error', (error) => closed || console.log(`error: ${error}`));
    socket.on('end', () => { closed || console.log('error: no Close'); socket.end(); });
});
server.listen(0, '127.0.0.1', 511, () => console.log(server.address().port));
";

/// So many seats, in each of which one meeting follows the other. A meeting sends a message each
/// 50 ms and compares what comes back. `leave POD PART SECONDS` ends one in PART of the meetings on
/// that pod, one after the other within this time; the others stay. `stop` ends all.
const MEETINGS: &str = "
import asyncio, json, sys, websockets
async def main():
    url, count = sys.argv[1], int(sys.argv[2])
    loop = asyncio.get_running_loop()
    leaving, ends, pods, stop = {}, [], {}, asyncio.Event()
    opened = asyncio.Barrier(count + 1)
    def is_over(seat, pod):
        if stop.is_set(): return True
        if pod not in leaving: return False
        told, part, seconds = leaving[pod]
        return seat % part == 0 and loop.time() >= told + seconds * (seat + 1) / count
    async def meeting(seat, number):
        end = {'seat': seat, 'number': number, 'pod': None, 'messages': 0, 'own': False}
        ends.append(end)
        try:
            ws = await websockets.connect(url, ping_interval=None, open_timeout=60, proxy=None,
                                          compression=None)
            end['pod'] = pod = ws.response.headers['X-Pod']
            if number == 0: await opened.wait()
            try:
                while not is_over(seat, pod):
                    message = f'{seat} {number} {end[\"messages\"]} ebbs and flows. ' * (1 + seat % 50)
                    await ws.send(message)
                    if await ws.recv() != message:
                        end['error'] = 'another message came back'
                    end['messages'] += 1
                    await asyncio.sleep(0.05)
                end['own'] = True
                await ws.close()
            except websockets.ConnectionClosed:
                pass
            end['code'] = ws.close_code
        except Exception as error:
            end['error'] = repr(error)
    async def sit(seat):
        number = 0
        while not stop.is_set():
            await meeting(seat, number)
            number += 1
    seats = [asyncio.create_task(sit(seat)) for seat in range(count)]
    await opened.wait()
    for end in ends: pods[end['pod']] = pods.get(end['pod'], 0) + 1
    print(json.dumps(pods), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        word, *rest = line.split()
        if word == 'leave':
            leaving[rest[0]] = (loop.time(), int(rest[1]), float(rest[2]))
        elif word == 'stop':
            stop.set()
            await asyncio.gather(*seats)
            print(json.dumps(ends), flush=True)
asyncio.run(main())
";

const MEETING_COUNT: usize = 100;
const HTTP_CLIENTS: usize = 20;

/// An application with Ebbtide before it.
struct Pod {
    application: Peer,
    proxy: Ebbtide,
}

impl Pod {
    fn start(name: &str, listen: &str) -> Self {
        let application = Peer::node(&APPLICATION.replace("POD", name));
        let proxy = Ebbtide::proxy(
            &application.upstream,
            &[
                ["--listen", listen, "--protocol", "auto", "--reject", "refuse"],
                ["--drain-delay", "1s", "--quiet-period", "0", "--drain-timeout", "9s"],
                ["--close-spread", "2s", "--settled-for", "0", "--settle-period", "100ms"],
            ]
            .concat(),
        );
        Pod { application, proxy }
    }

    /// Waits for the proxy's end and looks at what both said: the exit status, and how many were
    /// force-closed.
    fn finish(self) -> (Option<i32>, u64) {
        let finished = self.proxy.finish();
        let errors: Vec<_> = self.application.said();
        assert!(errors.is_empty(), "the application saw {errors:?}");
        let forced = finished.lines("drained")[0]["forced"].as_u64().expect("a number");
        (finished.code(), forced)
    }
}

/// What the keep-alive clients have seen together.
#[derive(Default)]
struct Seen {
    pods: Mutex<BTreeSet<String>>,
    answers: AtomicUsize,
    connections: AtomicUsize,
    stop: AtomicBool,
}

impl Seen {
    fn until_pod(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.pods.lock().expect("the names").contains(name) {
            assert!(Instant::now() < deadline, "no answer of {name}");
            std::thread::yield_now();
        }
    }
}

/// A client that sends the next request on its connection until it is told `close`, and then on
/// a new one. Any answer that is not the right one, and whole, is a panic.
fn keep_asking(balancer: SocketAddr, seed: usize, seen: Arc<Seen>) -> JoinHandle<()> {
    let body = random_bytes(seed as u64, 2000 + seed);
    std::thread::spawn(move || {
        while !seen.stop.load(Ordering::SeqCst) {
            let mut wire = Wire::connect(balancer);
            seen.connections.fetch_add(1, Ordering::SeqCst);
            loop {
                let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length";
                wire.send([format!("{head}: {}\r\n\r\n", body.len()).as_bytes(), &body].concat());
                let answer = wire.answer().unwrap_or_else(|error| panic!("{seed}: {error}"));
                assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.head);
                assert!(answer.body == body, "other bytes came back");
                let pod = answer.field("x-pod").expect("a pod's name");
                seen.pods.lock().expect("the names").insert(pod);
                seen.answers.fetch_add(1, Ordering::SeqCst);
                if answer.says_close() || seen.stop.load(Ordering::SeqCst) {
                    break;
                }
                // The client's pace, not a wait for anything.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    })
}

/// How many meetings on each pod were told 1001; any other end that is not their own is a panic.
fn told_to_leave(ends: &Value, pod: &str) -> u64 {
    let ends = ends.as_array().expect("a list");
    let mut told = 0;
    for end in ends {
        assert!(end["error"].is_null(), "{end}");
        match (end["own"].as_bool(), end["code"].as_u64()) {
            (Some(true), Some(1000)) => {}
            (Some(false), Some(1001)) => told += u64::from(end["pod"] == pod),
            _ => panic!("neither its own end nor a 1001: {end}"),
        }
    }
    told
}

#[test]
fn a_rolling_update_behind_haproxy_costs_no_client_anything() {
    let _alone = alone();
    let (a, b) = (Pod::start("a1", "127.0.0.1:0"), Pod::start("b1", "127.0.0.1:0"));
    let (a_addr, b_addr) = (a.proxy.addr(), b.proxy.addr());
    let balancer = Haproxy::new(&[("a", a_addr), ("b", b_addr)]);
    let seen = Arc::new(Seen::default());
    let clients: Vec<_> =
        (0..HTTP_CLIENTS).map(|seed| keep_asking(balancer.addr, seed, Arc::clone(&seen))).collect();
    let url = format!("ws://{}/meeting", balancer.addr);
    let mut meetings = Peer::python_client(MEETINGS, &[&url, &MEETING_COUNT.to_string()]);
    let opened = meetings.json();
    for pod in ["a1", "b1"] {
        assert!(opened[pod].as_u64() > Some(MEETING_COUNT as u64 / 4), "{opened}");
        seen.until_pod(pod);
    }

    // The balancer knows first. Half of the meetings end in time, the others are told to leave.
    balancer.drain("a");
    a.proxy.signal(Signal::TERM);
    meetings.say("leave a1 2 3");
    a.proxy.says("listener closed");
    let (code, forced) = a.finish();
    assert_eq!(code, Some(75));
    let a = Pod::start("a2", &a_addr.to_string());
    assert_eq!(a.proxy.addr(), a_addr);
    balancer.ready("a");
    seen.until_pod("a2");

    // The pod knows first. All of its meetings end in time.
    b.proxy.signal(Signal::TERM);
    balancer.drain("b");
    meetings.say("leave b1 1 3");
    b.proxy.says("listener closed");
    assert_eq!(b.finish(), (Some(0), 0));
    let b = Pod::start("b2", &b_addr.to_string());
    assert_eq!(b.proxy.addr(), b_addr);
    balancer.ready("b");
    seen.until_pod("b2");

    meetings.say("stop");
    let ends = meetings.json();
    seen.stop.store(true, Ordering::SeqCst);
    assert!(clients.into_iter().all(|client| client.join().is_ok()), "a request was lost");
    let told = told_to_leave(&ends, "a1");
    assert!(told > 0, "nobody stayed to the end");
    assert_eq!(told, forced);
    for pod in ["b1", "a2", "b2"] {
        assert_eq!(told_to_leave(&ends, pod), 0, "{pod}");
    }
    let ends = ends.as_array().expect("a list");
    let messages: u64 = ends.iter().filter_map(|end| end["messages"].as_u64()).sum();
    println!(
        "{} meetings, {messages} messages, {told} told 1001; {} requests on {} connections",
        ends.len(),
        seen.answers.load(Ordering::SeqCst),
        seen.connections.load(Ordering::SeqCst)
    );
}
