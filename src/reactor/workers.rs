//! All the workers of a process.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::error;

use super::worker::{self, Mail, Mailbox, Worker};

/// Threads that connections live on; each stays on the one that it was given to.
#[derive(Debug)]
pub struct Workers {
    mailboxes: Vec<Arc<Mailbox>>,
    next: AtomicUsize,
}

impl Workers {
    /// Starts them. The runtime that they are started in drives their timers.
    ///
    /// # Errors
    /// When the system gives no more threads or descriptors.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(threads: NonZeroUsize) -> io::Result<Self> {
        let started = (0..threads.get()).map(|index| start(index, Handle::current()));
        Ok(Workers { mailboxes: started.collect::<io::Result<_>>()?, next: AtomicUsize::new(0) })
    }

    /// The calling thread alone, while it is in [`super::block_on`].
    ///
    /// # Errors
    /// When the system gives no more descriptors.
    pub fn here() -> io::Result<Self> {
        let mailboxes = vec![Worker::begin()?.mailbox()];
        Ok(Workers { mailboxes, next: AtomicUsize::new(0) })
    }

    /// Does something on every worker.
    pub fn on_each(&self, act: fn()) {
        for mailbox in &self.mailboxes {
            mailbox.post(Mail::Begin(Box::new(act)));
        }
    }

    /// Resolves when every task that could go on has had its turn: those that were woken before this
    /// was called have seen why.
    pub async fn turn(&self) {
        let turns: Vec<_> = self
            .mailboxes
            .iter()
            .map(|mailbox| {
                let (tell, told) = oneshot::channel();
                // The queue is first in, first out, and so is the mail.
                mailbox.post(Mail::Begin(Box::new(|| {
                    let _ = worker::spawn(async { _ = tell.send(()) });
                })));
                told
            })
            .collect();
        for told in turns {
            // A worker that is gone has no tasks.
            let _ = told.await;
        }
    }

    /// Gives a task to the next worker in turn, which makes it there. A panic ends this task alone.
    pub fn spawn<F: Future<Output = ()> + 'static>(
        &self,
        task: impl FnOnce() -> F + Send + 'static,
    ) {
        let turn = match self.mailboxes.len() {
            1 => 0,
            workers => self.next.fetch_add(1, Ordering::Relaxed) % workers,
        };
        let Some(mailbox) = self.mailboxes.get(turn) else { return };
        // On a worker, which is where it is called, beginning does not fail.
        if Worker::current().is_ok_and(|own| Arc::ptr_eq(&own.mailbox(), mailbox)) {
            let _ = worker::spawn(task());
        } else {
            mailbox.post(Mail::Begin(Box::new(|| {
                let _ = worker::spawn(task());
            })));
        }
    }
}

fn start(index: usize, timers: Handle) -> io::Result<Arc<Mailbox>> {
    let (tell, told) = mpsc::sync_channel(1);
    let run = move || {
        let _timers = timers.enter();
        match Worker::begin() {
            // Nobody has gone while `start` waits for the answer.
            Ok(worker) => drop(tell.send(Ok(worker.mailbox()))),
            Err(error) => return drop(tell.send(Err(error))),
        }
        if let Err(error) = worker::block_on(std::future::pending::<()>()) {
            error!(error = &error as &dyn std::error::Error, "a worker can't wait any more");
        }
    };
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
    told.recv().map_err(io::Error::other)?
}
