//! The load: clients in an event loop on the caller's thread.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::application::SINK_BLOCK_BYTES;
use super::http;
use super::poll::{On, Poll, now};

/// What one call moves at most.
const BUFFER_BYTES: usize = 256 * 1024;

/// The timer's name in the event loop; the clients' count from 0.
const TIMER: usize = usize::MAX;

/// No answer of a proxy that works takes this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// After this one asks again: who had no route when the connection came may never find one for it.
const IMPATIENCE: Duration = Duration::from_millis(200);

/// What the clients do.
#[derive(Clone)]
pub(super) struct Traffic {
    pub(super) connections: usize,
    /// Asked and answered once, as HTTP, before anything else.
    pub(super) greeting: Option<Vec<u8>>,
    pub(super) request: Vec<u8>,
    pub(super) response: Response,
    pub(super) pace: Pace,
}

/// Where what comes back ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Response {
    Bytes(usize),
    /// With the body of that length.
    Http(usize),
    /// Never; its bytes are counted.
    Endless,
    /// Never, while the request is sent again and again; each byte acknowledges a block of it.
    Acknowledgements,
}

/// When the next request comes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// With the answer to the last one.
    Closed,
    /// As well, each on a connection of its own.
    NewConnection,
    /// So many a second on all connections together, the connections in turn, whatever became of
    /// those before.
    Open(f64),
}

/// What came of it.
#[derive(Default)]
pub(super) struct Tally {
    /// Answers; bytes, where there is no end.
    pub(super) units: u64,
    pub(super) errors: u64,
    /// What the first error was.
    pub(super) error: Option<String>,
    pub(super) seconds: f64,
    /// With an open pace: from when each request was due to its answer.
    pub(super) latencies: Vec<Duration>,
}

impl Tally {
    /// Below this stands such a part of the latencies, which are sorted; in microseconds.
    pub(super) fn latency_us(&self, part: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let latency = self.latencies.get((last as f64 * part).round() as usize);
        latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    }
}

struct Client {
    stream: TcpStream,
    sent: usize,
    awaited: Awaited,
    is_busy: bool,
    due: Instant,
    /// When the requests were due that wait for this connection.
    backlog: VecDeque<Instant>,
}

enum Awaited {
    Bytes(usize),
    Http(http::Message),
    Endless(u64),
}

pub(super) struct Load<'a> {
    addr: SocketAddr,
    traffic: &'a Traffic,
    poll: Poll,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    tally: Tally,
    /// Of an open pace: what wakes for each request, when the next one is due, and how many were.
    timer: Option<File>,
    next: Instant,
    turn: usize,
}

impl<'a> Load<'a> {
    /// Connects and greets.
    pub(super) fn connect(addr: SocketAddr, traffic: &'a Traffic) -> io::Result<Self> {
        let mut load = Load {
            addr,
            traffic,
            poll: Poll::new(),
            clients: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            tally: Tally::default(),
            timer: None,
            next: Instant::now(),
            turn: 0,
        };
        for _ in 0..traffic.connections {
            let client = load.client()?;
            load.poll.add(&client.stream, load.clients.len(), load.interest())?;
            load.clients.push(client);
        }
        if !matches!(traffic.pace, Pace::Open(_)) {
            for index in 0..traffic.connections {
                load.begin(index, Instant::now())?;
            }
        }
        Ok(load)
    }

    /// Goes on for so long, or until anything is done, and says what happened in this time.
    pub(super) fn run(&mut self, duration: Duration) -> Tally {
        let began = Instant::now();
        if let Pace::Open(per_second) = self.traffic.pace {
            // In step with what is due.
            let interval = Duration::from_secs_f64(1.0 / per_second);
            self.next = Instant::now() + interval;
            self.timer = Some(self.poll.every(interval, TIMER).expect("a timer"));
        }
        self.tally = Tally::default();
        loop {
            let now = Instant::now();
            // A short turn that ends before the first answer would tell nothing.
            let wanted = if self.tally.units == 0 { PATIENCE } else { duration };
            let end = began + duration.max(wanted);
            if now >= end {
                break;
            }
            if let Pace::Open(per_second) = self.traffic.pace {
                self.send_due(now, Duration::from_secs_f64(1.0 / per_second));
            }
            let events = self.poll.wait(Some(end.saturating_duration_since(now)));
            for (index, on) in events.expect("our event loop") {
                if index == TIMER {
                    // How many intervals there were is told by the clock as well.
                    let _ = self.timer.as_ref().map(|mut timer| timer.read(&mut [0; 8]));
                } else if let Err(error) = self.step(index, on) {
                    self.failed(index, &error);
                }
            }
        }
        self.tally.seconds = began.elapsed().as_secs_f64();
        std::mem::take(&mut self.tally)
    }

    fn send_due(&mut self, now: Instant, interval: Duration) {
        while self.next <= now {
            let index = self.turn % self.clients.len();
            if self.clients[index].is_busy {
                self.clients[index].backlog.push_back(self.next);
            } else if let Err(error) = self.begin(index, self.next) {
                self.failed(index, &error);
            }
            self.next += interval;
            self.turn += 1;
        }
    }

    fn client(&self) -> io::Result<Client> {
        let stream = open(self.addr, self.traffic)?;
        stream.set_nonblocking(true)?;
        Ok(Client {
            stream,
            sent: 0,
            awaited: Awaited::Bytes(0),
            is_busy: false,
            due: Instant::now(),
            backlog: VecDeque::new(),
        })
    }

