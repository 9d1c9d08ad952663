//! One of the two programs that the relay stands between.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use socket2::SockRef;

/// A client, or an application. It does what the script says, as far as its socket lets it.
pub struct Peer {
    socket: Option<UnixStream>,
    /// All that it has to say, and how much of that its kernel has taken.
    pub says: Vec<u8>,
    pub written: usize,
    /// All that it has read.
    pub got: Vec<u8>,
    /// How much it may still write and read; the script may stop it in the middle of a word.
    pub may_write: usize,
    pub may_read: usize,
    pub ends: bool,
    pub has_ended: bool,
    /// It has read the end of what the other side says.
    pub heard_end: bool,
}

impl Peer {
    /// A peer, and the relay's end of its connection. With small buffers nearly every write is short.
    pub fn new(buffer_bytes: Option<usize>) -> (Peer, OwnedFd) {
        let (own, relays) = UnixStream::pair().expect("a pair of sockets");
        for socket in [&own, &relays] {
            socket.set_nonblocking(true).expect("a socket takes O_NONBLOCK");
            if let Some(bytes) = buffer_bytes {
                SockRef::from(socket).set_send_buffer_size(bytes).expect("SO_SNDBUF");
            }
        }
        let peer = Peer {
            socket: Some(own),
            says: Vec::new(),
            written: 0,
            got: Vec::new(),
            may_write: usize::MAX,
            may_read: usize::MAX,
            ends: false,
            has_ended: false,
            heard_end: false,
        };
        (peer, relays.into())
    }

    pub fn say(&mut self, bytes: &[u8]) {
        if !self.ends {
            self.says.extend_from_slice(bytes);
        }
    }

    /// Leaves without a word.
    pub fn vanish(&mut self) {
        self.socket = None;
    }

    pub fn has_vanished(&self) -> bool {
        self.socket.is_none()
    }

    /// Whether it reads whatever comes.
    pub fn reads_all(&self) -> bool {
        self.may_read > usize::MAX / 2
    }

    /// Writes and reads what can be. Whether anything was.
    pub fn turn(&mut self) -> bool {
        let wrote = self.write();
        self.read() || wrote
    }

    fn write(&mut self) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let mut wrote = false;
        while self.may_write > 0 && self.written < self.says.len() {
            let end = self.says.len().min(self.written.saturating_add(self.may_write));
            match socket.write(&self.says[self.written..end]) {
                Ok(count) => {
                    self.written += count;
                    self.may_write -= count;
                    wrote = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return wrote,
                // The relay has left; what it did not take is judged by what arrived.
                Err(_) => return wrote,
            }
        }
        if self.ends && !self.has_ended && self.written == self.says.len() {
            let _ = socket.shutdown(Shutdown::Write);
            self.has_ended = true;
            wrote = true;
        }
        wrote
    }

    fn read(&mut self) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let mut room = [0; 16 * 1024];
        let mut has_read = false;
        while self.may_read > 0 && !self.heard_end {
            let most = room.len().min(self.may_read);
            match socket.read(&mut room[..most]) {
                Ok(0) => self.heard_end = true,
                Ok(count) => {
                    self.got.extend_from_slice(&room[..count]);
                    self.may_read -= count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return has_read,
                // A reset: what was in its kernel is gone, which only some endings may do.
                Err(_) => self.heard_end = true,
            }
            has_read = true;
        }
        has_read
    }
}
