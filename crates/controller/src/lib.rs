//! Reports in, a pure decision, deregistration out.
//!
//! `check.rs` takes a report apart, `table.rs` remembers it, `decide.rs` says what should be done about
//! its target, `dispatch.rs` gives the orders to a balancer, one file of `balancer/` a kind,
//! `endpoints.rs` answers those whom `gate/` lets in, `events.rs` tells followers what changed, and
//! `page.rs` is the page for people, `document.rs` the API's description for programs. Nothing is stored that
//! the next reports do not bring again.

mod allowance;
pub mod balancer;
mod check;
mod decide;
mod dispatch;
mod document;
mod endpoints;
mod events;
mod fall;
mod fleet;
pub mod gate;
pub mod kubernetes;
mod list;
mod look;
mod page;
mod peers;
mod runs;
mod service;
mod silence;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use ebbtide_api::client::Client;
use ebbtide_api::report::Report;
use ebbtide_api::serve::tls::Tls;
use ebbtide_api::serve::{self, Bound, Router, Running, Server};

pub use balancer::{Action, Balancer};
pub use fleet::Fleet;
pub use gate::Gate;
pub use service::Share;
pub use view::{TargetView, TroubleView};

use gate::Sources;
use peers::Peers;
use table::{Rules, Table};

/// Connections at once. A proxy keeps one for four seconds after a report, and reports every five
/// while it drains: enough for 4000 proxies that drain at the same time.
const MAX_CONNECTIONS: usize = 4096;

/// What a controller is to be.
pub struct Settings {
    /// Where it takes reports.
    pub listen: SocketAddr,
    /// Targets that it remembers at once, of about 2 KiB each.
    pub max_targets: usize,
    /// Reports that one target may send in a second, on the average of two; more are refused.
    pub max_report_rate: u32,
    /// Requests that one source address may send in a second, on the average of two; more are refused, but probes.
    pub max_source_rate: u32,
    /// After how long a silent target is deregistered. Serving proxies report every ten seconds.
    pub lost_after: Duration,
    /// How many targets of a service may drain at once because somebody asked; without it, all of them.
    pub max_draining: Option<Share>,
    /// The other replicas, which hear everything too. Itself may be among them.
    pub peers: Vec<Client>,
    /// Who may speak to it.
    pub gate: Gate,
    /// Its certificate; without one it speaks in clear text.
    pub tls: Option<Tls>,
    /// Whom it tells.
    pub balancer: Box<dyn Balancer>,
}

/// Told what was done for which target, with the last report of it.
type OnAction = dyn Fn(Action, &Report) + Send + Sync;

/// A controller that holds its port and does not answer yet.
pub struct Controller {
    bound: Bound,
    shared: Arc<Shared>,
    balancer: Arc<dyn Balancer>,
}

/// What every request and the dispatcher need.
struct Shared {
    table: Mutex<Table>,
    /// Told whenever an order may be due.
    stirred: Notify,
    on_action: Box<OnAction>,
    fleet: Option<Fleet>,
    /// A place for each who follows the changes.
    followers: Arc<Semaphore>,
    gate: Gate,
    sources: Sources,
    /// Whether followers are to be let go.
    stopping: AtomicBool,
    peers: Peers,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a report by what became of it.
    fn count(&self, result: &'static str) {
        if let Some(fleet) = &self.fleet {
            fleet.reported(result);
        }
    }
}

impl Controller {
    /// Takes the port. `on_action` is called for every action that a balancer has confirmed; it must not
    /// block. Needs a tokio runtime around it.
    ///
    /// # Errors
    ///
    /// Names the address and what to do about it.
    pub fn bind(
        settings: Settings,
        fleet: Option<Fleet>,
        on_action: impl Fn(Action, &Report) + Send + Sync + 'static,
    ) -> Result<Self, serve::Error> {
        let server = Server { max_connections: MAX_CONNECTIONS, ..Server::default() };
        let mut bound = server.bind(settings.listen)?;
        if let Some(tls) = settings.tls {
            bound = bound.with_tls(tls);
        }
        let rules = Rules {
            max_targets: settings.max_targets,
            max_report_rate: settings.max_report_rate,
            lost_after: settings.lost_after,
            max_draining: settings.max_draining,
        };
        let shared = Arc::new(Shared {
            table: Mutex::new(Table::new(rules)),
            stirred: Notify::new(),
            on_action: Box::new(on_action),
            fleet,
            followers: Arc::new(Semaphore::new(events::MAX_FOLLOWERS)),
            gate: settings.gate,
            sources: Sources::new(settings.max_source_rate, Instant::now()),
            stopping: AtomicBool::new(false),
            peers: Peers::new(settings.peers),
        });
        Ok(Controller { bound, shared, balancer: settings.balancer.into() })
    }

    /// The address with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.bound.local_addr()
    }

    /// Takes reports and drives the balancer until the [`Working`] is stopped or dropped.
    #[must_use]
    pub fn start(self) -> Working {
        let balancer = self.balancer.name();
        tracing::info!(listen = %self.local_addr(), balancer, "controller takes reports");
        let dispatcher = tokio::spawn(dispatch::run(Arc::clone(&self.shared), self.balancer));
        let handler = router(&self.shared).into_handler();
        let running = self.bound.serve(endpoints::bounded(&self.shared, handler));
        Working { running, dispatcher, shared: self.shared }
    }
}

/// Everything that it answers.
fn router(shared: &Arc<Shared>) -> Router {
    document::routes(page::routes(endpoints::router(shared)))
}

/// A controller at work. Dropping it closes its port; orders under way are abandoned.
pub struct Working {
    running: Running,
    dispatcher: JoinHandle<()>,
    shared: Arc<Shared>,
}

impl Working {
    /// The address with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.running.local_addr()
    }

    /// Closes the port and lets the requests under way have their answers, for `timeout` at most.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the controller.
    pub async fn stop(self, timeout: Duration) {
        let Working { running, dispatcher, shared } = self;
        shared.stopping.store(true, Ordering::Relaxed);
        running.stop(timeout).await;
        dispatcher.abort();
    }
}
