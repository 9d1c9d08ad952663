//! One connection from accept to close, the listeners they come through, and the live table.

mod closing;
mod listener;
mod observer;
mod reject;
mod serve;
mod table;
mod workers;

pub use closing::{Budget, see_out};
pub use listener::{
    ListenerSettings, ListenerState, ListenerStatus, Listening, RejectMode, Speaks,
};
pub use serve::{Serving, Settings};
pub use table::{Census, ConnectionId, Entry, Table};
pub use workers::Workers;
