//! Waiting until a peer's kernel has acknowledged every byte.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::net::{Socket, options};

/// The first looks are this far apart.
const SHORTEST: Duration = Duration::from_millis(5);
/// And the last ones this far: thousands of clients that are slow to acknowledge cost next to nothing.
const LONGEST: Duration = Duration::from_millis(250);
/// A look comes late by at most this part of the time waited so far.
const LATENESS: u32 = 8;

/// Looks again and again, because no kernel tells when the last byte is acknowledged.
#[derive(Debug)]
pub struct Acknowledgement {
    began: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Default for Acknowledgement {
    fn default() -> Self {
        Acknowledgement::new()
    }
}

impl Acknowledgement {
    /// Begins to wait.
    #[must_use]
    pub fn new() -> Self {
        let began = Instant::now();
        Acknowledgement { began, timer: Box::pin(tokio::time::sleep_until(began + SHORTEST)) }
    }

    /// Registers the next look.
    pub fn poll_look(&mut self, cx: &mut Context<'_>) {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let next = ((now - self.began) / LATENESS).clamp(SHORTEST, LONGEST);
            self.timer.as_mut().reset(now + next);
        }
    }

    /// Ready when the peer has acknowledged everything, or its socket has failed.
    pub fn poll(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<()> {
        // A socket that has failed, with a reset for example, counts what it had queued for ever.
        let waits = options::unacknowledged_bytes(socket).is_ok_and(|bytes| bytes > 0)
            && matches!(socket.options().take_error(), Ok(None));
        if !waits {
            return Poll::Ready(());
        }
        self.poll_look(cx);
        Poll::Pending
    }
}
