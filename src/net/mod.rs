//! Sockets: bind, the SYN gate, accept with back-off, connect, options.

mod accept;
mod address;
mod connect;
pub mod gate;
mod listen;
pub mod options;
mod socket;

pub use accept::{AcceptError, Accepted, Acceptor, Backoff};
pub use address::{ParseUpstreamError, Upstream};
pub use connect::{ConnectError, connect};
pub use listen::{BindError, Bound, ListenOptions, Listener};
pub use socket::Socket;
