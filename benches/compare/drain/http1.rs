//! The clients of a drain that speak HTTP/1.1 and WebSocket.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};

use super::tcp::echo;
use super::{Counts, Course, MESSAGE_INTERVAL, PATIENCE, REQUEST_INTERVAL, count};
use crate::http;

pub(super) async fn newcomer(course: Course, counts: Arc<Counts>) {
    // Refused or unheard: it goes elsewhere, and nothing is lost.
    let Ok(Ok(mut stream)) = timeout(PATIENCE, TcpStream::connect(course.addr)).await else {
        return;
    };
    match ask(&mut stream, &http::small_request()).await {
        Ok(_) => count(&counts.answered),
        Err(error) => counts.lose(&counts.newcomers_lost, "new connections", &error),
    }
}

/// Asks again and again, until it is told not to, or sees that the connection has been closed.
pub(super) async fn kept(course: Course, counts: Arc<Counts>) {
    let Ok(mut stream) = TcpStream::connect(course.addr).await else { return };
    while Instant::now() < course.streams_end {
        match ask(&mut stream, &http::small_request()).await {
            Ok(is_last) => {
                count(&counts.answered);
                if is_last {
                    return;
                }
            }
            Err(error) => return counts.lose(&counts.requests_lost, "requests", &error),
        }
        sleep(REQUEST_INTERVAL).await;
        if !is_open(&stream) {
            return;
        }
    }
}

/// Asks once before the drain and once in it, unless it sees then that the connection has been closed.
pub(super) async fn idle(course: Course, counts: Arc<Counts>, number: u32) {
    let Ok(mut stream) = TcpStream::connect(course.addr).await else { return };
    for wakes in [Instant::now(), course.wakes(number)] {
        sleep_until(wakes.into()).await;
        if !is_open(&stream) {
            return;
        }
        match ask(&mut stream, &http::small_request()).await {
            Ok(false) => count(&counts.answered),
            Ok(true) => return count(&counts.answered),
            Err(error) => return counts.lose(&counts.requests_lost, "idle clients", &error),
        }
    }
}

/// Messages and their echoes, for as long as the course is.
pub(super) async fn websocket(course: Course, counts: Arc<Counts>) {
    let go = async {
        let mut stream = TcpStream::connect(course.addr).await?;
        ask(&mut stream, &http::upgrade_request()).await?;
        while Instant::now() < course.streams_end {
            echo(&mut stream, http::websocket_request(), http::websocket_response()).await?;
            sleep(MESSAGE_INTERVAL).await;
        }
        io::Result::Ok(())
    };
    if let Err(error) = go.await {
        counts.lose(&counts.streams_cut, "streams", &error);
    }
}

/// One response, in pieces that end behind the course.
pub(super) async fn long_response(course: Course, counts: Arc<Counts>) {
    let go = async {
        let mut stream = TcpStream::connect(course.addr).await?;
        ask(&mut stream, &http::long_request(course.pieces())).await
    };
    match go.await {
        Ok(_) => count(&counts.answered),
        Err(error) => counts.lose(&counts.streams_cut, "long responses", &error),
    }
}

fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0]).is_err_and(|it| it.kind() == io::ErrorKind::WouldBlock)
}

/// Waits for the whole answer, piece by piece; whether it says that it is the last one.
async fn ask(stream: &mut TcpStream, request: &[u8]) -> io::Result<bool> {
    stream.write_all(request).await?;
    let (mut answer, mut message) = (Vec::new(), http::Message::default());
    loop {
        let before = answer.len();
        if timeout(PATIENCE, stream.read_buf(&mut answer)).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if message.take(&answer[before..])?.1 {
            let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            return Ok(text.contains("\r\nconnection: close\r\n"));
        }
    }
}
