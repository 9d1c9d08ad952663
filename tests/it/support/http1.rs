//! HTTP/1 by hand: an application and a client of which the test decides every byte.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use super::PATIENCE;

/// The application: the test accepts, reads and answers itself.
pub struct App {
    listener: TcpListener,
}

impl App {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        // On Linux this bounds accept too.
        socket2::SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).expect("a time-out");
        App { listener }
    }

    pub fn upstream(&self) -> String {
        self.listener.local_addr().expect("its address").to_string()
    }

    pub fn accept(&self) -> Wire {
        Wire::new(self.listener.accept().expect("the proxy connects").0)
    }
}

/// One side of a connection.
pub struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// With the blank line.
    pub head: String,
    /// As it came, chunks and all.
    pub body: Vec<u8>,
}

impl Answer {
    /// The values of all fields of this name.
    pub fn field(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let values: Vec<_> = lines
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub fn says_close(&self) -> bool {
        self.field("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"))
    }
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        Wire { stream, unread: Vec::new() }
    }

    pub fn connect(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection"))
    }

    /// The socket itself, of which nothing has been read.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.unread.is_empty(), "bytes have been read: into_parts");
        self.stream
    }

    /// The socket, and what was read of it behind the last head.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.unread)
    }

    pub fn addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("its address")
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("sent");
    }

    /// To one that may have gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// The socket, for its options.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("half-closed");
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let mut buffer = vec![0; 64 * 1024];
        let read = self.stream.read(&mut buffer)?;
        self.unread.extend_from_slice(&buffer[..read]);
        Ok(read)
    }

    /// Waits until there is something to read, and leaves it there.
    pub fn wait_for_bytes(&self) {
        self.stream.peek(&mut [0]).expect("something to read");
    }

    /// Exactly so many bytes.
    pub fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < count {
            if self.read_more()? == 0 {
                let got = String::from_utf8_lossy(&self.unread).into_owned();
                return Err(io::Error::other(format!("ended within {count} bytes, at {got:?}")));
            }
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// Everything up to and with `end`.
    pub fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return self.take(at + end.len());
            }
            if self.read_more()? == 0 {
                let got = String::from_utf8_lossy(&self.unread).into_owned();
                return Err(io::Error::other(format!("ended before {end:?}, at {got:?}")));
            }
        }
    }

    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let expected = bytes.as_ref();
        let got = self.take(expected.len()).expect("as many bytes");
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    }

    /// A head, of a request or a response.
    pub fn head(&mut self) -> io::Result<String> {
        let head = self.until(b"\r\n\r\n")?;
        String::from_utf8(head).map_err(io::Error::other)
    }

    /// A whole response without interim ones, to anything but HEAD.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = Answer { head: self.head()?, body: Vec::new() };
        if let Some(length) = answer.field("content-length") {
            answer.body = self.take(length.parse().map_err(io::Error::other)?)?;
        } else if answer.field("transfer-encoding").is_some() {
            loop {
                let size = self.until(b"\r\n")?;
                let text = String::from_utf8_lossy(&size).trim().to_owned();
                let count = usize::from_str_radix(&text, 16).map_err(io::Error::other)?;
                answer.body.extend(&size);
                if count == 0 {
                    // No trailers here.
                    answer.body.extend(self.until(b"\r\n")?);
                    break;
                }
                answer.body.extend(self.take(count + 2)?);
            }
        }
        Ok(answer)
    }

    /// Everything up to the end, which must be in order.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.read_more()? > 0 {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// The other side has sent its FIN behind what was read so far.
    pub fn ends(&mut self) {
        let rest = self.rest().expect("an end in order");
        assert_eq!(String::from_utf8_lossy(&rest), "", "nothing but the end");
    }

    /// It was ended by the other side, in order or not.
    pub fn is_cut(&mut self) -> Vec<u8> {
        while self.read_more().is_ok_and(|read| read > 0) {}
        std::mem::take(&mut self.unread)
    }
}
