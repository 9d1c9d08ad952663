//! The clients of the soak: each visits again and again, and tells what it lost.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::field::application::next_head;
use crate::support::PATIENCE;
use crate::support::application::random_bytes;
use crate::support::h2::{Client, may_be_sent_again, runtime};

/// What a visit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    KeepAlive,
    /// One response that takes a second.
    Long,
    WebSocket,
    Tcp,
    Http2,
    /// Reads more slowly than it is sent to.
    SlowReader,
    /// A request, then FIN, then the answer.
    HalfClose,
    /// Resets its connection somewhere.
    Abort,
    /// Says nothing at all.
    Silent,
}

pub const KINDS: [Kind; 9] = [
    Kind::KeepAlive,
    Kind::Long,
    Kind::WebSocket,
    Kind::Tcp,
    Kind::Http2,
    Kind::SlowReader,
    Kind::HalfClose,
    Kind::Abort,
    Kind::Silent,
];

/// Of each kind.
const CLIENTS: usize = 6;
/// Between two requests or messages.
const PAUSE: Duration = Duration::from_millis(25);
const ROUNDS: usize = 30;
/// What a slow reader is sent.
const SLOW_BYTES: usize = 1_000_000;

/// What all clients share.
#[derive(Default)]
pub struct Clients {
    stop: AtomicBool,
    done: [AtomicU64; KINDS.len()],
    lost: Mutex<Vec<String>>,
}

impl Clients {
    /// All of them, on a thread of their own, until they are told to stop.
    pub fn start(self: &Arc<Self>, addr: SocketAddr) -> JoinHandle<()> {
        let clients = Arc::clone(self);
        std::thread::spawn(move || {
            runtime().block_on(async {
                let mut tasks = JoinSet::new();
                for index in 0..KINDS.len() * CLIENTS {
                    tasks.spawn(Arc::clone(&clients).keep_visiting(index % KINDS.len(), addr));
                }
                tasks.join_all().await;
            });
        })
    }

    /// Each finishes its visit, and comes no more.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    pub fn lost(&self) -> Vec<String> {
        self.lost.lock().expect("the losses").clone()
    }

    /// Visits that came to a good end, of each kind.
    pub fn done(&self) -> [u64; KINDS.len()] {
        std::array::from_fn(|index| self.done[index].load(Relaxed))
    }

    async fn keep_visiting(self: Arc<Self>, index: usize, addr: SocketAddr) {
        let kind = KINDS[index];
        while !self.stop.load(Relaxed) {
            tokio::time::sleep(PAUSE).await;
            let visit = tokio::time::timeout(PATIENCE, visit(kind, addr)).await;
            let visit = visit.unwrap_or_else(|_| Err(io::Error::other("the visit never ends")));
            match visit {
                Ok(()) => _ = self.done[index].fetch_add(1, Relaxed),
                // A drain: it would go elsewhere.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => {
                    self.lost.lock().expect("the losses").push(format!("{kind:?}: {error:?}"));
                }
            }
        }
    }
}

async fn visit(kind: Kind, addr: SocketAddr) -> io::Result<()> {
    if kind == Kind::Http2 {
        return http2(addr).await;
    }
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    match kind {
        Kind::KeepAlive => keep_alive(stream).await,
        Kind::Long => long(stream).await,
        Kind::WebSocket => websocket(stream).await,
        Kind::Tcp => tcp(stream).await,
        Kind::SlowReader => slow_reader(stream).await,
        Kind::HalfClose => half_close(stream).await,
        Kind::Abort => abort(stream).await,
        Kind::Silent | Kind::Http2 => {
            tokio::time::sleep(PAUSE).await;
            stream.shutdown().await
        }
    }
}

/// The head of an answer to a request.
async fn ask(stream: &mut TcpStream, path: &str, read: &mut Vec<u8>) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: soak\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let head = next_head(stream, read).await?;
    let head = head.ok_or_else(|| io::Error::other("the end instead of an answer"))?;
    if head.starts_with("HTTP/1.1 200 OK\r\n") { Ok(head) } else { Err(io::Error::other(head)) }
}

async fn keep_alive(mut stream: TcpStream) -> io::Result<()> {
    for _ in 0..ROUNDS {
        // Closed while nothing was asked: nothing is lost.
        if tokio::time::timeout(PAUSE, stream.peek(&mut [0])).await.is_ok() {
            return Ok(());
        }
        let mut read = Vec::new();
        let head = ask(&mut stream, "/", &mut read).await?;
        while read.len() < 2 {
            if stream.read_buf(&mut read).await? == 0 {
                return Err(io::Error::other("the body is cut"));
            }
        }
        if head.to_ascii_lowercase().contains("\r\nconnection: close\r\n") {
            return Ok(());
        }
    }
    Ok(())
}

