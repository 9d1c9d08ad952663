//! The clients of the field, each of which counts what it lost.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Form;
use super::application::{PARTS, next_head};
use crate::support::h2::{Client, may_be_sent_again, runtime};
use crate::support::peers::Peer;

/// A tenth more than are asked for.
const NEWCOMERS_PER_SECOND: f64 = 1_100.0;

/// What became of one kind of client.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests or messages that were answered.
    pub done: AtomicU64,
    /// Those that were not, with what happened.
    pub lost: Mutex<Vec<String>>,
    /// Clients that came to their end as they should.
    pub ended: AtomicU64,
    /// Connections refused, and requests that may be sent again.
    pub refused: AtomicU64,
    /// Connections closed between two requests although no answer had said so: a client that does not
    /// look before it asks loses its next request there.
    pub untold: AtomicU64,
}

impl Tally {
    /// A connection that was not made: lost, if that was not the kernel's refusal.
    fn refuse(&self, error: io::Error) {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => _ = self.refused.fetch_add(1, Relaxed),
            _ => self.lose(error),
        }
    }

    fn lose(&self, what: impl std::fmt::Debug) {
        self.lost.lock().expect("the losses").push(format!("{what:?}"));
    }
}

/// What all clients of one drain share.
#[derive(Default)]
pub struct Field {
    pub form: Form,
    pub newcomers: Tally,
    pub keep_alive: Tally,
    pub long: Tally,
    pub websockets: Tally,
    pub streams: Tally,
    pub idle: Tally,
    pub http2: Tally,
    pub grpc: Tally,
    /// Clients that are at work.
    pub at_work: AtomicU64,
    /// When the drain began.
    pub began: Mutex<Option<SystemTime>>,
    /// How long after that the last idle connection was closed.
    pub idle_closed: Mutex<Duration>,
    /// When the last connection ended.
    pub last_end: Mutex<Option<SystemTime>>,
    /// How many new connections were begun in each second, until one was refused.
    pub newcomers_per_second: Mutex<f64>,
    /// The longest that bytes of a stream took to come back, in milliseconds: how busy the machine
    /// is. Counted once the drain has begun.
    pub slowest: AtomicU64,
    over: AtomicBool,
}

impl Field {
    fn at_work(&self) {
        self.at_work.fetch_add(1, Relaxed);
    }

    fn connection_ended(&self) {
        *self.last_end.lock().expect("a time") = Some(SystemTime::now());
    }

    fn since_the_beginning(&self) -> Option<Duration> {
        let began = *self.began.lock().expect("a time");
        began.map(|began| began.elapsed().unwrap_or_default())
    }
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One answer: whether it was the connection's last.
async fn exchange(stream: &mut TcpStream, path: &str, body: &str) -> io::Result<bool> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: field\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::new();
    let head = next_head(stream, &mut read).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let mut rest = vec![0; body.len() - read.len()];
    stream.read_exact(&mut rest).await?;
    read.extend(rest);
    assert_eq!(read, body.as_bytes());
    Ok(head.to_ascii_lowercase().contains("\r\nconnection: close\r\n"))
}

/// Whether the server has closed its side while nothing was asked of it.
async fn was_closed(stream: &TcpStream, wait: Duration) -> bool {
    let mut byte = [0];
    tokio::time::timeout(wait, stream.peek(&mut byte))
        .await
        .is_ok_and(|read| !matches!(read, Ok(1..)))
}

/// (a) New connections, one request on each, until all are refused. On a thread of its own, so that
/// the work of the other clients does not thin them out.
pub fn newcomers(field: Arc<Field>, addr: SocketAddr) -> JoinHandle<()> {
    std::thread::spawn(move || runtime().block_on(come(&field, addr)))
}

async fn come(field: &Arc<Field>, addr: SocketAddr) {
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    let mut tasks = JoinSet::new();
    let mut begun = 0;
    let began = Instant::now();
    while !field.over.load(Relaxed) {
        ticks.tick().await;
        // What a busy moment has held up is made up for.
        let due = began.elapsed().as_secs_f64() * NEWCOMERS_PER_SECOND;
        while f64::from(begun) < due {
            begun += 1;
            tasks.spawn(newcomer(Arc::clone(field), addr));
        }
        while tasks.try_join_next().is_some() {}
    }
    let rate = f64::from(begun) / began.elapsed().as_secs_f64();
    *field.newcomers_per_second.lock().expect("a rate") = rate;
    tasks.join_all().await;
    field.newcomers.ended.fetch_add(1, Relaxed);
}

