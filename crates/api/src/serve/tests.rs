use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use super::*;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn start(server: Server, router: Router) -> Running {
    server.bind(ANY).expect("a free port").serve(router.into_handler())
}

fn router() -> Router {
    Router::new()
        .get("/", |_| async { respond::text(StatusCode::OK, "home\n") })
        .get("/livez", |_| async { respond::text(StatusCode::OK, "ok\n") })
        .delete("/connections/{}", |request| async move {
            respond::json(StatusCode::OK, &segment(&request, 1))
        })
        .post("/echo", |request| async move {
            match read_body(request.into_body(), 8).await {
                Ok(body) => respond::text(StatusCode::OK, body),
                Err(error) => error.response(),
            }
        })
}

/// Sends `head` on a connection of its own and reads until the server closes it.
async fn ask(addr: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    let request = format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    answer
}

#[tokio::test]
async fn paths_and_methods_find_their_handler() {
    let server = start(Server::default(), router());
    let addr = server.local_addr();
    let answer = ask(addr, "GET /livez?verbose HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    let answer = ask(addr, "HEAD /livez HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-length: 3\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = ask(addr, "GET /nothing HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let answer = ask(addr, "POST /livez HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
}

#[tokio::test]
async fn a_path_with_a_segment_takes_exactly_one() {
    let server = start(Server::default(), router());
    let addr = server.local_addr();
    let answer = ask(addr, "DELETE /connections/17 HTTP/1.1").await;
    assert!(answer.ends_with("\r\n\r\n\"17\"\n"), "{answer}");
    for path in ["/connections/", "/connections", "/connections/1/2"] {
        let answer = ask(addr, &format!("DELETE {path} HTTP/1.1")).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    let answer = ask(addr, "GET /connections/17 HTTP/1.1").await;
    assert!(answer.contains("allow: DELETE\r\n"), "{answer}");
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_413() {
    let server = start(Server::default(), router());
    let addr = server.local_addr();
    for (body, status) in [("12345678", "200"), ("123456789", "413")] {
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        let request = format!(
            "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_408() {
    struct Never;
    impl hyper::body::Body for Never {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            std::task::Poll::Pending
        }
    }
    let error = read_body(Never, 8).await.expect_err("never whole");
    assert_eq!(error.response().status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(read_body(Full::from("12"), 8).await, Ok(Bytes::from("12")));
}

#[tokio::test]
async fn the_port_is_taken() {
    let server = Server::default();
    let bound = server.bind(ANY).expect("a free port");
    let error = server.bind(bound.local_addr()).expect_err("taken");
    assert!(matches!(error, Error::Taken { .. }));
    let text = error.to_string();
    assert!(text.contains(&bound.local_addr().to_string()), "{text}");
    assert!(text.contains("taken"), "{text}");
}

#[tokio::test]
async fn an_address_of_nobody_says_so() {
    let addr = "192.0.2.1:0".parse().expect("an address");
    let error = Server::default().bind(addr).expect_err("documentation net");
    assert!(matches!(error, Error::Absent { .. }), "{error}");
}

/// A router whose `/wait` tells `entered` of each request and answers when `leave` is told.
fn waiting() -> (Router, mpsc::UnboundedReceiver<()>, Arc<Notify>) {
    let (entered, entries) = mpsc::unbounded_channel();
    let leave = Arc::new(Notify::new());
    let told = Arc::clone(&leave);
    let router = Router::new().get("/wait", move |_| {
        let (entered, told) = (entered.clone(), Arc::clone(&told));
        async move {
            let _test_is_over = entered.send(());
            told.notified().await;
            respond::text(StatusCode::OK, "done\n")
        }
    });
    (router, entries, leave)
}

#[tokio::test]
async fn beyond_the_bound_a_connection_waits_for_another_to_end() {
    let (router, mut entries, leave) = waiting();
    let settings = Server { max_connections: 1, ..Server::default() };
    let server = start(settings, router);
    let addr = server.local_addr();
    let first = tokio::spawn(async move { ask(addr, "GET /wait HTTP/1.1").await });
    entries.recv().await.expect("the first request");
    // Its whole request is in the kernel's queue before the first one may go.
    let mut second = TcpStream::connect(addr).await.expect("connects");
    second
        .write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("writes");
    tokio::task::yield_now().await;
    assert!(entries.try_recv().is_err(), "one place, one connection");
    leave.notify_one();
    assert!(first.await.expect("no panic").ends_with("done\n"));
    entries.recv().await.expect("the second request");
    leave.notify_one();
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.ends_with("done\n"), "{answer}");
}

#[tokio::test]
async fn stopping_closes_the_port_and_lets_answers_out() {
    let (router, mut entries, leave) = waiting();
    let server = start(Server::default(), router);
    let addr = server.local_addr();
    let waiter = tokio::spawn(async move { ask(addr, "GET /wait HTTP/1.1").await });
    entries.recv().await.expect("the request");
    let stopping = tokio::spawn(server.stop(Duration::from_secs(60)));
    // The port closes while the answer is still owed.
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    leave.notify_one();
    assert!(waiter.await.expect("no panic").ends_with("done\n"));
    stopping.await.expect("no panic");
}

#[tokio::test]
async fn a_silent_connection_loses_its_place() {
    let settings = Server {
        // Time enough for the second client, which speaks at once.
        head_timeout: Duration::from_millis(200),
        max_connections: 1,
        ..Server::default()
    };
    let server = start(settings, router());
    let mut silent = TcpStream::connect(server.local_addr()).await.expect("connects");
    let mut rest = Vec::new();
    let _reset_or_end = silent.read_to_end(&mut rest).await;
    let answer = ask(server.local_addr(), "GET / HTTP/1.1").await;
    assert!(answer.ends_with("home\n"), "{answer}");
}
