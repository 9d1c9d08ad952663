//! The threads that connections live on.
//!
//! Each worker waits in an epoll of its own, notes which sockets have become ready, and runs the tasks
//! that wait for them, one after the other. Nothing that a task does with its sockets takes a lock or
//! an atomic step, and an idle socket costs what a number and a waker take. Timers, name look-ups and
//! all that is no connection stay with tokio, whose runtime is entered on every worker.
//!
//! `worker` is one such thread: its queue, its mail and its turns. `source` is what it knows of a
//! socket. [`Workers`] are all of them.

mod source;
mod worker;
mod workers;

#[cfg(test)]
mod tests;

pub use source::{Assumed, Source};
pub use worker::{block_on, now, spawn, turn};
pub use workers::Workers;