async fn newcomer(field: Arc<Field>, addr: SocketAddr) {
    let tally = &field.newcomers;
    let mut stream = match connect(addr).await {
        Ok(stream) => stream,
        Err(error) => {
            field.over.store(true, Relaxed);
            return tally.refuse(error);
        }
    };
    match exchange(&mut stream, "/", "ok").await {
        Ok(_) => tally.done.fetch_add(1, Relaxed),
        Err(error) => return tally.lose(error),
    };
    drop(stream);
    field.connection_ended();
}

/// (b) A request each 50 ms; told to close, it comes again until it is refused.
pub async fn keep_alive(field: Arc<Field>, addr: SocketAddr, path: &str) {
    let tally = &field.keep_alive;
    field.at_work();
    loop {
        let mut stream = match connect(addr).await {
            Ok(stream) => stream,
            Err(error) => {
                tally.refuse(error);
                break;
            }
        };
        loop {
            if was_closed(&stream, Duration::from_millis(50)).await {
                tally.untold.fetch_add(1, Relaxed);
                break;
            }
            match exchange(&mut stream, path, "ok").await {
                Ok(is_last) => {
                    tally.done.fetch_add(1, Relaxed);
                    if is_last {
                        break;
                    }
                }
                Err(error) => {
                    tally.lose(error);
                    break;
                }
            }
        }
        drop(stream);
        field.connection_ended();
    }
    tally.ended.fetch_add(1, Relaxed);
}

/// (c) One response that takes its time.
pub async fn long(field: Arc<Field>, addr: SocketAddr) {
    field.at_work();
    let body = format!("{}0\r\n\r\n", "5\r\npart \r\n".repeat(PARTS as usize));
    let path = format!("/long/{}", (field.form.response / PARTS).as_millis());
    let mut stream = connect(addr).await.expect("a connection");
    let ended = exchange(&mut stream, &path, &body).await;
    field.long.done.fetch_add(1, Relaxed);
    finish(&field, &field.long, ended.map(drop));
}

