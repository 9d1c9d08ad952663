//! Sockets: bind, the SYN filter, accept with back-off, connect, options.

mod accept;
mod address;
mod connect;
pub mod handshakes;
mod listen;
pub mod options;
mod socket;
pub mod syn_filter;

pub use accept::{AcceptError, Accepted, Acceptor, Backoff};
pub use address::{ParseUpstreamError, Upstream};
pub use connect::{ConnectError, connect};
pub use listen::{BindError, Bound, ListenOptions, Listener};
pub use socket::Socket;
