//! What does relaying cost, beside a bare recv and send on the same sockets?
//!
//! The peers are here too, between the turns of what is timed: they fill sockets, and read what came out.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ebbtide::net::Socket;
use ebbtide::protocol::http1::DrainOptions;
use ebbtide::protocol::{Class, Direction, Events, Tracker, Word};
use ebbtide::reactor;
use ebbtide::relay::{
    ClientTimeouts, Control, IdleClose, IdleTimeouts, Lent, Observer, Relay, RelaySettings,
};

use super::step::{Question, Step};

/// So many that a look at the poller finds several ready, as in a busy pod.
const CONNECTIONS: usize = 32;

/// What is in flight at once where bulk flows.
const BULK_BYTES: usize = 256 * 1024;

const REQUEST: &[u8] =
    b"GET /small HTTP/1.1\r\nHost: app.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\n\
    Content-Length: 13\r\n\r\nHello, world!";

pub(super) fn all() -> Vec<Question> {
    let http1 = || Tracker::http1(Arc::default(), Ipv4Addr::LOCALHOST.into());
    let message = [7; 128];
    let bulk = vec![7; BULK_BYTES];
    let messages = vec![
        step("recv and send", Bare::new(), CONNECTIONS, &message, &message),
        step("relay, tcp", Relays::new(|| Tracker::Tcp), CONNECTIONS, &message, &message),
    ];
    let exchanges = vec![
        step("recv and send", Bare::new(), CONNECTIONS, REQUEST, RESPONSE),
        step("relay, tcp", Relays::new(|| Tracker::Tcp), CONNECTIONS, REQUEST, RESPONSE),
        step("relay, http1", Relays::new(http1), CONNECTIONS, REQUEST, RESPONSE),
    ];
    let turns = vec![
        step("recv and send", Bare::new(), 1, &bulk, &[]),
        step("relay, tcp", Relays::new(|| Tracker::Tcp), 1, &bulk, &[]),
    ];
    vec![
        Question { title: "Relay: 128 bytes there and back", unit: "echo", steps: messages },
        Question { title: "Relay: HTTP/1", unit: "exchange", steps: exchanges },
        Question { title: "Relay: bulk", unit: "256 KiB", steps: turns },
    ]
}

/// What stands between the peers.
trait Between {
    /// Takes a connection's two sockets.
    fn take(&mut self, client: TcpStream, upstream: TcpStream);
    /// Moves what is there.
    fn turn(&mut self);
}

/// A unit is `request` one way and `response` the other, on each connection once.
fn step(
    name: &str,
    mut between: impl Between + 'static,
    connections: usize,
    request: &[u8],
    response: &[u8],
) -> Step {
    let (request, response) = (request.to_vec(), response.to_vec());
    let mut peers: Vec<[TcpStream; 2]> = (0..connections)
        .map(|_| {
            let ([client, its_client], [its_upstream, application]) = (connected(), connected());
            between.take(its_client, its_upstream);
            [client, application]
        })
        .collect();
    Step::timed(name, request.len() + response.len(), move |units| {
        let mut took = Duration::ZERO;
        for _ in 0..units.div_ceil(connections) {
            for (bytes, from, to) in [(&request, 0, 1), (&response, 1, 0)] {
                took += carry(&mut between, &mut peers, bytes, from, to);
            }
        }
        // What was done is a whole number of laps.
        took.mul_f64(units as f64 / (units.div_ceil(connections) * connections) as f64)
    })
}

/// The same bytes on each connection, until they have come out; the time in between.
fn carry(
    between: &mut impl Between,
    peers: &mut [[TcpStream; 2]],
    bytes: &[u8],
    from: usize,
    to: usize,
) -> Duration {
    let mut took = Duration::ZERO;
    let mut sent = vec![0; peers.len()];
    let mut left = bytes.len() * peers.len();
    let mut buffer = vec![0; BULK_BYTES];
    while left > 0 {
        for (peer, sent) in peers.iter_mut().zip(&mut sent) {
            if *sent < bytes.len() {
                *sent += now(peer[from].write(&bytes[*sent..]));
            }
        }
        let began = Instant::now();
        between.turn();
        took += began.elapsed();
        for peer in peers.iter_mut() {
            left -= now(peer[to].read(&mut buffer));
        }
    }
    took
}