/// (d) Sends lines of its own and expects each byte back, then ends.
pub async fn stream(field: Arc<Field>, addr: SocketAddr, number: usize) {
    let tally = &field.streams;
    let lasts = async {
        let mut stream = connect(addr).await?;
        field.at_work();
        let until = Instant::now() + field.form.stay;
        for line in 0.. {
            if Instant::now() >= until {
                break;
            }
            let text = format!("\0stream {number}, line {line}: {}\n", "bytes ".repeat(30));
            let sent = Instant::now();
            stream.write_all(text.as_bytes()).await?;
            let mut back = vec![0; text.len()];
            stream.read_exact(&mut back).await?;
            let took = sent.elapsed();
            // The first echoes wait for the application to accept seven hundred connections.
            if field.since_the_beginning().is_some_and(|since| since > took) {
                let took = u64::try_from(took.as_millis()).expect("a short time");
                field.slowest.fetch_max(took, Relaxed);
            }
            if back != text.as_bytes() {
                return Err(io::Error::other("other bytes came back"));
            }
            tally.done.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stream.shutdown().await?;
        match stream.read(&mut [0]).await? {
            0 => Ok(()),
            _ => Err(io::Error::other("more than was sent came back")),
        }
    };
    finish(&field, tally, lasts.await);
}

/// (d) The same in WebSocket frames, up to the Close.
pub async fn websocket(field: Arc<Field>, addr: SocketAddr, number: usize) {
    let tally = &field.websockets;
    let lasts = async {
        let mut stream = connect(addr).await?;
        let request = "GET /socket HTTP/1.1\r\nHost: field\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut read = Vec::new();
        let head = next_head(&mut stream, &mut read).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        assert!(head.starts_with("HTTP/1.1 101 ") && read.is_empty(), "{head}");
        field.at_work();
        let until = Instant::now() + field.form.stay;
        for line in 0.. {
            let (opcode, text) = if Instant::now() < until {
                (0x81, format!("socket {number}, line {line}: {}", "bytes ".repeat(12)))
            } else {
                (0x88, String::new())
            };
            let length = u8::try_from(text.len()).expect("a short message");
            let mask = fastrand::u32(..).to_be_bytes();
            let mut frame = vec![opcode, 0x80 | length];
            frame.extend(mask);
            frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            stream.write_all(&frame).await?;
            let mut back = vec![0; 2 + text.len()];
            stream.read_exact(&mut back).await?;
            if back != [&[opcode, length], text.as_bytes()].concat() {
                return Err(io::Error::other("another frame came back"));
            }
            if opcode == 0x88 {
                break;
            }
            tally.done.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        match stream.read(&mut [0]).await? {
            0 => Ok(()),
            _ => Err(io::Error::other("more than a Close came")),
        }
    };
    finish(&field, tally, lasts.await);
}

fn finish(field: &Field, tally: &Tally, ended: io::Result<()>) {
    match ended {
        Ok(()) => _ = tally.ended.fetch_add(1, Relaxed),
        Err(error) => tally.lose(error),
    }
    field.connection_ended();
}

/// (e) One request, and then only the wish to stay.
pub async fn idle(field: Arc<Field>, addr: SocketAddr) {
    let tally = &field.idle;
    let mut stream = connect(addr).await.expect("a connection");
    if let Err(error) = exchange(&mut stream, "/", "ok").await {
        return tally.lose(error);
    }
    field.at_work();
    match stream.read(&mut [0]).await {
        Ok(0) => _ = tally.ended.fetch_add(1, Relaxed),
        other => tally.lose(other),
    }
    match field.since_the_beginning() {
        Some(after) => {
            let mut latest = field.idle_closed.lock().expect("a duration");
            *latest = after.max(*latest);
        }
        None => tally.lose("closed although no drain had begun"),
    }
    field.connection_ended();
}

/// (f) A stream that stays, and new ones beside it for as long as they are welcome.
pub async fn http2(field: Arc<Field>, addr: SocketAddr) {
    let tally = &field.http2;
    let client = Client::connect(addr).await.expect("a connection");
    let mut echo = client.echo().await.expect("a stream");
    field.at_work();
    let until = Instant::now() + field.form.stay;
    let newer = async {
        loop {
            match client.get("/new").await {
                Ok(body) => {
                    assert_eq!(body, "/new");
                    tally.done.fetch_add(1, Relaxed);
                }
                Err(error) if may_be_sent_again(&error) => {
                    tally.refused.fetch_add(1, Relaxed);
                    return;
                }
                Err(error) => return tally.lose(error),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let stays = async {
        for line in 0.. {
            if Instant::now() >= until {
                break;
            }
            echo.exchange(format!("line {line}: {}", "bytes ".repeat(30)).as_bytes()).await?;
            tally.done.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        echo.end().await
    };
    let ((), stayed) = tokio::join!(newer, stays);
    let ended = match stayed {
        Ok(()) => client.connection.await.expect("a task"),
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => _ = tally.ended.fetch_add(1, Relaxed),
        Err(error) => tally.lose(error),
    }
    field.connection_ended();
}

/// (g) grpcio's twenty streams and four callers, which are at work; the streams stay, and the
/// callers go on elsewhere.
pub async fn grpc(field: Arc<Field>, mut clients: Peer) {
    let tally = &field.grpc;
    field.at_work();
    tokio::time::sleep(field.form.stay).await;
    clients.say("that is enough");
    let report = tokio::task::spawn_blocking(move || clients.json()).await.expect("a report");
    field.connection_ended();
    let number = |name: &str| report[name].as_u64().expect("a number");
    tally.done.fetch_add(number("calls") + number("messages"), Relaxed);
    tally.ended.fetch_add(number("streamsEnded"), Relaxed);
    for failure in report["failures"].as_array().expect("a list") {
        tally.lose(failure);
    }
}
