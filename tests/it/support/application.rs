//! Applications of the test's own, on threads, and the clients that speak to them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use super::PATIENCE;

/// Listens on a free port of the loopback for as long as the test process runs; `serve` gets each
/// connection on a thread of its own.
pub fn application(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    listen(listener, serve);
    addr
}

/// The same on a listener that the test has made.
pub fn listen(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
}

/// An echo server.
pub fn echo() -> SocketAddr {
    application(send_back)
}

/// What an echo server does with a connection.
pub fn send_back(mut stream: TcpStream) {
    let mut reader = stream.try_clone().expect("a second handle");
    // The client's end, orderly or not, is the end.
    let _ = io::copy(&mut reader, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

/// A port that was free a moment ago, for a program that can't choose one itself.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.local_addr().expect("its address").port()
}

/// A client's connection, on which nothing waits for ever.
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// Sends bytes and expects them back.
pub fn exchange(stream: &mut TcpStream, text: &[u8]) {
    try_exchange(stream, text).expect("echoed");
}

/// Sends bytes; an error unless they come back.
pub fn try_exchange(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    stream.write_all(text)?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    if back == text { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

/// Expects the kernel to refuse a new connection.
pub fn expect_refused(addr: SocketAddr) {
    let error = TcpStream::connect_timeout(&addr, PATIENCE).expect_err("a refusal");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{addr}: {error}");
}

/// Expects the peer to have reset the connection.
pub fn expect_reset(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = stream.read(&mut byte);
    let error = read.expect_err("a reset, not an orderly end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// Expects an orderly end.
pub fn expect_end(stream: &mut TcpStream) {
    let mut byte = [0];
    assert_eq!(stream.read(&mut byte).expect("an orderly end, not a reset"), 0);
}

/// Makes the close of a socket a reset.
pub fn reset(stream: TcpStream) {
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(std::time::Duration::ZERO)).expect("it lingers not");
    drop(stream);
}

/// Bytes that no mistake in moving them leaves as they are; the same for the same seed.
pub fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}
