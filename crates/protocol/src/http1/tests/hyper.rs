//! hyper as the oracle: it reads what the tracker sees, and must read as many requests with the
//! same bodies; and the tracker must find the ends of what hyper writes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::random::{Exchange, exchanges, pieces};
use super::tracker;
use crate::Class;
use crate::Direction::{FromClient, FromUpstream};
use crate::testing::Relay;

type Body = BoxBody<Bytes, Infallible>;

/// Answers the n-th request in the n-th way: with a length, with chunks and trailers, or without.
fn answer(number: usize) -> Response<Body> {
    let whole = |text: &'static str| Full::new(Bytes::from_static(text.as_bytes())).boxed();
    let chunks = || {
        let chunk = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
        let frames = [chunk("some"), chunk(""), chunk("chunks\r\n0\r\n\r\n")];
        Frames(frames.into_iter()).boxed()
    };
    let (status, body) = match number % 4 {
        0 => (200, whole("a body with HTTP/1.1 200 OK\r\n\r\n in it")),
        1 => (200, chunks()),
        2 => (204, whole("")),
        _ => (404, whole("")),
    };
    let response = Response::builder().status(status).body(body);
    response.expect("a status and a body make a response")
}

/// Frames that are all there already.
struct Frames(std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 3>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next())
    }
}

/// Lets hyper serve these bytes: the bodies that it read, and the bytes that it wrote.
async fn serve(requests: &[u8]) -> (Vec<usize>, Vec<u8>) {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let seen = Arc::clone(&bodies);
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let body = request.into_body().collect().await?.to_bytes();
            let mut seen = seen.lock().expect("nobody panics with the lock");
            seen.push(body.len());
            Ok::<_, hyper::Error>(answer(seen.len()))
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(server), service);
    let talking = async {
        client.write_all(requests).await.expect("the pipe is open");
        client.shutdown().await.expect("the pipe is open");
        let mut written = Vec::new();
        client.read_to_end(&mut written).await.expect("the pipe is open");
        written
    };
    let (served, written) = tokio::join!(serving, talking);
    served.expect("hyper reads what is valid");
    let bodies = bodies.lock().expect("nobody panics with the lock").clone();
    (bodies, written)
}

fn compare(exchanges: &[Exchange], cuts: &[u16]) -> Result<(), TestCaseError> {
    let requests: Vec<u8> = exchanges.iter().flat_map(|e| e.request.bytes.clone()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let served = runtime.expect("a runtime").block_on(serve(&requests));
    let (bodies, written) = served;
    let expected: Vec<usize> = exchanges.iter().map(|e| e.request.body_bytes).collect();
    prop_assert_eq!(&bodies, &expected);
    let mut relay = Relay::new(tracker(), false);
    for piece in pieces(&requests, cuts) {
        relay.read(FromClient, &piece);
    }
    prop_assert_eq!(relay.events().requests_begun as usize, bodies.len());
    prop_assert_eq!(relay.tracker.class(), Class::Http);
    for piece in pieces(&written, cuts) {
        relay.read(FromUpstream, &piece);
    }
    let ended: u32 = relay.events().responses_ended.iter().sum();
    prop_assert_eq!(ended as usize, bodies.len());
    prop_assert_eq!(relay.tracker.class(), Class::Idle);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hyper_sees_the_same_messages(
        exchanges in exchanges(),
        cuts in vec(any::<u16>(), 0..12),
    ) {
        compare(&exchanges, &cuts)?;
    }
}
