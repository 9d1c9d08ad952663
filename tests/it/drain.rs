//! The life of a drain on real connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::process::Signal;

use crate::support::{Ebbtide, PATIENCE};

/// An echo server on threads, for as long as the test runs.
pub fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().expect("a second handle");
                // The client's end, orderly or not, is the end.
                let _ = std::io::copy(&mut reader, &mut stream);
                let _ = stream.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    addr
}

/// Sends bytes and expects them back.
fn exchange(stream: &mut TcpStream, text: &[u8]) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.write_all(text).expect("sent");
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).expect("echoed");
    assert_eq!(back, text);
}

const QUICK: [&str; 6] = ["--drain-delay", "0", "--settled-for", "0", "--settle-period", "100ms"];

#[test]
fn a_stream_goes_on_through_a_drain_and_its_end_is_the_end() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let addr = proxy.addr();
    let mut stream = TcpStream::connect(addr).expect("a connection");
    exchange(&mut stream, b"before");
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    exchange(&mut stream, b"while draining");
    let refused = TcpStream::connect(addr).expect_err("new connections are refused");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(stream);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
}
