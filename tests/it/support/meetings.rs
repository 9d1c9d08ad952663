//! What goes on in a service while it is updated: meetings over WebSocket and keep-alive clients, each byte
//! compared, on an application that says which pod it is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;
use super::application::random_bytes;
use super::http1::Wire;

/// Sends back the bodies of requests and the messages of WebSockets, and says each time which pod
/// it is. Its WebSocket knows short frames that are not fragmented; an end without a Close is an
/// error that it tells.
pub const APPLICATION: &str = "
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
pub const MEETINGS: &str = "
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

/// What the keep-alive clients have seen together.
#[derive(Default)]
pub struct Seen {
    pub pods: Mutex<BTreeSet<String>>,
    pub answers: AtomicUsize,
    pub connections: AtomicUsize,
    pub stop: AtomicBool,
}

impl Seen {
    pub fn until_pod(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.pods.lock().expect("the names").contains(name) {
            assert!(Instant::now() < deadline, "no answer of {name}");
            std::thread::yield_now();
        }
    }
}

/// A client that sends the next request on its connection until it is told `close`, and then on
/// a new one. Any answer that is not the right one, and whole, is a panic.
pub fn keep_asking(balancer: SocketAddr, seed: usize, seen: Arc<Seen>) -> JoinHandle<()> {
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
pub fn told_to_leave(ends: &Value, pod: &str) -> u64 {
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
