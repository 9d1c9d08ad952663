//! What does a fleet cost its controller?
//!
//! Ten thousand simulated targets, each with its own name and address, report over kept connections to
//! a real `ebbtide controller`, whose balancer is the log. Of the controller alone: reports per second
//! of its CPU time, the latency of a report at the pace of a fleet that drains (one per target and five
//! seconds), and its memory per target. `--brief` shows that it works, and no figure.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bench counts to millions, not to 2^53"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a bench is a program of its own, with a real clock"
)]

#[path = "measure/mod.rs"]
#[expect(dead_code, reason = "where it runs does not matter here")]
mod measure;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A large cluster.
const TARGETS: usize = 10_000;

/// How often a target reports while it drains.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Connections that the load uses: what of ten thousand targets reports at the same moment.
const CONNECTIONS: usize = 32;

fn main() {
    let is_brief = std::env::args().any(|argument| argument == "--brief");
    let seconds = std::env::var("SECONDS").ok().and_then(|it| it.parse().ok());
    let seconds = if is_brief { 1 } else { seconds.unwrap_or(20_u64) };
    let controller = Controller::start();
    let empty = controller.memory();
    let load = Arc::new(Load::new(controller.addr));

    // Every target once: now all are known.
    load.report(TARGETS, None);
    let full = controller.memory();

    // As fast as it answers.
    let (before, began) = (controller.cpu(), Instant::now());
    let rounds = (seconds as usize).max(2);
    let latencies = load.report(TARGETS * rounds, None);
    let (cpu, took) = (controller.cpu() - before, began.elapsed().as_secs_f64());
    let count = latencies.len() as f64;

    // At the pace of a fleet that drains as a whole.
    let paced = (TARGETS as u64 * seconds / HEARTBEAT.as_secs()) as usize;
    let before = controller.cpu();
    let began = Instant::now();
    let mut latencies = load.report(paced, Some(HEARTBEAT / TARGETS as u32));
    let share = (controller.cpu() - before) / began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at =
        |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;

    println!("| what | {TARGETS} targets |");
    println!("|---|---|");
    println!("| reports per second of CPU time | {:.0} |", count / cpu);
    println!("| reports per second, {CONNECTIONS} connections | {:.0} |", count / took);
    println!("| CPU at one report per target and 5 s | {:.1} % of a core |", share * 100.0);
    println!(
        "| latency at that pace | p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms |",
        at(0.5),
        at(0.99),
        at(0.999)
    );
    println!("| memory per target | {} B |", (full - empty) / TARGETS as u64);
    println!("| memory at rest | {:.1} MiB |", empty as f64 / 1_048_576.0);
}

/// A controller as a process.
struct Controller {
    child: Child,
    addr: SocketAddr,
}

impl Controller {
    fn start() -> Self {
        let mut child = Command::new(measure::ebbtide())
            .args(["controller", "--listen", "127.0.0.1:0", "--max-source-rate", "1000000"])
            .envs([("EBBTIDE_LOG_FORMAT", "json"), ("EBBTIDE_LOG", "info")])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let addr = log
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line).ok()?;
                line["listen"].as_str()?.parse().ok()
            })
            .expect("it says where it listens");
        std::thread::spawn(move || log.for_each(drop));
        Controller { child, addr }
    }

    /// Seconds of CPU time so far.
    fn cpu(&self) -> f64 {
        measure::cpu_seconds(self.child.id())
    }

    /// Bytes of memory that are its own.
    fn memory(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(path).expect("smaps");
        let line = text.lines().find(|line| line.starts_with("Pss:")).expect("Pss");
        let kib = line.split_whitespace().nth(1).and_then(|it| it.parse::<u64>().ok());
        kib.expect("a number") * 1024
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if !measure::ended_with_profile(&mut self.child) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Where the fleet is: how often each target has reported.
struct Load {
    addr: SocketAddr,
    sent: Mutex<u64>,
}

impl Load {
    fn new(addr: SocketAddr) -> Self {
        Load { addr, sent: Mutex::new(0) }
    }

    /// Sends `count` reports, the targets in turn, `every` so long or as fast as they are answered. How
    /// long each took.
    fn report(self: &Arc<Self>, count: usize, every: Option<Duration>) -> Vec<Duration> {
        let began = Instant::now();
        let first = *self.sent.lock().expect("the count");
        let last = first + count as u64;
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let load = Arc::clone(self);
                std::thread::spawn(move || {
                    let mut wire = Wire::connect(load.addr);
                    let mut latencies = Vec::new();
                    while let Some(number) = load.next(last) {
                        if let Some(every) = every {
                            let due = began + every * (number - first) as u32;
                            std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        }
                        latencies.push(wire.exchange(number));
                    }
                    latencies
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it reports")).collect()
    }

    fn next(&self, last: u64) -> Option<u64> {
        let mut sent = self.sent.lock().expect("the count");
        let number = *sent;
        (number < last).then(|| {
            *sent += 1;
            number
        })
    }
}

/// A kept connection.
struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Wire {
    fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("the controller takes it");
        stream.set_nodelay(true).expect("no delay");
        Wire { stream, unread: Vec::new() }
    }

    /// The `number`-th report of the fleet, to the end of its answer.
    fn exchange(&mut self, number: u64) -> Duration {
        let (target, round) = (number % TARGETS as u64, number / TARGETS as u64 + 1);
        let body = report(target, round);
        let head = format!(
            "POST /v1/reports HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let began = Instant::now();
        self.stream.write_all((head + &body).as_bytes()).expect("sent");
        let head = loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                break String::from_utf8(self.unread.drain(..end + 4).collect()).expect("text");
            }
            self.read();
        };
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1).and_then(|it| it.lines().next());
        let length: usize = length.and_then(|it| it.trim().parse().ok()).expect("a length");
        while self.unread.len() < length {
            self.read();
        }
        self.unread.drain(..length);
        began.elapsed()
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        let read = self.stream.read(&mut buffer).expect("an answer");
        assert!(read > 0, "the controller hung up");
        self.unread.extend_from_slice(&buffer[..read]);
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// What a busy proxy reports: a kilobyte less a little.
fn report(target: u64, sequence: u64) -> String {
    let (service, a, b) = (target / 10, target / 250, target % 250 + 1);
    format!(
        r#"{{"schemaVersion":"v1","namespace":"shop","podName":"cart-{service}-{target}","podUID":"0b5c2f0e-6f3c-4b59-9d8b-{target:012}","nodeName":"node-{a}","podIP":"10.1.{a}.{b}","service":"cart-{service}","startTime":"2024-05-01T10:00:00.125Z","sequence":{sequence},"phase":"Serving","drainTimeoutSeconds":300,"activeConnections":{sequence},"drainBlockingConnections":31,"activeRequests":4,"activeStreams":12,"byClass":{{"http":4,"websocket":20,"tcp":7,"healthCheck":2,"idle":4,"http2":0,"upgraded":0,"opaque":0}},"forcedCloses":0,"rejected":3,"oldestConnectionSeconds":5120,"listeners":[{{"address":"0.0.0.0","port":8080,"state":"Accepting"}}]}}"#
    )
}
