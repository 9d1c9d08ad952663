//! A connected stream socket, TCP or Unix, that the relay reads and writes by readiness.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::pipe::{SpliceFlags, splice};
use socket2::SockRef;

use crate::reactor::{Assumed, Source};

/// A connected, non-blocking stream socket that the current worker watches.
#[derive(Debug)]
pub struct Socket {
    /// Before the descriptor, so that it is gone when that is closed.
    source: Source,
    fd: OwnedFd,
}

impl Socket {
    /// Has the current worker watch a connected, non-blocking socket.
    ///
    /// # Errors
    /// When the kernel watches no more descriptors, or the calling thread is no worker.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Socket::watched(fd, Assumed::Everything)
    }

    /// The same for a socket on which nothing is expected yet.
    ///
    /// # Errors
    /// As [`Socket::new`].
    pub(crate) fn watched(fd: OwnedFd, assumed: Assumed) -> io::Result<Self> {
        Ok(Socket { source: Source::stream(fd.as_fd(), assumed)?, fd })
    }

    /// Reads what is there, 0 bytes at the end of the stream.
    ///
    /// A short read has found all that there was, which saves the read that would only say
    /// `EAGAIN`: with edge-triggered polling the next bytes are told of anew.
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.source.poll_readable(cx));
            match rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((read, _)) => {
                    if 0 < read && read < buffer.len() {
                        self.source.short_read();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(Errno::AGAIN) => self.source.clear_readable(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Whether a read may find something; costs no system call.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.source.poll_readable(cx)
    }

    /// Whether bulk may go through a pipe: not where urgent data came.
    #[must_use]
    pub fn may_splice(&self) -> bool {
        !self.source.has_urgent()
    }

    /// Whether a read would find nothing, not even an end; asks the kernel itself.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        rustix::net::recv(&self.fd, &mut [0; 1], RecvFlags::PEEK) == Err(Errno::AGAIN)
    }

    /// Whether the stream has been read to its end.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        matches!(rustix::net::recv(&self.fd, &mut [0; 1], RecvFlags::PEEK), Ok((0, _)))
    }

    /// Whether a write may be taken, or a connect under way has ended.
    ///
    /// # Errors
    /// When epoll can't be asked to tell.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.source.poll_writable(cx, self.fd.as_fd())
    }

    /// Writes what the kernel takes. Never raises SIGPIPE.
    ///
    /// # Errors
    /// Those of send(2).
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_writable(cx))?;
            match rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL) {
                Ok(written) => {
                    if written < bytes.len() {
                        self.source.clear_writable();
                    }
                    return Poll::Ready(Ok(written));
                }
                Err(Errno::AGAIN) => self.source.clear_writable(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Moves at most so many bytes of what is there into an empty pipe, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of splice(2).
    pub fn poll_splice_to(
        &self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        bytes: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.source.poll_readable(cx));
            // A short count may come of the pipe's slots, so only EAGAIN says that nothing is left.
            match splice(&self.fd, None, pipe, None, bytes, SpliceFlags::NONBLOCK) {
                Ok(moved) => return Poll::Ready(Ok(moved)),
                Err(Errno::AGAIN) => self.source.clear_readable(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Writes what the kernel takes of so many bytes that a pipe holds. To a peer that has gone it
    /// raises SIGPIPE, which no flag keeps off here; programs in Rust start with it ignored.
    ///
    /// # Errors
    /// Those of splice(2).
    pub fn poll_splice_from(
        &self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        bytes: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_writable(cx))?;
            match splice(pipe, None, &self.fd, None, bytes, SpliceFlags::NONBLOCK) {
                Ok(moved) => return Poll::Ready(Ok(moved)),
                Err(Errno::AGAIN) => self.source.clear_writable(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Sends a FIN behind what was written.
    ///
    /// # Errors
    /// `NotConnected` when the peer has reset the connection.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.fd, Shutdown::Write)?)
    }

    /// Makes the close a reset that throws away what was not sent. A Unix socket just closes.
    pub fn reset_on_close(&self) {
        // A socket that can't linger (Unix, or one that is already reset) needs no telling.
        let _ = SockRef::from(&self.fd).set_linger(Some(Duration::ZERO));
    }

    /// For socket options.
    #[must_use]
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.fd)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
