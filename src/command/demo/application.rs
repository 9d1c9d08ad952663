//! The demo's application: TCP echo and HTTP on one port, told apart by the first bytes.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::content::Content;
use crate::api::serve::{Request, Response, respond};

/// The answer to `GET /`.
pub const GREETING: &str = "hello\n";

/// A piece of a download, and how often one is sent: slow enough to be under way for seconds.
pub const PIECE_BYTES: usize = 4096;
pub const PIECE_INTERVAL: Duration = Duration::from_millis(100);

/// The application at work; gone when dropped.
pub struct Application {
    pub addr: SocketAddr,
    _connections: JoinSet<()>,
}

impl Application {
    /// Takes a free port and answers there.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            // An application that can't accept any more ends; the demo sees what becomes of that.
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Application { addr, _connections: tasks })
    }
}

async fn serve(mut stream: TcpStream) {
    let mut first = [0; 4];
    let served = match stream.peek(&mut first).await {
        Ok(4) if first == *b"GET " => http(stream).await,
        Ok(_) => echo(&mut stream).await.map_err(Into::into),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = served {
        tracing::debug!(error, "a connection of the application broke");
    }
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

async fn http(stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) });
    Ok(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
}

fn answer(request: &Request) -> Response {
    match request.uri().path() {
        "/" => respond::text(StatusCode::OK, GREETING),
        path => match download(path) {
            Some(drip) => Response::new(drip.boxed()),
            None => respond::not_found(),
        },
    }
}

/// `/download/SEED/PIECES`.
fn download(path: &str) -> Option<Drip> {
    let (seed, pieces) = path.strip_prefix("/download/")?.split_once('/')?;
    let mut clock = interval(PIECE_INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(Drip { content: Content::new(seed.parse().ok()?), pieces: pieces.parse().ok()?, clock })
}

/// A body of known length that comes piece by piece.
struct Drip {
    content: Content,
    pieces: u32,
    clock: Interval,
}

impl Body for Drip {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.pieces == 0 {
            return Poll::Ready(None);
        }
        ready!(self.clock.poll_tick(context));
        self.pieces -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.content.take(PIECE_BYTES)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::from(self.pieces) * PIECE_BYTES as u64)
    }
}
