//! Reports in, a pure decision, deregistration out: in its smallest honest form.
//!
//! Keeps the last report of every target, acknowledges it, and says in the log what a balancer would
//! be told. The log drives no balancer, so the answer to a drain is `pending`, unless the operator
//! says after how long weight zero may be assumed.

pub mod balancer;
mod check;
mod decide;
mod endpoints;
pub mod kubernetes;
mod table;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::api::report::Report;
use crate::api::serve::{self, Bound, Running, Server};

pub use balancer::Action;
pub use decide::{Decision, decide};
pub use table::TargetReport;

use table::Table;

/// Connections at once. A proxy keeps one for four seconds after a report, and reports every five
/// while it drains: enough for 4000 proxies that drain at the same time.
const MAX_CONNECTIONS: usize = 4096;

/// Take the proxies' reports, answer them, and log what a balancer would be told
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// Take reports on this address
    #[arg(
        long,
        env = "EBBTIDE_CONTROLLER_LISTEN",
        value_name = "ADDR",
        default_value = "0.0.0.0:17710"
    )]
    pub listen: SocketAddr,

    /// Remember at most this many targets, of about 2 KiB each
    #[arg(long, env = "EBBTIDE_MAX_TARGETS", value_name = "COUNT", default_value_t = 10_000)]
    pub max_targets: usize,

    /// Answer that weight zero is applied this long after it was logged, which ends a proxy's lame
    /// duck. Without it the answer stays `pending`: no balancer is driven, so nobody knows
    #[arg(
        long,
        env = "EBBTIDE_ASSUME_WEIGHT_ZERO_AFTER",
        value_name = "DURATION",
        value_parser = parse_duration
    )]
    pub assume_weight_zero_after: Option<Duration>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => humantime::parse_duration(text)
            .map_err(|_| format!("`{text}` is no duration; write 1500ms, 10s or 5m")),
    }
}

/// Told what is done for which target, with the report that made it so.
type OnAction = dyn Fn(Action, &Report) + Send + Sync;

/// A controller that holds its port and does not answer yet.
pub struct Controller {
    bound: Bound,
    shared: Arc<Shared>,
}

/// What every request needs.
struct Shared {
    table: Mutex<Table>,
    on_action: Box<OnAction>,
}

impl Controller {
    /// Takes the port. `on_action` is called for every action, after it is in the log; it must not
    /// block. Needs a tokio runtime around it.
    ///
    /// # Errors
    ///
    /// Names the address and what to do about it.
    pub fn bind(
        args: &Args,
        on_action: impl Fn(Action, &Report) + Send + Sync + 'static,
    ) -> Result<Self, serve::Error> {
        let server = Server { max_connections: MAX_CONNECTIONS, ..Server::default() };
        let bound = server.bind(args.listen)?;
        let shared = Arc::new(Shared {
            table: Mutex::new(Table::new(args.max_targets, args.assume_weight_zero_after)),
            on_action: Box::new(on_action),
        });
        Ok(Controller { bound, shared })
    }

    /// The address with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.bound.local_addr()
    }

    /// Takes reports until the [`Running`] is stopped or dropped.
    #[must_use]
    pub fn start(self) -> Running {
        tracing::info!(listen = %self.local_addr(), "controller takes reports");
        let router = endpoints::router(self.shared);
        self.bound.serve(router.into_handler())
    }
}
