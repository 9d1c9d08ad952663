//! Moving bytes: unchanged, both directions, each ending on its own.
//!
//! [`Relay`] is the future of one connection's data. It holds no buffer while nothing is in
//! flight: [`buffers`] lends one for as long as bytes wait for their receiver. [`Control`] is what
//! the rest of the process sees of it, and how it is told to leave.

mod buffers;
mod control;
mod flow;
mod pair;

pub use control::{Control, Order};
pub use pair::{End, IdleTimeouts, Relay};
