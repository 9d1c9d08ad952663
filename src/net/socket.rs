//! A connected stream socket, TCP or Unix, that the relay reads and writes by readiness.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::pipe::{SpliceFlags, splice};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::options;

/// A connected, non-blocking stream socket that is registered with the current runtime.
#[derive(Debug)]
pub struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    /// Registers a non-blocking socket with the current runtime.
    ///
    /// # Errors
    /// When the runtime's poller takes no more descriptors.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        options::register(fd, Interest::READABLE | Interest::WRITABLE).map(Socket)
    }

    /// Reads what is there, 0 bytes at the end of the stream.
    ///
    /// A short read clears the readiness at once, which saves the read that would only say
    /// `EAGAIN`: with edge-triggered polling the next bytes raise it again.
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            match rustix::net::recv(&self.0, &mut *buffer, RecvFlags::empty()) {
                Ok((read, _)) => {
                    if 0 < read && read < buffer.len() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) => clear_or_fail(&mut guard, error)?,
            }
        }
    }

    /// Whether a read would find something; costs no system call.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx).map_ok(|_| ())
    }

    /// Whether a read would find nothing, not even an end; asks the kernel itself.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        rustix::net::recv(&self.0, &mut [0; 1], RecvFlags::PEEK) == Err(Errno::AGAIN)
    }

    /// Whether the stream has been read to its end.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        matches!(rustix::net::recv(&self.0, &mut [0; 1], RecvFlags::PEEK), Ok((0, _)))
    }

    /// Whether a write would be taken, or a connect under way has ended.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_write_ready(cx).map_ok(|_| ())
    }

    /// Writes what the kernel takes. Never raises SIGPIPE.
    ///
    /// # Errors
    /// Those of send(2).
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL) {
                Ok(written) => {
                    if written < bytes.len() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(written));
                }
                Err(error) => clear_or_fail(&mut guard, error)?,
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
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            // A short count may come of the pipe's slots, so only EAGAIN says that nothing is left.
            match splice(&self.0, None, pipe, None, bytes, SpliceFlags::NONBLOCK) {
                Ok(moved) => return Poll::Ready(Ok(moved)),
                Err(error) => clear_or_fail(&mut guard, error)?,
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
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match splice(pipe, None, &self.0, None, bytes, SpliceFlags::NONBLOCK) {
                Ok(moved) => return Poll::Ready(Ok(moved)),
                Err(error) => clear_or_fail(&mut guard, error)?,
            }
        }
    }

    /// Sends a FIN behind what was written.
    ///
    /// # Errors
    /// `NotConnected` when the peer has reset the connection.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.0, Shutdown::Write)?)
    }

    /// Makes the close a reset that throws away what was not sent. A Unix socket just closes.
    pub fn reset_on_close(&self) {
        // A socket that can't linger (Unix, or one that is already reset) needs no telling.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }

    /// For socket options.
    #[must_use]
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.0)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

fn clear_or_fail(guard: &mut AsyncFdReadyGuard<'_, OwnedFd>, error: Errno) -> io::Result<()> {
    match error {
        Errno::INTR => Ok(()),
        Errno::AGAIN => {
            guard.clear_ready();
            Ok(())
        }
        other => Err(other.into()),
    }
}
