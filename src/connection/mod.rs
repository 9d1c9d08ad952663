//! One connection from accept to close, the listeners they come through, and the live table.

mod closing;
mod listener;
mod reject;
mod serve;
mod table;
mod workers;

pub use closing::see_out;
pub use listener::{ListenerSettings, ListenerState, ListenerStatus, Listening, RejectMode};
pub use serve::{Serving, Settings};
pub use table::{Class, ConnectionId, Entry, Table};
pub use workers::Workers;
