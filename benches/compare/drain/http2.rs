//! The clients of a drain that speak HTTP/2 with prior knowledge.
//!
//! A request that a GOAWAY without an error names as not processed, or that is refused (RFC 9113 §8.7), is
//! sent again elsewhere by its client, and not lost.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream};
use hyper::http::Request;
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};

use super::{Counts, Course, MESSAGE_INTERVAL, PATIENCE, REQUEST_INTERVAL, count};
use crate::http2::{LONG_FILE, SMALL_FILE};

/// What a long response brings at a time.
const PIECE_BYTES: u32 = 1000;

/// How a request ended that has no answer.
enum Without {
    /// Its client knows that it may ask elsewhere.
    Told,
    Lost(String),
}

impl From<h2::Error> for Without {
    fn from(error: h2::Error) -> Self {
        let is_told = match error.reason() {
            Some(Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
            Some(Reason::REFUSED_STREAM) => error.is_reset() && error.is_remote(),
            _ => false,
        };
        if is_told { Without::Told } else { Without::Lost(error.to_string()) }
    }
}

pub(super) async fn newcomer(course: Course, counts: Arc<Counts>) {
    // Refused or unheard: it goes elsewhere, and nothing is lost.
    let Ok(Ok(stream)) = timeout(PATIENCE, TcpStream::connect(course.addr)).await else { return };
    let go = async {
        let mut ask = greet(stream).await?;
        small(&mut ask).await
    };
    match within(go).await {
        Ok(()) => count(&counts.answered),
        Err(Without::Told) => {}
        Err(Without::Lost(error)) => {
            counts.lose(&counts.newcomers_lost, "new connections", &error);
        }
    }
}

/// Asks again and again, until the connection says that it is over.
pub(super) async fn kept(course: Course, counts: Arc<Counts>) {
    let Ok(mut ask) = open(course).await else { return };
    while Instant::now() < course.streams_end && is_open(&mut ask).await {
        match within(small(&mut ask)).await {
            Ok(()) => count(&counts.answered),
            Err(Without::Told) => return,
            Err(Without::Lost(error)) => {
                return counts.lose(&counts.requests_lost, "requests", &error);
            }
        }
        sleep(REQUEST_INTERVAL).await;
    }
}

/// Asks once before the drain and once in it, unless the connection has said that it is over.
pub(super) async fn idle(course: Course, counts: Arc<Counts>, number: u32) {
    let Ok(mut ask) = open(course).await else { return };
    for wakes in [Instant::now(), course.wakes(number)] {
        sleep_until(wakes.into()).await;
        if !is_open(&mut ask).await {
            return;
        }
        match within(small(&mut ask)).await {
            Ok(()) => count(&counts.answered),
            Err(Without::Told) => return,
            Err(Without::Lost(error)) => {
                return counts.lose(&counts.requests_lost, "idle clients", &error);
            }
        }
    }
}

/// A request whose body goes on for as long as the course is, and its response.
pub(super) async fn stream(course: Course, counts: Arc<Counts>) {
    let go = async {
        let mut ask = open(course).await?.ready().await?;
        let (response, mut body) = ask.send_request(request("POST", SMALL_FILE), false)?;
        while Instant::now() < course.streams_end {
            body.send_data(Bytes::from_static(b"a piece"), false)?;
            sleep(MESSAGE_INTERVAL).await;
        }
        body.send_data(Bytes::new(), true)?;
        within(async { whole(response.await?.into_body()).await }).await
    };
    settle(&counts, "streams", go.await);
}

/// A response that its client lets come in small pieces, the last of them behind the course.
pub(super) async fn long_response(course: Course, counts: Arc<Counts>) {
    let go = async {
        let mut ask = open(course).await?.ready().await?;
        let (response, _) = ask.send_request(request("GET", LONG_FILE), true)?;
        let mut body = within(async { Ok(response.await?.into_body()) }).await?;
        while Instant::now() < course.streams_end {
            let piece = within(async { body.data().await.transpose().map_err(Into::into) }).await?;
            let Some(piece) = piece else {
                return Err(Without::Lost("ended before its time".to_owned()));
            };
            body.flow_control().release_capacity(piece.len())?;
            sleep(MESSAGE_INTERVAL).await;
        }
        whole(body).await
    };
    settle(&counts, "long responses", go.await);
}

/// What has begun is lost whatever the client was told.
fn settle(counts: &Counts, what: &str, ended: Result<(), Without>) {
    match ended {
        Ok(()) => count(&counts.answered),
        Err(Without::Told) => counts.lose(&counts.streams_cut, what, &"told to ask elsewhere"),
        Err(Without::Lost(error)) => counts.lose(&counts.streams_cut, what, &error),
    }
}

async fn within<T>(go: impl Future<Output = Result<T, Without>>) -> Result<T, Without> {
    let over = |_| Err(Without::Lost("timed out".to_owned()));
    timeout(PATIENCE, go).await.unwrap_or_else(over)
}

async fn open(course: Course) -> Result<SendRequest<Bytes>, Without> {
    let stream = TcpStream::connect(course.addr).await;
    greet(stream.map_err(|error| Without::Lost(error.to_string()))?).await
}

async fn greet(stream: TcpStream) -> Result<SendRequest<Bytes>, Without> {
    let mut builder = Builder::new();
    let (ask, connection) =
        builder.initial_window_size(PIECE_BYTES).handshake::<_, Bytes>(stream).await?;
    // Its end is told to each request.
    tokio::spawn(connection);
    Ok(ask)
}

/// Whether the connection takes another request, as far as its client knows.
async fn is_open(ask: &mut SendRequest<Bytes>) -> bool {
    std::future::poll_fn(|cx| ask.poll_ready(cx)).await.is_ok()
}

async fn small(ask: &mut SendRequest<Bytes>) -> Result<(), Without> {
    let (response, _) = ask.send_request(request("GET", SMALL_FILE), true)?;
    whole(response.await?.into_body()).await
}

/// The rest of a response.
async fn whole(mut body: RecvStream) -> Result<(), Without> {
    while let Some(piece) = within(async { Ok(body.data().await.transpose()?) }).await? {
        body.flow_control().release_capacity(piece.len())?;
    }
    Ok(())
}

fn request(method: &str, file: &str) -> Request<()> {
    let uri = format!("http://app.example/{file}");
    Request::builder().method(method).uri(uri).body(()).expect("a request")
}
