//! The threads that connections live on.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};

/// A runtime of one thread each; a connection stays on the one that it was given to.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// Starts all but the first worker, which is the calling runtime's own thread.
    ///
    /// # Errors
    /// When the system gives no more threads or pollers.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn start(threads: NonZeroUsize) -> io::Result<Self> {
        let mut handles = vec![Handle::current()];
        for index in 1..threads.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        }
        Ok(Workers { handles, next: AtomicUsize::new(0) })
    }

    /// Does something on every worker.
    pub fn on_each(&self, act: fn()) {
        for worker in &self.handles {
            worker.spawn(async move { act() });
        }
    }

    /// Gives a connection to the next worker in turn.
    pub fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.handles.len();
        if let Some(worker) = self.handles.get(turn) {
            worker.spawn(connection);
        }
    }
}
