//! The floor: the smallest relay there can be, on one thread, for what the system calls alone cost.
//!
//! It accepts, connects and moves bytes, by recv and send or by splice. It knows no limits and no
//! time-outs, so it is no product.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice};

use super::poll::{On, Poll, now};

/// What one call moves at most: the size from which copying gets no cheaper by much.
const COPY_BYTES: usize = 256 * 1024;

/// As large as an unprivileged pipe may be, /proc/sys/fs/pipe-max-size.
const PIPE_BYTES: usize = 1024 * 1024;

/// The listener's name in the event loop. Sockets follow, those of a pair as 2n and 2n + 1.
const LISTENER: usize = 0;

type Pipe = (OwnedFd, OwnedFd);

/// A socket, and what has come from it and could not be written to the other one yet.
struct Side {
    socket: TcpStream,
    copied: Vec<u8>,
    piped: Option<(Pipe, usize)>,
    has_ended: bool,
}

impl Side {
    fn is_blocked(&self) -> bool {
        self.piped.is_some() || !self.copied.is_empty()
    }
}

struct Floor {
    poll: Poll,
    sides: Vec<Option<Side>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    /// Empty ones, lent to a direction while bytes are in them. None, where bytes are copied.
    pipes: Option<Vec<Pipe>>,
}

/// Relays to `upstream` until the process is killed.
pub(super) fn run(listen: SocketAddr, upstream: SocketAddr, splices: bool) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    rustix::net::listen(&listener, super::application::BACKLOG)?;
    let mut floor = Floor {
        poll: Poll::new(),
        sides: vec![None, None],
        free: Vec::new(),
        buffer: vec![0; COPY_BYTES],
        pipes: splices.then(Vec::new),
    };
    floor.poll.add(&listener, LISTENER, On::IN)?;
    loop {
        for (name, on) in floor.poll.wait(None)? {
            if name == LISTENER {
                floor.accept(&listener, upstream)?;
            } else if floor.sides[name].is_some() && !floor.step(name, on).unwrap_or(false) {
                let first = name & !1;
                floor.sides[first..first + 2].fill_with(|| None);
                floor.free.push(first);
            }
        }
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, upstream: SocketAddr) -> io::Result<()> {
        let pair = [listener.accept()?.0, TcpStream::connect(upstream)?];
        let first = self.free.pop().unwrap_or(self.sides.len());
        self.sides.resize_with(self.sides.len().max(first + 2), || None);
        for (name, socket) in (first..).zip(pair) {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            self.poll.add(&socket, name, On::IN)?;
            let side = Side { socket, copied: Vec::new(), piped: None, has_ended: false };
            self.sides[name] = Some(side);
        }
        Ok(())
    }

    /// Moves what an event is about; whether the pair goes on.
    fn step(&mut self, name: usize, on: On) -> io::Result<bool> {
        // By name, from here on: the bytes of `name` go to `name ^ 1`.
        if on.contains(On::OUT) {
            self.write(name ^ 1)?;
            self.watch(name ^ 1)?;
        }
        let is_blocked = self.side(name).is_blocked();
        if on.intersects(On::IN | On::HUP | On::ERR) && !is_blocked && !self.side(name).has_ended {
            self.read(name)?;
            if self.side(name).is_blocked() || self.side(name).has_ended {
                self.watch(name)?;
            }
        }
        Ok(!(self.side(name).has_ended && self.side(name ^ 1).has_ended))
    }

    /// Reads once, and writes it at once as far as that goes.
    fn read(&mut self, name: usize) -> io::Result<()> {
        let count = if self.pipes.is_some() {
            let pipe = self.pipes.as_mut().and_then(Vec::pop).map_or_else(new_pipe, Ok)?;
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            let socket = &self.side(name).socket;
            let read = splice(socket, None, &pipe.1, None, PIPE_BYTES, flags);
            let count = now(read.map_err(io::Error::from))?;
            self.side(name).piped = Some((pipe, count.unwrap_or(0)));
            count
        } else {
            let mut buffer = std::mem::take(&mut self.buffer);
            let result = self.copy(name, &mut buffer);
            self.buffer = buffer;
            result?
        };
        if count == Some(0) {
            self.side(name).has_ended = true;
            self.side(name ^ 1).socket.shutdown(Shutdown::Write)?;
        }
        if self.pipes.is_some() { self.write(name) } else { Ok(()) }
    }

    fn copy(&mut self, name: usize, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let count = now(self.side(name).socket.read(buffer))?;
        let bytes = &buffer[..count.unwrap_or(0)];
        if !bytes.is_empty() {
            let sent = self.send(name ^ 1, bytes)?;
            self.side(name).copied.extend_from_slice(&bytes[sent..]);
        }
        Ok(count)
    }

    /// Writes what had come from `name`.
    fn write(&mut self, name: usize) -> io::Result<()> {
        if let Some((pipe, mut left)) = self.side(name).piped.take() {
            if left > 0 {
                let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                let socket = &self.side(name ^ 1).socket;
                let written = splice(&pipe.0, None, socket, None, left, flags);
                left -= now(written.map_err(io::Error::from))?.unwrap_or(0);
            }
            match &mut self.pipes {
                Some(pipes) if left == 0 => pipes.push(pipe),
                _ => self.side(name).piped = Some((pipe, left)),
            }
        }
        let copied = std::mem::take(&mut self.side(name).copied);
        if !copied.is_empty() {
            let sent = self.send(name ^ 1, &copied)?;
            self.side(name).copied = copied[sent..].to_vec();
        }
        Ok(())
    }

    fn send(&mut self, name: usize, bytes: &[u8]) -> io::Result<usize> {
        Ok(now(self.side(name).socket.write(bytes))?.unwrap_or(0))
    }

    /// Waits for room while bytes of `name` are left, and for more of them when none are.
    fn watch(&mut self, name: usize) -> io::Result<()> {
        for name in [name, name ^ 1] {
            let mut on = On::empty();
            on.set(On::IN, !self.side(name).is_blocked() && !self.side(name).has_ended);
            on.set(On::OUT, self.side(name ^ 1).is_blocked());
            let side = self.sides[name].as_ref().expect("a pair stands or falls together");
            self.poll.change(&side.socket, name, on)?;
        }
        Ok(())
    }

    fn side(&mut self, name: usize) -> &mut Side {
        self.sides[name].as_mut().expect("a pair stands or falls together")
    }
}

fn new_pipe() -> io::Result<Pipe> {
    let pipe = pipe()?;
    fcntl_setpipe_size(&pipe.1, PIPE_BYTES)?;
    Ok(pipe)
}
