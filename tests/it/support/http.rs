//! One HTTP request over a plain socket, so that a test sees what is really answered.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends one request and reads the whole answer.
pub fn request(addr: SocketAddr, method: &str, path: &str) -> io::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    answer(stream)
}

/// Reads the answer on a connection that the server closes after it.
pub fn answer(mut stream: TcpStream) -> io::Result<Reply> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other(format!("no whole answer: {answer:?}")))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no status: {head:?}")))?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { unchunked(body)? } else { body.to_owned() };
    Ok(Reply { status, head: head.to_owned(), body })
}

/// The body that is sent in these chunks.
fn unchunked(mut chunks: &str) -> io::Result<String> {
    let broken = || io::Error::other("broken chunks");
    let mut body = String::new();
    loop {
        let (size, rest) = chunks.split_once("\r\n").ok_or_else(broken)?;
        let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(rest.get(..size).ok_or_else(broken)?);
        chunks = rest.get(size..).and_then(|rest| rest.strip_prefix("\r\n")).ok_or_else(broken)?;
    }
}

/// Sends a request as a kubelet's hook does, which keeps its connection; the answer is not read.
pub fn send(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    let addr = stream.peer_addr()?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: kube-lifecycle/1.36\r\n\
         Accept: */*\r\nAccept-Encoding: gzip\r\n\r\n"
    );
    stream.write_all(head.as_bytes())
}

/// Reads one answer off a connection that is kept.
pub fn receive(stream: &mut TcpStream) -> io::Result<Reply> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?.to_ascii_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    let status = field("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let length = field("content-length:").and_then(|length| length.trim().parse().ok());
    let (Some(status), Some(length)) = (status, length) else {
        return Err(io::Error::other(format!("no status or no length: {head:?}")));
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let body = String::from_utf8(body).map_err(io::Error::other)?;
    Ok(Reply { status, head, body })
}
