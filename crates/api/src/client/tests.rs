use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::serve::{Router, Running, Server, read_body, respond, segment};

fn server(router: Router) -> (Running, Client) {
    let running = Server::default()
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a free port")
        .serve(router.into_handler());
    let client = client_of(running.local_addr());
    (running, client)
}

fn client_of(addr: std::net::SocketAddr) -> Client {
    let base = format!("http://{addr}/ignored").parse().expect("a URL");
    Client::new(&base, None).expect("http needs nothing")
}

/// A server that says `answer` once, whatever it is asked, and then keeps the connection open or not.
async fn blunt(answer: &'static [u8]) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it has one");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let mut request = [0; 1024];
        let _read = stream.read(&mut request).await;
        stream.write_all(answer).await.expect("writes");
    });
    client_of(addr)
}

#[tokio::test]
async fn requests_arrive_as_they_were_meant() {
    let router = Router::new()
        .post("/v1/reports", |request| async move {
            let agent = request.headers()[USER_AGENT].clone();
            let kind = request.headers()[CONTENT_TYPE].clone();
            let bearer = request.headers()[AUTHORIZATION].clone();
            let body = read_body(request.into_body(), 1024).await.expect("small");
            let text = format!("{agent:?} {kind:?} {} {body:?}", bearer.to_str().expect("ASCII"));
            respond::json(StatusCode::ACCEPTED, &text)
        })
        .delete("/connections/{}", |request| async move {
            respond::json(StatusCode::OK, &segment(&request, 1))
        });
    let (_running, client) = server(router);
    let call =
        Call::post("/v1/reports").json(&[1, 2]).expect("numbers").bearer(Bearer::new("secret"));
    assert!(!format!("{call:?}").contains("secret"), "tokens are not shown");
    let reply = client.send(call).await.expect("an answer");
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let text: String = reply.json().expect("a string");
    assert_eq!(text, format!("\"{AGENT}\" \"application/json\" Bearer secret b\"[1,2]\""));
    let reply = client.send(Call::delete("/connections/7")).await.expect("an answer");
    assert_eq!(reply.excerpt(), "\"7\"");
    let reply = client.send(Call::get("/absent")).await.expect("an answer");
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nobody_there_is_told_from_the_rest() {
    // Bound and not listening: the port is ours and refuses.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let client = client_of(socket.local_addr().expect("it has one"));
    let error = client.send(Call::get("/")).await.expect_err("refused");
    assert!(error.is_nobody_there(), "{error:?}");

    let error = blunt(b"SSH-2.0-OpenSSH\r\n").await.send(Call::get("/")).await;
    assert!(matches!(error, Err(Error::NotHttp { .. })), "{error:?}");
    let error = blunt(b"").await.send(Call::get("/")).await;
    assert!(matches!(error, Err(Error::Broken { .. })), "{error:?}");
    let error = blunt(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12").await;
    let error = error.send(Call::get("/")).await;
    assert!(matches!(error, Err(Error::Broken { .. })), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_like_others() {
    let redirect = b"HTTP/1.1 307 x\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n";
    let reply = blunt(redirect).await.send(Call::get("/")).await.expect("an answer");
    assert_eq!(reply.status, StatusCode::TEMPORARY_REDIRECT);
}

#[tokio::test]
async fn an_answer_is_bounded_in_time_and_length() {
    let router = Router::new()
        .get("/never", |_| std::future::pending())
        .get("/long", |_| async { respond::text(StatusCode::OK, vec![b'x'; 100]) });
    let (_running, client) = server(router);
    let call = Call::get("/never").timeout(Duration::from_millis(10));
    let error = client.send(call).await;
    assert!(matches!(error, Err(Error::Timeout { .. })), "{error:?}");
    let error = client.send(Call::get("/long").max_bytes(99)).await;
    assert!(
        matches!(error, Err(Error::TooLarge { status: StatusCode::OK, max_bytes: 99 })),
        "{error:?}"
    );
    let reply = client.send(Call::get("/long").max_bytes(100)).await.expect("fits");
    assert_eq!(reply.body.len(), 100);
}

#[test]
fn a_base_that_is_none_says_what_to_write() {
    for url in ["/path", "ftp://host", "host:80", "http://me:secret@host"] {
        let base = url.parse().expect("some URI");
        let error = Client::new(&base, None).expect_err("no base").to_string();
        assert!(error.contains("write http://"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_ca_that_is_none_says_so() {
    let base: Uri = "https://host".parse().expect("a URL");
    let error = Client::new(&base, Some(&PathBuf::from("/nonexistent/ca.pem")));
    assert!(matches!(error, Err(Error::Ca { .. })), "{error:?}");
    let manifest = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let error = Client::new(&base, Some(&manifest));
    assert!(matches!(error, Err(Error::EmptyCa { .. })), "{error:?}");
}

#[test]
fn a_token_that_no_header_can_carry_is_none() {
    assert!(Bearer::new("abc.def-_~+/=").is_some());
    assert!(Bearer::new("").is_none());
    assert!(Bearer::new("two\nlines").is_none());
}
