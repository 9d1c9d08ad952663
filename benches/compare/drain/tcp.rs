//! The clients of a drain that speak TCP alone: what they send comes back.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Counts, Course, PATIENCE, count};
use crate::http;

pub(super) async fn newcomer(course: Course, counts: Arc<Counts>) {
    // Refused or unheard: it goes elsewhere, and nothing is lost.
    let Ok(Ok(mut stream)) = timeout(PATIENCE, TcpStream::connect(course.addr)).await else {
        return;
    };
    match echo(&mut stream, b"?", b"?").await {
        Ok(()) => count(&counts.answered),
        Err(error) => counts.lose(&counts.newcomers_lost, "new connections", &error),
    }
}

/// A message and its echo, at the beginning, at such intervals, and at the end of the course.
pub(super) async fn stream(course: Course, counts: Arc<Counts>, interval: Duration) {
    let message = http::websocket_request();
    let go = async {
        let mut stream = TcpStream::connect(course.addr).await?;
        while Instant::now() < course.streams_end {
            echo(&mut stream, message, message).await?;
            sleep(interval.min(course.streams_end.saturating_duration_since(Instant::now()))).await;
        }
        echo(&mut stream, message, message).await
    };
    if let Err(error) = go.await {
        counts.lose(&counts.streams_cut, "streams", &error);
    }
}

/// Sends, and waits for what is to come back.
pub(super) async fn echo(
    stream: &mut TcpStream,
    request: &[u8],
    response: &[u8],
) -> io::Result<()> {
    let exchange = async {
        stream.write_all(request).await?;
        let mut answer = vec![0; response.len()];
        stream.read_exact(&mut answer).await?;
        if answer == response { Ok(()) } else { Err(io::Error::other("another answer")) }
    };
    timeout(PATIENCE, exchange).await?
}