async fn long(mut stream: TcpStream) -> io::Result<()> {
    let mut read = Vec::new();
    ask(&mut stream, "/long/20", &mut read).await?;
    while !read.ends_with(b"\r\n0\r\n\r\n") {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::Error::other("the long body is cut"));
        }
    }
    Ok(())
}

async fn websocket(mut stream: TcpStream) -> io::Result<()> {
    let request =
        "GET /socket HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let head = next_head(&mut stream, &mut Vec::new()).await?.unwrap_or_default();
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(io::Error::other(head));
    }
    for round in 0..=ROUNDS {
        let opcode = if round < ROUNDS { 0x81 } else { 0x88 };
        let text = if round < ROUNDS { "bytes ".repeat(10) } else { String::new() };
        let length = u8::try_from(text.len()).expect("a short message");
        let mask = fastrand::u32(..).to_be_bytes();
        let mut frame = vec![opcode, 0x80 | length];
        frame.extend(mask);
        frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        stream.write_all(&frame).await?;
        let mut back = vec![0; 2 + text.len()];
        stream.read_exact(&mut back).await?;
        if back != [&[opcode, length], text.as_bytes()].concat() {
            return Err(io::Error::other("another frame"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    ended(stream).await
}

async fn tcp(mut stream: TcpStream) -> io::Result<()> {
    for round in 0..ROUNDS {
        let text = format!("\0{round} {}", "bytes ".repeat(30));
        stream.write_all(text.as_bytes()).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await?;
        if back != text.as_bytes() {
            return Err(io::Error::other("other bytes"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    stream.shutdown().await?;
    ended(stream).await
}

async fn ended(mut stream: TcpStream) -> io::Result<()> {
    match stream.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("more bytes than were sent")),
    }
}

async fn slow_reader(stream: TcpStream) -> io::Result<()> {
    let mut bytes = random_bytes(fastrand::u64(..), SLOW_BYTES);
    bytes[..4].fill(0);
    let (mut reader, mut writer) = stream.into_split();
    let sent = bytes.clone();
    let write = async move {
        writer.write_all(&sent).await?;
        writer.shutdown().await?;
        Ok::<_, io::Error>(writer)
    };
    let read = async move {
        let mut back = Vec::new();
        let mut part = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut part).await? {
                0 => return Ok::<_, io::Error>(back),
                read => back.extend_from_slice(&part[..read]),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let (_writer, back) = tokio::try_join!(write, read)?;
    if back == bytes { Ok(()) } else { Err(io::Error::other("bytes are missing or other ones")) }
}

async fn half_close(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: soak\r\n\r\n").await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let is_whole = answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"\r\n\r\nok");
    if is_whole { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&answer))) }
}

/// It resets at any point: what comes of it is nobody's loss.
async fn abort(mut stream: TcpStream) -> io::Result<()> {
    const BEGUN: [&[u8]; 6] = [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: soak\r\n\r\n",
        b"GET /long/20 HTTP/1.1\r\nHost: soak\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"\0some bytes that come back",
    ];
    let begun = BEGUN[fastrand::usize(..BEGUN.len())];
    let _sent = stream.write_all(begun).await;
    let wait = Duration::from_millis(fastrand::u64(..60));
    let _heard = tokio::time::timeout(wait, stream.read(&mut [0; 256])).await;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

async fn http2(addr: SocketAddr) -> io::Result<()> {
    let client = Client::connect(addr).await?;
    let asked = http2_requests(&client).await;
    let Client { requests, connection } = client;
    drop(requests);
    match asked {
        Err(error) if !may_be_sent_again(&error) => return Err(io::Error::other(error)),
        // Told to go elsewhere, or done.
        _ => {}
    }
    connection.await.map_err(io::Error::other)?.map_err(io::Error::other)
}

async fn http2_requests(client: &Client) -> Result<(), h2::Error> {
    let mut echo = client.echo().await?;
    for round in 0..ROUNDS {
        echo.exchange(format!("{round} {}", "bytes ".repeat(30)).as_bytes()).await?;
        match client.get("/new").await {
            Err(error) if may_be_sent_again(&error) => break,
            other => _ = other?,
        }
        tokio::time::sleep(PAUSE).await;
    }
    echo.end().await
}
