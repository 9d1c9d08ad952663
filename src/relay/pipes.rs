//! Kernel pipes, lent per worker: bulk that nobody has to look at goes through one without being
//! copied.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::net::{Socket, optional};

/// What a pipe holds; smaller ones cost more a GiB than copying.
///
/// # Source
/// docs/defaults.md, bulk transfer: 0.32 s/GiB with 1 MiB, 0.69 with 64 KiB, 0.42 copied. It is also
/// what Linux grants anybody (pipe(7), pipe-max-size).
pub(super) const PIPE_BYTES: usize = 1024 * 1024;

/// Pipes of one worker; who finds none copies. A receiver that takes nothing keeps its pipe.
///
/// # Source
/// pipe(7), pipe-user-pages-soft: 64 MiB of pipes for all processes of a user on the node, after
/// which each gets two pages; other pods may be the same user.
const MOST: usize = 16;

/// Idle pipes that a worker keeps for the next loan.
const KEPT: usize = 4;

#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Ends>,
    /// Pipes that exist, lent or idle.
    count: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// A pipe on loan. Dropped empty it goes back to its worker; with bytes in it, it is closed.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Taken when it is dropped, and only then.
    ends: Option<Ends>,
    held_bytes: usize,
}

impl Pipe {
    /// An empty pipe, unless this worker has lent all that it may, or the system gives none of
    /// that size.
    pub(super) fn borrow() -> Option<Self> {
        if optional::SPLICE.is_refused() {
            return None;
        }
        let ends = POOL.with_borrow_mut(|pool| {
            if let Some(ends) = pool.idle.pop() {
                return Some(ends);
            }
            if pool.count >= MOST {
                return None;
            }
            let ends = open()?;
            pool.count += 1;
            Some(ends)
        })?;
        Some(Pipe { ends: Some(ends), held_bytes: 0 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held_bytes == 0
    }

    /// Takes in at most so many bytes of what the source has, 0 at its end. Only when empty.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        source: &Socket,
        most_bytes: usize,
    ) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        let taken = ready!(source.poll_splice_to(cx, ends.write.as_fd(), most_bytes))?;
        self.held_bytes += taken;
        Poll::Ready(Ok(taken))
    }

    /// Gives the sink what it takes of what is held.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        sink: &Socket,
    ) -> Poll<io::Result<()>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(())) };
        let given = ready!(sink.poll_splice_from(cx, ends.read.as_fd(), self.held_bytes))?;
        self.held_bytes = self.held_bytes.saturating_sub(given);
        Poll::Ready(Ok(()))
    }
}

impl Pipe {
    /// What is held, copied, where the kernel does not splice it on.
    pub(super) fn take_out(&mut self) -> io::Result<Vec<u8>> {
        let Some(ends) = &self.ends else { return Ok(Vec::new()) };
        let mut bytes = vec![0; self.held_bytes];
        let mut filled = 0;
        while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
            match rustix::io::read(&ends.read, room) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(filled);
        self.held_bytes = 0;
        Ok(bytes)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let ends = self.ends.take().filter(|_| self.held_bytes == 0);
        // While the thread ends its pool may be gone; then the pipe is simply closed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            match ends {
                Some(ends) if pool.idle.len() < KEPT => pool.idle.push(ends),
                _ => pool.count = pool.count.saturating_sub(1),
            }
        });
    }
}

fn open() -> Option<Ends> {
    let (read, write) = match pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) {
        Ok(ends) => ends,
        Err(error) => {
            let error = io::Error::from(error);
            if optional::is_refused(&error) {
                optional::SPLICE.refused(&error);
            }
            return None;
        }
    };
    let granted = fcntl_setpipe_size(&write, PIPE_BYTES).ok()?;
    (granted >= PIPE_BYTES).then_some(Ends { read, write })
}
