//! One connection of the serving helper, from its first request to its close.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::patience::Patience;
use super::places::Place;
use super::tls::Tls;
use super::{Caller, Request, Response, ResponseBody, Server, respond};

/// What hyper may buffer of one connection; a request's head must fit. Ours are a few hundred bytes,
/// a bearer token is at most a few thousand.
const MAX_BUFFER_BYTES: usize = 16 * 1024;

/// What one connection of the serving helper goes by.
pub(super) struct Connection {
    pub(super) settings: Server,
    pub(super) place: Arc<Place>,
    pub(super) stopped: watch::Receiver<()>,
}

impl Connection {
    /// Answers its requests, after its handshake if there is a `tls`, until either side ends it, it must give
    /// its place up, or `stopped` loses its sender; then the request under way still gets its answer.
    pub(super) async fn serve<H, F>(
        self,
        client: (TcpStream, SocketAddr),
        tls: Option<&Tls>,
        handler: H,
    ) where
        H: Fn(Request) -> F + Send + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let place = Arc::clone(&self.place);
        tokio::select! {
            () = self.shake_hands(client, tls, handler) => {}
            () = place.evicted() => tracing::debug!("a silent connection gives way to a new one"),
        }
    }

    async fn shake_hands<H, F>(
        self,
        (stream, addr): (TcpStream, SocketAddr),
        tls: Option<&Tls>,
        handler: H,
    ) where
        H: Fn(Request) -> F + Send + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        // Answers are small and whole; waiting for more of them would only be slow. A socket that
        // refuses the option still works.
        let _refused = stream.set_nodelay(true);
        let Some(tls) = tls else {
            let caller = Caller { addr, has_certificate: false };
            return self.answer(stream, caller, handler).await;
        };
        let handshake = TlsAcceptor::from(tls.config()).accept(stream);
        match timeout(self.settings.head_timeout, handshake).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates();
                let caller =
                    Caller { addr, has_certificate: shown.is_some_and(|it| !it.is_empty()) };
                self.answer(stream, caller, handler).await;
            }
            Ok(Err(error)) => tracing::debug!(%addr, %error, "no TLS came about"),
            Err(_elapsed) => tracing::debug!(%addr, "no TLS came about in time"),
        }
    }

    async fn answer<S, H, F>(mut self, stream: S, caller: Caller, handler: H)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        H: Fn(Request) -> F + Send + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let Server { write_timeout, head_timeout, .. } = self.settings;
        let stream = Patience::new(stream, write_timeout, Arc::clone(&self.place));
        let place = self.place;
        let service = service_fn(move |mut request: Request| {
            request.extensions_mut().insert(caller);
            let begun = place.begin(is_probe(&request));
            let answer = begun.map(|number| {
                let under_way = UnderWay { place: Arc::clone(&place), number };
                (handler(request), under_way)
            });
            async move {
                Ok::<_, Infallible>(match answer {
                    Some((answer, under_way)) => under_way.until_written(answer.await),
                    None => busy(),
                })
            }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head_timeout)
                .max_buf_size(MAX_BUFFER_BYTES)
                .serve_connection(TokioIo::new(stream), service)
        );
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            _ = self.stopped.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended early");
        }
    }
}

/// Whether a request only asks whether we live: there is always a place for those.
fn is_probe(request: &Request) -> bool {
    matches!(request.uri().path(), "/livez" | "/readyz")
}

fn busy() -> Response {
    let text = "too many requests are under way; try again\n";
    let mut response = respond::text(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A request, from its head to the end of its answer.
struct UnderWay {
    place: Arc<Place>,
    number: u64,
}

impl UnderWay {
    /// The answer, which keeps the request under way until its last byte is written or nobody wants it.
    fn until_written(self, response: Response) -> Response {
        response.map(|body| Lasting { body, _under_way: self }.boxed())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.place.end(self.number);
    }
}

/// A body, and what lasts as long as it.
struct Lasting {
    body: ResponseBody,
    _under_way: UnderWay,
}

impl Body for Lasting {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
