//! What does watching a protocol cost, beside moving the same bytes as plain tcp?
//!
//! CPU time of the proxy per unit of work, the protocols in turn, as a ratio within each round.

#![expect(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a bench counts to millions, not to 2^53, and sleeps while others work"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const CONNECTIONS: usize = 32;
const ROUND: Duration = Duration::from_secs(2);

/// What is sent and what comes back, again and again, after a first exchange.
struct Work {
    name: &'static str,
    greeting: (&'static [u8], &'static [u8]),
    unit: (Vec<u8>, Vec<u8>),
    protocols: &'static [&'static str],
}

fn works() -> Vec<Work> {
    let websocket = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    vec![
        Work {
            name: "TCP echo, 128 B",
            greeting: (b"", b""),
            unit: (vec![0; 128], vec![0; 128]),
            protocols: &["tcp", "auto"],
        },
        Work {
            name: "HTTP/1 small request",
            greeting: (b"", b""),
            unit: (
                b"GET /small HTTP/1.1\r\nHost: app.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
                    .to_vec(),
                b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\n\
                  Content-Length: 13\r\n\r\nHello, world!"
                    .to_vec(),
            ),
            protocols: &["tcp", "http1", "auto"],
        },
        Work {
            name: "WebSocket message, 64 B",
            greeting: (websocket, switching),
            unit: (
                [&[0x82, 0x80 | 64, 1, 2, 3, 4][..], &[7; 64]].concat(),
                [&[0x82, 64][..], &[7; 64]].concat(),
            ),
            protocols: &["tcp", "http1", "auto"],
        },
    ]
}

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    println!("| work | protocol | CPU per unit (us) | ratio to tcp: median (min-max) |");
    println!("|---|---|---|---|");
    for work in works() {
        measure(&Arc::new(work), rounds);
    }
}

fn measure(work: &Arc<Work>, rounds: usize) {
    let app = application(Arc::clone(work));
    let proxies: Vec<Proxy> =
        work.protocols.iter().map(|protocol| Proxy::start(app, protocol)).collect();
    let mut costs = vec![Vec::new(); proxies.len()];
    // The first round warms up and is not counted.
    for round in 0..=rounds {
        for (proxy, costs) in proxies.iter().zip(&mut costs) {
            let cost = proxy.cost_of(work);
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    for (index, (protocol, cost)) in work.protocols.iter().zip(&costs).enumerate() {
        let ratios: Vec<f64> = cost.iter().zip(&costs[0]).map(|(cost, tcp)| cost / tcp).collect();
        let (least, median, most) = spread(ratios);
        let (_, us, _) = spread(cost.clone());
        let ratio = match index {
            0 => "1".to_owned(),
            _ => format!("{median:.3} ({least:.3}-{most:.3})"),
        };
        println!("| {} | {protocol} | {us:.2} | {ratio} |", work.name);
    }
}

fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    (figures[0], figures[figures.len() / 2], figures[figures.len() - 1])
}

struct Proxy {
    child: Child,
    addr: SocketAddr,
}

impl Proxy {
    fn start(app: SocketAddr, protocol: &str) -> Self {
        let program = std::env::var("EBBTIDE_BIN");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_ebbtide").to_owned());
        let mut child = Command::new(program)
            .args(["--log-format", "json", "proxy", "--listen", "127.0.0.1:0"])
            .args(["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .args(["--upstream", &app.to_string(), "--protocol", protocol])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the proxy starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let addr = loop {
            let line = log.next().expect("a line").expect("text");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if line["message"] == "serving" {
                break line["listen"].as_str().expect("an address").parse().expect("an address");
            }
        };
        std::thread::spawn(move || log.for_each(drop));
        Proxy { child, addr }
    }

    /// CPU time per unit of work, in microseconds.
    fn cost_of(&self, work: &Arc<Work>) -> f64 {
        let stop = Arc::new(AtomicBool::new(false));
        let units = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (work, stop, units) = (Arc::clone(work), Arc::clone(&stop), Arc::clone(&units));
                let mut stream = TcpStream::connect(self.addr).expect("a connection");
                stream.set_nodelay(true).expect("an option");
                exchange(&mut stream, work.greeting.0, work.greeting.1.len());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        exchange(&mut stream, &work.unit.0, work.unit.1.len());
                        units.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let (cpu, done) = (self.cpu_seconds(), units.load(Ordering::Relaxed));
        std::thread::sleep(ROUND);
        let (cpu, done) = (self.cpu_seconds() - cpu, units.load(Ordering::Relaxed) - done);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client ends");
        }
        cpu * 1e6 / done as f64
    }

    /// Time that the proxy's threads were on a processor.
    fn cpu_seconds(&self) -> f64 {
        let tasks =
            std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a process");
        let nanoseconds: u64 = tasks
            .filter_map(|task| {
                let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
                text.split(' ').next()?.parse::<u64>().ok()
            })
            .sum();
        nanoseconds as f64 / 1e9
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }
}

fn exchange(stream: &mut TcpStream, request: &[u8], response_bytes: usize) {
    stream.write_all(request).expect("sent");
    let mut response = vec![0; response_bytes];
    stream.read_exact(&mut response).expect("answered");
}

/// Answers each unit, a thread a connection.
fn application(work: Arc<Work>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let work = Arc::clone(&work);
            std::thread::spawn(move || {
                stream.set_nodelay(true).expect("an option");
                let mut greeting = vec![0; work.greeting.0.len()];
                let mut unit = vec![0; work.unit.0.len()];
                let mut answer = || {
                    stream.read_exact(&mut greeting)?;
                    stream.write_all(work.greeting.1)?;
                    loop {
                        stream.read_exact(&mut unit)?;
                        stream.write_all(&work.unit.1)?;
                    }
                };
                // The client's end is the end.
                let _: std::io::Result<()> = answer();
            });
        }
    });
    addr
}
