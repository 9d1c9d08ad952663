//! One connection from accept to close, the listeners they come through, and the live table.

mod closing;
mod lending;
mod listener;
mod observer;
mod policy;
mod reject;
mod rejecting;
mod serve;
mod status;
mod table;

pub use closing::{Budget, see_out};
pub use lending::empty_parking;
pub use listener::{ListenerSettings, Listening};
pub use policy::{ListenerProtocol, RejectMode};
pub use serve::{Serving, Settings};
pub use status::{ListenerState, ListenerStatus};
pub use table::{Census, ConnectionId, Entry, Table};
