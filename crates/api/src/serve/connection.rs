//! One connection of the serving helper, from its first request to its close.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::patience::Patience;
use super::tls::Tls;
use super::{Caller, Request, Response, Server};

/// What hyper may buffer of one connection; a request's head must fit. Ours are a few hundred bytes,
/// a bearer token is at most a few thousand.
const MAX_BUFFER_BYTES: usize = 16 * 1024;

/// Answers the requests of one connection, after its handshake if there is a `tls`, until either side
/// ends it or `stopped` loses its sender; then the request under way still gets its answer.
pub(super) async fn serve<H, F>(
    (stream, addr): (TcpStream, SocketAddr),
    settings: Server,
    tls: Option<&Tls>,
    handler: H,
    stopped: watch::Receiver<()>,
) where
    H: Fn(Request) -> F + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    // Answers are small and whole; waiting for more of them would only be slow. A socket that
    // refuses the option still works.
    let _refused = stream.set_nodelay(true);
    let Some(tls) = tls else {
        let caller = Caller { addr, has_certificate: false };
        return answer(stream, caller, settings, handler, stopped).await;
    };
    let handshake = TlsAcceptor::from(tls.config()).accept(stream);
    match timeout(settings.head_timeout, handshake).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates();
            let caller = Caller { addr, has_certificate: shown.is_some_and(|it| !it.is_empty()) };
            answer(stream, caller, settings, handler, stopped).await;
        }
        Ok(Err(error)) => tracing::debug!(%addr, %error, "no TLS came about"),
        Err(_elapsed) => tracing::debug!(%addr, "no TLS came about in time"),
    }
}

async fn answer<S, H, F>(
    stream: S,
    caller: Caller,
    settings: Server,
    handler: H,
    mut stopped: watch::Receiver<()>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request) -> F + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let stream = Patience::new(stream, settings.write_timeout);
    let service = service_fn(move |mut request: Request| {
        request.extensions_mut().insert(caller);
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.head_timeout)
            .max_buf_size(MAX_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}
