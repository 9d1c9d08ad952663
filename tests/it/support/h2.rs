//! Real HTTP/2 peers: the `h2` crate on both sides, and nghttp2's programs.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use hyper::{HeaderMap, Method, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use super::PATIENCE;

/// What answers: `/hold` waits for leave, `/echo` sends back what comes, and anything else is
/// answered with its own path, and a trailer.
#[derive(Clone)]
pub struct Application {
    gate: Arc<Semaphore>,
    leave: Arc<Notify>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Default for Application {
    fn default() -> Self {
        Application {
            gate: Arc::new(Semaphore::new(0)),
            leave: Arc::default(),
            seen: Arc::default(),
        }
    }
}

/// An application on a thread of its own.
pub struct Server {
    pub addr: SocketAddr,
    application: Application,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        listener.set_nonblocking(true).expect("non-blocking");
        let addr = listener.local_addr().expect("an address");
        let application = Application::default();
        let serving = application.clone();
        std::thread::spawn(move || {
            runtime().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                loop {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    let serving = serving.clone();
                    tokio::spawn(async move { serving.serve(stream).await });
                }
            });
        });
        Server { addr, application }
    }

    /// Leave for so many held requests to be answered.
    pub fn release(&self, held: usize) {
        self.application.gate.add_permits(held);
    }

    /// Every connection sends a GOAWAY of the server's own.
    pub fn leave(&self) {
        self.application.leave.notify_waiters();
    }

    /// The paths of the requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.application.seen.lock().expect("the paths").clone()
    }

    /// Waits until so many requests have come.
    pub fn until_seen(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.seen().len() < count {
            assert!(Instant::now() < deadline, "only {:?} came", self.seen());
            std::thread::yield_now();
        }
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

impl Application {
    /// Serves one connection to its end.
    pub async fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).expect("no delay");
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        loop {
            tokio::select! {
                request = connection.accept() => {
                    let Some(Ok((request, respond))) = request else { return };
                    self.seen.lock().expect("the paths").push(request.uri().path().to_owned());
                    let gate = Arc::clone(&self.gate);
                    // A client that resets its stream ends the answer.
                    tokio::spawn(async move { answer(request, respond, &gate).await.ok() });
                }
                () = self.leave.notified() => connection.graceful_shutdown(),
            }
        }
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    gate: &Semaphore,
) -> Result<(), h2::Error> {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    if path == "/echo" {
        let mut stream = respond.send_response(Response::new(()), false)?;
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            stream.send_data(part, false)?;
        }
        return stream.send_data(Bytes::new(), true);
    }
    while let Some(part) = body.data().await {
        body.flow_control().release_capacity(part?.len())?;
    }
    if path == "/hold" {
        gate.acquire().await.expect("never closed").forget();
    }
    let mut stream = respond.send_response(Response::new(()), false)?;
    stream.send_data(Bytes::from(path), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("after", "all".parse().expect("a value"));
    stream.send_trailers(trailers)
}

/// A client's connection; its task ends when the connection has.
pub struct Client {
    pub requests: SendRequest<Bytes>,
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) =
            h2::client::handshake(stream).await.map_err(io::Error::other)?;
        Ok(Client { requests, connection: tokio::spawn(connection) })
    }

    /// Begins a GET, when the connection takes one.
    pub async fn begin(&self, path: &str) -> Result<h2::client::ResponseFuture, h2::Error> {
        let (response, _) = self.requests.clone().ready().await?.send_request(get(path), true)?;
        Ok(response)
    }

    /// One whole GET.
    pub async fn get(&self, path: &str) -> Result<Bytes, h2::Error> {
        whole(self.begin(path).await?).await
    }

    /// A stream that is open in both directions.
    pub async fn echo(&self) -> Result<Echo, h2::Error> {
        let mut request = get("/echo");
        *request.method_mut() = Method::POST;
        let (response, send) = self.requests.clone().ready().await?.send_request(request, false)?;
        Ok(Echo { send, receive: response.await?.into_body() })
    }
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://test{path}")).body(()).expect("a request")
}

/// A response's whole body; its trailers have come.
pub async fn whole(response: h2::client::ResponseFuture) -> Result<Bytes, h2::Error> {
    let mut body = response.await?.into_body();
    let mut whole = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        whole.extend_from_slice(&part);
    }
    let trailers = body.trailers().await?;
    assert_eq!(trailers.expect("trailers")["after"], "all");
    Ok(whole.into())
}

/// A refusal after which a client may send its request again, whatever it was.
pub fn may_be_sent_again(error: &h2::Error) -> bool {
    let left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (left || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// A stream whose bytes come back.
pub struct Echo {
    send: h2::SendStream<Bytes>,
    receive: h2::RecvStream,
}

impl Echo {
    /// Sends some bytes and expects them back.
    pub async fn exchange(&mut self, text: &[u8]) -> Result<(), h2::Error> {
        self.send.send_data(Bytes::copy_from_slice(text), false)?;
        let mut back = Vec::new();
        while back.len() < text.len() {
            let part = self.receive.data().await.expect("more of the stream")?;
            self.receive.flow_control().release_capacity(part.len())?;
            back.extend_from_slice(&part);
        }
        assert_eq!(back, text);
        Ok(())
    }

    pub async fn end(mut self) -> Result<(), h2::Error> {
        self.send.send_data(Bytes::new(), true)?;
        while let Some(part) = self.receive.data().await {
            assert!(part?.is_empty(), "the stream goes on");
        }
        Ok(())
    }
}

/// nghttp2's server as Debian ships it, without TLS.
pub struct Nghttpd {
    child: Child,
    pub addr: SocketAddr,
}

impl Nghttpd {
    /// Serves the files of a directory.
    pub fn start(root: &std::path::Path) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // It can't choose a port itself; one that was taken meanwhile ends it.
            let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
            let addr = listener.local_addr().expect("its address");
            drop(listener);
            let mut command = Command::new("nghttpd");
            command.args(["--no-tls", "--address", "127.0.0.1", "--htdocs"]).arg(root);
            command.arg(addr.port().to_string()).stdout(Stdio::null());
            let mut child = command.spawn().expect("nghttpd, of Debian's nghttp2-server");
            while child.try_wait().expect("a child of ours").is_none() {
                if std::net::TcpStream::connect(addr).is_ok() {
                    return Nghttpd { child, addr };
                }
                assert!(Instant::now() < deadline, "nghttpd never listened");
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Nghttpd {
    fn drop(&mut self) {
        // It does not end by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
