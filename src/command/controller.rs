//! `ebbtide controller`: takes reports.

use tracing::info;

use super::{Exit, Failure};
use crate::controller::{self, Controller};
use crate::signal::Signals;

/// How long requests under way may take to end when the controller stops.
const STOP_PERIOD: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs a controller until a signal ends it.
///
/// # Errors
/// When its port is taken.
pub async fn run(args: controller::Args) -> Result<Exit, Failure> {
    let mut signals = Signals::new().map_err(Failure::unavailable)?;
    let controller = Controller::bind(&args, |_, _| {}).map_err(Failure::unavailable)?.start();
    let signal = signals.next().await;
    info!(?signal, "stopping");
    controller.stop(STOP_PERIOD).await;
    Ok(Exit::Done)
}
