//! hyper as the server: HTTP/1 before curl, and HTTP/2 before curl's nghttp2 and h2load.

use std::convert::Infallible;
use std::net::TcpListener;
use std::process::Command;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{curl_sees_no_difference_of, nothing_was_opaque};
use crate::support::h2::runtime;
use crate::support::{Directory, Ebbtide};

/// Tells the method, what was in the body, and a trailer.
async fn tell(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + Send>, hyper::Error>
{
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let sum =
        body.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let told = format!("{} {} {} bytes, {sum}\n", parts.method, parts.uri.path(), body.len());
    let mut trailers = HeaderMap::new();
    trailers.insert("after", "all".parse().expect("a value"));
    let told = Full::new(Bytes::from(told)).with_trailers(async { Some(Ok(trailers)) });
    Ok(Response::builder().header("Trailer", "after").body(told).expect("a response"))
}

/// hyper on a thread of its own, for as long as the test process runs; its address.
fn serve(is_http2: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.set_nonblocking(true).expect("non-blocking");
    let addr = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let stream = TokioIo::new(stream);
                // A client may leave as it likes.
                tokio::spawn(async move {
                    if is_http2 {
                        let builder = http2::Builder::new(TokioExecutor::new());
                        builder.serve_connection(stream, service_fn(tell)).await.ok()
                    } else {
                        http1::Builder::new().serve_connection(stream, service_fn(tell)).await.ok()
                    }
                });
            }
        });
    });
    addr
}

/// The same requests by both protocols.
fn no_difference(addr: &str, protocols: &[&str], version: &str) {
    let files = Directory::new();
    let body = format!("@{}", files.write("body", vec![b'x'; 5 << 20]));
    for args in [&[][..], &["-H", "TE: trailers"], &["--data-binary", &body], &["-X", "PUT"]] {
        let args = [&[version], args].concat();
        curl_sees_no_difference_of(addr, protocols, "/some/path", &args);
    }
}

#[test]
fn hyper_is_heard_by_http1_as_without_ebbtide() {
    let addr = serve(false);
    no_difference(&addr, &["auto", "http1"], "--http1.1");
    // By HTTP/1 only: curl 7.88 takes hyper's answer to a HEAD by HTTP/2 for an error, without us too.
    curl_sees_no_difference_of(&addr, &["auto", "http1"], "/some/path", &["--head"]);
}

#[test]
fn hyper_is_heard_by_http2_as_without_ebbtide() {
    let addr = serve(true);
    no_difference(&addr, &["auto", "http2"], "--http2-prior-knowledge");
    let proxy = Ebbtide::proxy(&addr, &["--protocol", "auto"]);
    let mut load = Command::new("h2load");
    load.args(["-c8", "-m16", "-n2000"]).arg(format!("http://{}/", proxy.addr()));
    let output = load.output().expect("h2load, of Debian's nghttp2-client");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored"), "{said}");
    nothing_was_opaque(&proxy);
}
