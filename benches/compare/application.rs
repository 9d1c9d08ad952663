//! The application behind every proxy, on one thread: an event loop that costs less than any of them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use super::http;
use super::poll::{On, Poll, now};

/// More than ever connect at once; the kernel's own bound is net.core.somaxconn.
pub(super) const BACKLOG: i32 = 4096;

/// What one call moves at most.
const BUFFER_BYTES: usize = 256 * 1024;

/// The name of what wakes for long responses.
const CLOCK: usize = usize::MAX;

/// How many bytes taken are worth one byte of acknowledgement.
pub(super) const SINK_BLOCK_BYTES: u64 = 1024 * 1024;

/// The large response and the large request body.
pub(super) const LARGE_BYTES: usize = 64 * 1024;

/// What it serves, each on a port of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Sends back what it gets.
    Echo,
    /// Answers requests of HTTP/1.1, and echoes messages of WebSockets.
    Http,
    /// Sends without end.
    Source,
    /// Takes all, and acknowledges every [`SINK_BLOCK_BYTES`] with a byte.
    Sink,
}

impl Service {
    const ALL: [Self; 4] = [Self::Echo, Self::Http, Self::Source, Self::Sink];
}

/// The application as a process.
pub(super) struct Application {
    child: Child,
    ports: Vec<u16>,
}

impl Application {
    /// Runs where the caller runs.
    pub(super) fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .arg("application")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("its ports");
        let ports = line.split_whitespace().map(|port| port.parse().expect("a port")).collect();
        Application { child, ports }
    }

    pub(super) fn port(&self, service: Service) -> u16 {
        self.ports[service as usize]
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }
}

/// One connection and what it is in the middle of.
struct Connection {
    stream: TcpStream,
    service: Service,
    is_websocket: bool,
    request: http::Message,
    /// Bytes of a WebSocket frame or a sink's block that have come so far.
    partial: u64,
    unsent: Vec<u8>,
    /// Pieces of a long response that are still to be sent, one a tick.
    pieces: u32,
    /// Of the source: where in its block it is.
    at: usize,
}

/// Serves until the process is killed.
pub(super) fn run() -> io::Result<()> {
    let mut poll = Poll::new();
    let mut ports = String::new();
    let mut listeners = Vec::new();
    for service in Service::ALL {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        rustix::net::listen(&listener, BACKLOG)?;
        poll.add(&listener, listeners.len(), On::IN)?;
        ports += &format!("{} ", listener.local_addr()?.port());
        listeners.push((listener, service));
    }
    println!("{ports}");
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    // Only once there is something to send at its pace: nobody else's application wakes for it.
    let mut clock: Option<File> = None;
    loop {
        for (name, on) in poll.wait(None)? {
            if name == CLOCK {
                clock.as_mut().map(|clock| clock.read(&mut [0; 8])).transpose()?;
                for connection in connections.iter_mut().flatten().filter(|it| it.pieces > 0) {
                    connection.pieces -= 1;
                    // One that is gone is found by its next event.
                    let _ = connection.send(http::PIECE);
                }
                continue;
            }
            let Some(index) = name.checked_sub(listeners.len()) else {
                let (listener, service) = &listeners[name];
                let index = free.pop().unwrap_or_else(|| {
                    connections.push(None);
                    connections.len() - 1
                });
                // One that was reset in the queue is no error of ours.
                match accept(listener, *service, &poll, listeners.len() + index) {
                    Ok(connection) => connections[index] = Some(connection),
                    Err(_) => free.push(index),
                }
                continue;
            };
            let Some(connection) = &mut connections[index] else { continue };
            let was_blocked = !connection.unsent.is_empty();
            if connection.step(on, &mut buffer).unwrap_or(false) {
                let is_blocked = !connection.unsent.is_empty();
                if connection.pieces > 0 && clock.is_none() {
                    clock = Some(poll.every(http::PIECE_INTERVAL, CLOCK)?);
                }
                if is_blocked != was_blocked {
                    let on = if is_blocked { On::OUT } else { On::IN };
                    poll.change(&connection.stream, name, on)?;
                }
            } else {
                connections[index] = None;
                free.push(index);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    service: Service,
    poll: &Poll,
    name: usize,
) -> io::Result<Connection> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    poll.add(&stream, name, if service == Service::Source { On::OUT } else { On::IN })?;
    Ok(Connection {
        stream,
        service,
        is_websocket: false,
        request: http::Message::default(),
        partial: 0,
        unsent: Vec::new(),
        pieces: 0,
        at: 0,
    })
}

impl Connection {
    /// Does what there is to do; whether the connection goes on.
    fn step(&mut self, on: On, buffer: &mut [u8]) -> io::Result<bool> {
        if self.service == Service::Source {
            static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| vec![7; 4 * BUFFER_BYTES]);
            self.at += now(self.stream.write(&BLOCK[self.at..]))?.unwrap_or(0);
            self.at %= BLOCK.len();
            return Ok(true);
        }
        if on.contains(On::OUT) {
            let unsent = std::mem::take(&mut self.unsent);
            self.send(&unsent)?;
            return Ok(true);
        }
        match now(self.stream.read(buffer))? {
            None => Ok(true),
            Some(0) => Ok(false),
            Some(count) => self.take(&buffer[..count]).map(|()| true),
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        match self.service {
            Service::Echo => self.send(bytes),
            Service::Sink => {
                self.partial += bytes.len() as u64;
                let blocks = self.partial / SINK_BLOCK_BYTES;
                self.partial %= SINK_BLOCK_BYTES;
                self.send(&vec![1; usize::try_from(blocks).expect("few")])
            }
            Service::Http if self.is_websocket => {
                let frame = http::websocket_request().len() as u64;
                self.partial += bytes.len() as u64;
                while self.partial >= frame {
                    self.partial -= frame;
                    self.send(http::websocket_response())?;
                }
                Ok(())
            }
            Service::Http => {
                while !bytes.is_empty() {
                    let (taken, is_whole) = self.request.take(bytes)?;
                    bytes = &bytes[taken..];
                    if is_whole {
                        self.is_websocket = self.request.is_upgrade();
                        self.pieces = self.request.pieces();
                        self.send(&http::response(&self.request))?;
                    }
                }
                Ok(())
            }
            Service::Source => Ok(()),
        }
    }

    /// Sends what goes at once, and keeps the rest.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if self.unsent.is_empty() && !bytes.is_empty() {
            sent = now(self.stream.write(bytes))?.unwrap_or(0);
        }
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }
}