    /// What a client that isn't in the middle of writing waits for.
    fn interest(&self) -> On {
        let writes = self.traffic.response == Response::Acknowledgements;
        if writes { On::IN | On::OUT } else { On::IN }
    }

    /// Sends the next request, as far as that goes.
    fn begin(&mut self, index: usize, due: Instant) -> io::Result<()> {
        let client = &mut self.clients[index];
        client.awaited = match self.traffic.response {
            Response::Bytes(count) => Awaited::Bytes(count),
            Response::Http(_) => Awaited::Http(http::Message::default()),
            Response::Endless => Awaited::Endless(1),
            Response::Acknowledgements => Awaited::Endless(SINK_BLOCK_BYTES),
        };
        client.sent = 0;
        client.is_busy = true;
        client.due = due;
        self.write(index)
    }

    fn write(&mut self, index: usize) -> io::Result<()> {
        let (client, request) = (&mut self.clients[index], &self.traffic.request);
        let was_waiting = client.sent > 0;
        if client.sent < request.len() {
            client.sent += now(client.stream.write(&request[client.sent..]))?.unwrap_or(0);
        }
        let is_whole = client.sent == request.len();
        if self.traffic.response == Response::Acknowledgements {
            client.sent %= request.len();
        } else if was_waiting || !is_whole {
            let on = if is_whole { On::IN } else { On::IN | On::OUT };
            self.poll.change(&client.stream, index, on)?;
        }
        Ok(())
    }

    fn step(&mut self, index: usize, on: On) -> io::Result<()> {
        if on.contains(On::OUT) {
            self.write(index)?;
        }
        if !on.intersects(On::IN | On::HUP | On::ERR) {
            return Ok(());
        }
        let client = &mut self.clients[index];
        let count = match now(client.stream.read(&mut self.buffer))? {
            None => return Ok(()),
            Some(0) => return Err(io::Error::other("closed by the proxy")),
            Some(count) => count,
        };
        let is_whole = match &mut client.awaited {
            Awaited::Endless(weight) => {
                self.tally.units += count as u64 * *weight;
                return Ok(());
            }
            Awaited::Bytes(left) => {
                *left = left.checked_sub(count).ok_or_else(too_much)?;
                *left == 0
            }
            Awaited::Http(message) => {
                let (taken, is_whole) = message.take(&self.buffer[..count])?;
                if taken < count {
                    return Err(too_much());
                }
                if is_whole {
                    check(message, self.traffic.response)?;
                }
                is_whole
            }
        };
        if is_whole { self.answered(index) } else { Ok(()) }
    }

    fn answered(&mut self, index: usize) -> io::Result<()> {
        self.tally.units += 1;
        let client = &mut self.clients[index];
        client.is_busy = false;
        match self.traffic.pace {
            Pace::Closed => self.begin(index, Instant::now()),
            Pace::NewConnection => self.reconnect(index),
            Pace::Open(_) => {
                self.tally.latencies.push(client.due.elapsed());
                match client.backlog.pop_front() {
                    Some(due) => self.begin(index, due),
                    None => Ok(()),
                }
            }
        }
    }

    fn reconnect(&mut self, index: usize) -> io::Result<()> {
        let backlog = std::mem::take(&mut self.clients[index].backlog);
        self.clients[index] = Client { backlog, ..self.client()? };
        self.poll.add(&self.clients[index].stream, index, self.interest())?;
        if matches!(self.traffic.pace, Pace::Open(_)) {
            return Ok(());
        }
        self.begin(index, Instant::now())
    }

    /// Counts an error, and goes on with a new connection, if there is one to be had.
    fn failed(&mut self, index: usize, error: &io::Error) {
        self.tally.errors += 1;
        self.tally.error.get_or_insert_with(|| error.to_string());
        if let Err(error) = self.reconnect(index) {
            self.tally.error.get_or_insert_with(|| error.to_string());
        }
    }
}

/// Connects, and gives the greeting.
pub(super) fn open(addr: SocketAddr, traffic: &Traffic) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    if let Some(greeting) = &traffic.greeting {
        exchange(&mut stream, greeting, Response::Http(0))?;
    }
    Ok(stream)
}

/// Asks once, on a connection of its own, of one that perhaps has not begun to work.
pub(super) fn once(addr: SocketAddr, request: &[u8], response: Response) -> io::Result<()> {
    exchange_within(&mut TcpStream::connect(addr)?, request, response, IMPATIENCE)
}

/// Asks once, and waits for the whole of the answer.
pub(super) fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    response: Response,
) -> io::Result<()> {
    exchange_within(stream, request, response, PATIENCE)
}

fn exchange_within(
    stream: &mut TcpStream,
    request: &[u8],
    response: Response,
    timeout: Duration,
) -> io::Result<()> {
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(request)?;
    let mut buffer = vec![0; 4096];
    let (mut bytes, mut message) = (0, http::Message::default());
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::other("closed by the proxy"));
        }
        bytes += count;
        let is_whole = match response {
            Response::Bytes(wanted) => bytes >= wanted,
            Response::Http(_) => message.take(&buffer[..count])?.1,
            Response::Endless | Response::Acknowledgements => true,
        };
        if is_whole {
            return check(&message, response);
        }
    }
}

/// Whether the answer is the application's: some proxies have answers of their own.
fn check(message: &http::Message, wanted: Response) -> io::Result<()> {
    match wanted {
        Response::Http(bytes) if bytes != message.body_bytes() => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a body of {} bytes in place of {bytes}", message.body_bytes()),
        )),
        _ => Ok(()),
    }
}

fn too_much() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "more came back than was asked for")
}
