//! One application that speaks what its clients do: HTTP/1, WebSocket, HTTP/2, or bytes that come back.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::h2::{Application, runtime};

/// Parts of the long response, between which its path says how many milliseconds pass.
pub const PARTS: u32 = 50;

/// Serves on a thread of its own for as long as the test process runs.
pub fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.set_nonblocking(true).expect("non-blocking");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::from_std(listener).expect("a listener");
            let http2 = Application::default();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let http2 = http2.clone();
                // A client that goes is no fault of the application; the clients count what is lost.
                tokio::spawn(async move { serve(stream, http2).await.ok() });
            }
        });
    });
    addr
}

async fn serve(mut stream: TcpStream, http2: Application) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; 4];
    loop {
        match stream.peek(&mut first).await? {
            // It has said nothing, and never will.
            0 => return Ok(()),
            4.. => break,
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    match &first {
        b"PRI " => http2.serve(stream).await,
        b"GET " => return serve_http1(stream).await,
        _ => {
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await?;
        }
    }
    Ok(())
}

async fn serve_http1(mut stream: TcpStream) -> io::Result<()> {
    let mut read = Vec::new();
    while let Some(head) = next_head(&mut stream, &mut read).await? {
        if head.starts_with("GET /socket ") {
            let upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
            stream.write_all(upgrade.as_bytes()).await?;
            return serve_websocket(stream, read).await;
        }
        if let Some(path) = head.strip_prefix("GET /long/") {
            let (pause, _) = path.split_once(' ').expect("a request line");
            let pause = Duration::from_millis(pause.parse().expect("milliseconds"));
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            for _ in 0..PARTS {
                stream.write_all(b"5\r\npart \r\n").await?;
                tokio::time::sleep(pause).await;
            }
            stream.write_all(b"0\r\n\r\n").await?;
        } else {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
        }
    }
    Ok(())
}

/// The next head, as far as its empty line; nothing when the client has ended.
pub async fn next_head(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            let head = std::mem::replace(read, rest);
            return Ok(Some(String::from_utf8(head).expect("text")));
        }
        if stream.read_buf(read).await? == 0 {
            return if read.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
}

/// Sends the payload of each frame back; they are short. A Close ends it.
async fn serve_websocket(mut stream: TcpStream, mut read: Vec<u8>) -> io::Result<()> {
    loop {
        let length = read.get(1).map_or(0, |length| usize::from(length & 0x7f));
        if read.len() < 6 + length {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
            continue;
        }
        let rest = read.split_off(6 + length);
        let frame = std::mem::replace(&mut read, rest);
        let mask: Vec<u8> = frame[2..6].to_vec();
        let payload = frame[6..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let mut back = vec![frame[0], frame[1] & 0x7f];
        back.extend(payload);
        stream.write_all(&back).await?;
        if frame[0] == 0x88 {
            return stream.shutdown().await;
        }
    }
}
