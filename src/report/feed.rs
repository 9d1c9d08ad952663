//! What the rest of the proxy and the reporter tell each other.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};

use crate::api::report::{Answer, Report};
use crate::drain::Phase;

/// What the reporter lives on.
pub struct Feed {
    /// The state of this moment. The reporter fills in `sequence` and the identity; everything else,
    /// `startTime` included, is the snapshot's. Called once a report, so it may count.
    pub snapshot: Arc<dyn Fn() -> Report + Send + Sync>,
    /// The phase of the drain. A change is reported at once; a lost sender means nothing.
    pub phase: watch::Receiver<Phase>,
    /// Told with `notify_one` whenever a count changed; as often as you like, it is coalesced.
    pub count_changed: Arc<Notify>,
    /// Told with `notify_one` when something changed that the controller waits for: it is reported at once.
    pub news: Arc<Notify>,
    /// Takes every answer that we understood. An answer that finds no room is dropped: the next one
    /// says the same.
    pub answers: mpsc::Sender<Answer>,
}

/// What became of the report that says `Drained`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// No such report is due, or it is still being tried.
    Pending,
    /// The controller has stored it, and has done its part.
    Acknowledged,
    /// The controller has stored it, and the balancer refuses: nothing comes of waiting.
    Refused,
    /// Its time was over first.
    GivenUp,
}

/// Lets the process wait for the report that says `Drained` before it exits.
#[derive(Clone, Debug)]
pub struct FinalReport {
    delivery: watch::Receiver<Delivery>,
}

impl FinalReport {
    pub(super) fn new(delivery: watch::Receiver<Delivery>) -> Self {
        FinalReport { delivery }
    }

    /// What became of it so far.
    #[must_use]
    pub fn now(&self) -> Delivery {
        *self.delivery.borrow()
    }

    /// Waits until it was acknowledged or given up, which `--final-report-timeout` after the phase
    /// became `Drained` it is at the latest. A reporter that is gone has given up.
    ///
    /// An undrain makes it [`Delivery::Pending`] again.
    ///
    /// # Cancel safety
    ///
    /// Waiting may be dropped and begun again.
    pub async fn wait(&mut self) -> Delivery {
        self.delivery
            .wait_for(|delivery| *delivery != Delivery::Pending)
            .await
            .map_or(Delivery::GivenUp, |delivery| *delivery)
    }
}
