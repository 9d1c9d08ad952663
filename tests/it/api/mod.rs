//! The controller's HTTP side: the stream of changes, and what it lets in.

mod access;
mod events;
mod limits;
mod peers;
mod size;
mod tls;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::support::{Ebbtide, Reply, http};

/// A controller on a free port of loopback.
fn controller(args: &[&str]) -> (Ebbtide, SocketAddr) {
    let line = [&["controller", "--listen", "127.0.0.1:0"][..], args].concat();
    let controller = Ebbtide::start(&line);
    let addr = controller.takes_reports();
    (controller, addr)
}

/// A report of the pod `shop/name`.
pub(crate) fn report(name: &str, sequence: u64, phase: &str) -> Value {
    json!({
        "schemaVersion": "v1", "namespace": "shop", "podName": name, "podUID": "",
        "nodeName": "", "podIP": "", "service": "", "startTime": "2024-05-01T10:00:00Z",
        "sequence": sequence, "phase": phase, "drainTimeoutSeconds": 300.0, "activeConnections": 1,
        "drainBlockingConnections": 1, "activeRequests": 0, "activeStreams": 0, "byClass": {},
        "forcedCloses": 0, "rejected": 0, "oldestConnectionSeconds": 0, "listeners": [],
    })
}

/// Sends one request with these header lines and a body; reads the whole answer.
pub(crate) fn send(addr: SocketAddr, start: &str, headers: &[&str], body: &str) -> Reply {
    let mut stream = TcpStream::connect(addr).expect("connects");
    let fields = headers.iter().fold(String::new(), |fields, line| fields + line + "\r\n");
    let request = format!(
        "{start} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("writes");
    http::answer(stream).expect("an answer")
}

fn post(addr: SocketAddr, report: &Value) -> Reply {
    send(addr, "POST /v1/reports", &["Content-Type: application/json"], &report.to_string())
}
