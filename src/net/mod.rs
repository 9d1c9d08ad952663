//! Sockets: bind, the SYN filter, accept with back-off, connect, options.

mod accept;
mod address;
mod attempt;
mod company;
mod connect;
mod connect_error;
pub mod handshakes;
mod listen;
pub mod optional;
pub mod options;
mod own;
mod race;
mod socket;
pub mod syn_filter;

pub use accept::{AcceptError, Accepted, Acceptor, Backoff};
pub use address::{ParseUpstreamError, Upstream};
pub use connect::{ConnectOptions, HalfClosed, connect};
pub use connect_error::ConnectError;
pub use listen::{BindError, Bound, ListenOptions, Listener};
pub use own::is_own;
pub use socket::Socket;
