//! How a proxy stands, said in the log when a signal asks.

use std::fmt::Write;

use tracing::info;

use crate::connection::Table;
use crate::drain::Drain;
use crate::signal::{Chore, Chores};

/// What is looked at.
pub struct Standing {
    /// The drain.
    pub drain: Drain,
    /// The live table.
    pub table: Table,
}

impl Standing {
    /// Does what SIGHUP and SIGUSR1 ask, for as long as the process runs.
    pub async fn attend(self, mut chores: Chores) {
        loop {
            match chores.next().await {
                // It is read before every report, so there is nothing left to do but to say so.
                Chore::Reload => info!(
                    "reload: the controller's token is read again with each report; other options want a restart"
                ),
                Chore::Report => self.say(),
            }
        }
    }

    fn say(&self) {
        let state = self.drain.state();
        let census = self.table.census();
        let mut by_class = String::new();
        for (class, count) in census.by_class.iter().filter(|(_, count)| **count > 0) {
            let space = if by_class.is_empty() { "" } else { " " };
            // Writing into a String can't fail.
            let _ = write!(by_class, "{space}{class}={count}");
        }
        info!(
            phase = state.phase.name(),
            trigger = state.progress.map(|progress| progress.reason().name()),
            remaining = self.table.remaining(),
            blocking = self.drain.blocking(),
            by_class,
            oldest_seconds = census.oldest.map(|age| age.as_secs_f64()),
            rejected = self.table.rejected(),
            forced = self.table.forced(),
            "state"
        );
    }
}
