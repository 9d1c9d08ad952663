//! The control port against what a browser sends for somebody else's page.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::{Ebbtide, echo};

/// Sends a request with these header lines and gives back its status.
fn status(addr: SocketAddr, request: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(addr).expect("a connection");
    let text =
        format!("{request} HTTP/1.1\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[test]
fn a_page_from_elsewhere_drains_nothing() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    let control = proxy.control();
    let own = format!("Host: {control}\r\n");
    let port = control.port();
    for headers in [
        format!("{own}Origin: https://evil.test\r\n"),
        format!("{own}Origin: null\r\n"),
        format!("{own}Sec-Fetch-Site: cross-site\r\n"),
        format!("{own}Sec-Fetch-Site: same-site\r\nOrigin: http://127.0.0.1:1\r\n"),
        format!("Host: evil.test:{port}\r\n"),
        format!(
            "Host: evil.test:{port}\r\nOrigin: http://evil.test:{port}\r\nSec-Fetch-Site: same-origin\r\n"
        ),
        format!("Host: 127.0.0.1.evil.test:{port}\r\n"),
    ] {
        for request in ["POST /drain", "POST /undrain", "DELETE /connections/1"] {
            assert_eq!(status(control, request, &headers), 403, "{request} {headers}");
        }
    }
    // Nor does it read, by a name of its own that resolves to loopback.
    for request in ["GET /connections", "GET /status", "GET /hooks/wait"] {
        assert_eq!(status(control, request, "Host: evil.test\r\n"), 403, "{request}");
    }
    assert_eq!(proxy.status()["phase"], "Serving");

    for headers in [
        own.clone(),
        format!("Host: localhost:{port}\r\n"),
        format!("Host: [::1]:{port}\r\n"),
        format!("{own}Origin: http://{control}\r\nSec-Fetch-Site: same-origin\r\n"),
    ] {
        assert_eq!(status(control, "GET /status", &headers), 200, "{headers}");
        assert_eq!(status(control, "POST /drain", &headers), 200, "{headers}");
    }
    proxy.until("draining", |status| status["phase"] != "Serving");
}
