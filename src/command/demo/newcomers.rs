//! New connections, one after the other, to see what they meet.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::application::GREETING;
use super::event::{Event, Tell};

/// Between two newcomers.
const NEWCOMER_INTERVAL: Duration = Duration::from_millis(500);

/// A handshake on this machine takes microseconds; after this long it is being held back.
const HANDSHAKE_PERIOD: Duration = Duration::from_millis(250);

/// The kernel asks again after one second and after three.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// For an answer to a request that was sent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a new connection met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// Its request was answered, whole and right.
    Served,
    /// Nothing yet: its handshake is not answered.
    Silence,
    /// The kernel said that nobody listens.
    Refused,
    /// No handshake, in all its time.
    NoHandshake,
    /// It was let in and then had no right answer: the very thing that must not happen.
    Lost(String),
}

/// Comes again and again, and tells what it met.
pub async fn keep_coming(addr: SocketAddr, tell: Tell) {
    let mut clock = interval(NEWCOMER_INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let met = come(addr, &tell).await;
        if tell.send(Event::Newcomer(met)).is_err() {
            return;
        }
    }
}

async fn come(addr: SocketAddr, tell: &Tell) -> Met {
    let mut connecting = std::pin::pin!(TcpStream::connect(addr));
    let connected = match timeout(HANDSHAKE_PERIOD, &mut connecting).await {
        Ok(connected) => Ok(connected),
        Err(_) => {
            // The demo is over when nobody listens any more.
            let _ = tell.send(Event::Newcomer(Met::Silence));
            timeout(HANDSHAKE_TIMEOUT, connecting).await
        }
    };
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Met::Refused,
        Ok(Err(error)) => return Met::Lost(error.to_string()),
        Err(_) => return Met::NoHandshake,
    };
    let greeted = async {
        let response = get(stream, "/").await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>(status == StatusCode::OK && body == GREETING)
    };
    match timeout(ANSWER_TIMEOUT, greeted).await {
        Ok(Ok(true)) => Met::Served,
        Ok(Ok(false)) => Met::Lost("another answer than the application's".to_owned()),
        Ok(Err(error)) => Met::Lost(error.to_string()),
        Err(_) => Met::Lost(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    }
}

/// Sends one request on a connection of its own, which ends with the answer's body.
pub async fn get(stream: TcpStream, path: &str) -> Result<Response<Incoming>, hyper::Error> {
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a client's connection broke");
        }
    });
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.parse().unwrap_or_default();
    let host = hyper::header::HeaderValue::from_static("demo");
    request.headers_mut().insert(hyper::header::HOST, host);
    requests.send_request(request).await
}
