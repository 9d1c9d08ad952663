//! One connection of the serving helper, from its first request to its close.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::patience::Patience;
use super::{Request, Response, Server};

/// What hyper may buffer of one connection; a request's head must fit. Ours are a few hundred bytes,
/// a bearer token is at most a few thousand.
const MAX_BUFFER_BYTES: usize = 16 * 1024;

/// Answers the requests of one connection until either side ends it or `stopped` loses its sender;
/// then the request under way still gets its answer.
pub(super) async fn serve<H, F>(
    stream: TcpStream,
    settings: Server,
    handler: H,
    mut stopped: watch::Receiver<()>,
) where
    H: Fn(Request) -> F + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    // Answers are small and whole; waiting for more of them would only be slow. A socket that
    // refuses the option still works.
    let _refused = stream.set_nodelay(true);
    let stream = Patience::new(stream, settings.write_timeout);
    let service = service_fn(move |request| {
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