fn now(result: std::io::Result<usize>) -> usize {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        result => result.expect("an open connection"),
    }
}

/// Both ends of a connection over the loopback.
fn connected() -> [TcpStream; 2] {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let near = TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
    let (far, _) = listener.accept().expect("accepted");
    for stream in [&near, &far] {
        stream.set_nodelay(true).expect("no delay");
        stream.set_nonblocking(true).expect("no blocking");
    }
    [near, far]
}

/// A recv and a send for each connection in each direction where something came.
struct Bare {
    pairs: Vec<[TcpStream; 2]>,
    buffer: Vec<u8>,
    /// Where the last bytes came from: one knows whom to ask.
    from: usize,
}

impl Bare {
    fn new() -> Self {
        Bare { pairs: Vec::new(), buffer: vec![0; BULK_BYTES], from: 0 }
    }
}

impl Between for Bare {
    fn take(&mut self, client: TcpStream, upstream: TcpStream) {
        self.pairs.push([client, upstream]);
    }

    fn turn(&mut self) {
        let mut moved = 0;
        for from in [self.from, 1 - self.from] {
            for pair in &mut self.pairs {
                let read = now(pair[from].read(&mut self.buffer));
                if read > 0 {
                    pair[1 - from].write_all(&self.buffer[..read]).expect("room: it was read");
                }
                moved += read;
            }
            if moved > 0 {
                self.from = from;
                return;
            }
        }
    }
}

/// The relay of the proxy, a task for each connection.
struct Relays {
    begin: fn() -> Tracker,
    controls: Vec<Arc<Control>>,
}

impl Relays {
    fn new(begin: fn() -> Tracker) -> Self {
        reactor::turn().expect("this thread is a worker");
        Relays { begin, controls: Vec::new() }
    }

    fn moved(&self) -> u64 {
        let both = [Direction::FromClient, Direction::FromUpstream];
        self.controls.iter().map(|it| both.map(|way| it.bytes(way)).iter().sum::<u64>()).sum()
    }
}

impl Between for Relays {
    fn take(&mut self, client: TcpStream, upstream: TcpStream) {
        let tracker = (self.begin)();
        let control = Arc::new(Control::new(tracker.class()));
        self.controls.push(Arc::clone(&control));
        let relay = async move {
            let socket = |stream| Socket::new(OwnedFd::from(stream)).expect("a socket");
            let (client, upstream) = (socket(client), socket(upstream));
            let manners = RelaySettings {
                idle_timeouts: IdleTimeouts::default(),
                idle_close: IdleClose::Immediate,
                client_timeouts: ClientTimeouts::default(),
                websocket_code: 1001,
                websocket_reason: String::new(),
            };
            let mut nobody = Nobody;
            Relay::new(&client, Some(upstream), &control, tracker, &manners, &mut nobody).await;
        };
        reactor::spawn(relay).expect("this thread is a worker");
    }

    /// Until something has moved.
    fn turn(&mut self) {
        let before = self.moved();
        while self.moved() == before {
            reactor::turn().expect("this thread is a worker");
        }
    }
}

/// Nobody is told anything.
struct Nobody;

impl Observer for Nobody {
    fn first_byte(&mut self) {}
    fn class(&mut self, _: Class) {}
    fn events(&mut self, _: Events) {}
    fn told(&self, _: Word) {}
    fn lent(&self, _: Lent) {}
    fn drain_options(&self) -> DrainOptions {
        DrainOptions::default()
    }
}
