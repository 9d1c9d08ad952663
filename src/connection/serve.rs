//! One connection, from accept to close.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, info, warn};

use super::listener::ListenerSettings;
use super::observer::Watcher;
use super::table::{Entry, Registered, Table};
use crate::api::error_chain;
use crate::drain::{Drain, Guard, Phase};
use crate::net::{ConnectError, ConnectOptions, Socket, Upstream, connect, is_own};
use crate::protocol::{Class, Direction, Tracker, Unfinished};
use crate::reactor::Workers;
use crate::relay::{Acknowledgement, End, Order, Relay, RelaySettings};
use crate::telemetry::Metrics;

/// How connections are treated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How the application is connected to.
    pub connect: ConnectOptions,
    /// How long an upstream connection is silent before it serves another client.
    pub upstream_rest: Duration,
    /// What a connection is granted and told.
    pub manners: RelaySettings,
    /// Whether the last response of a drain says when its deadline is.
    pub drain_deadline_header: bool,
}

/// What every connection of the process shares.
#[derive(Debug)]
pub struct Serving {
    /// How connections are treated.
    pub settings: Settings,
    /// The live table.
    pub table: Table,
    /// The drain.
    pub drain: Drain,
    /// What is counted.
    pub metrics: Metrics,
    /// Where connections live.
    pub workers: Workers,
}

/// A connection that was accepted and counted, and is not yet served.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: OwnedFd,
    pub(super) registered: Registered,
    pub(super) tracker: Tracker,
    /// Keeps the drain from ending; a health check has none.
    pub(super) guard: Option<Guard>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// What is needed until the application has accepted. Boxed: an idle connection's task has no room
/// for what is over.
#[derive(Debug)]
struct Opening {
    client: OwnedFd,
    upstream: Arc<Upstream>,
    tracker: Tracker,
    guard: Option<Guard>,
}

/// A connection from end to end.
#[derive(Debug)]
struct Opened {
    client: Socket,
    upstream: Socket,
    tracker: Tracker,
}

/// How a connection ended, seen from accept to close.
#[derive(Debug)]
pub(super) enum Outcome {
    Relayed(End),
    NoUpstream(ConnectError),
    /// It left while the application was waited for.
    ClientLeft,
    /// It was told to end before the application had accepted it.
    ToldToEnd,
    /// The kernel watches no more sockets.
    NoSocket(std::io::Error),
}

impl Outcome {
    /// Whether epoll refused to watch one of the sockets: no connect fails with these.
    fn is_unwatched(&self) -> bool {
        match self {
            Outcome::NoSocket(_) => true,
            Outcome::NoUpstream(ConnectError::Other(_, error)) => {
                matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::NOMEM))
            }
            _ => false,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Outcome::Relayed(End::Finished | End::AtRest | End::WantsUpstream) => "finished",
            Outcome::Relayed(End::ClientBroke(_)) => "client_broke",
            Outcome::Relayed(End::UpstreamBroke(_)) => "upstream_broke",
            Outcome::Relayed(End::HalfClosedTimeout) => "half_closed_timeout",
            Outcome::Relayed(End::IdleTimeout) => "idle_timeout",
            Outcome::Relayed(End::SeenOff) => "seen_off",
            Outcome::Relayed(End::GivenUp(Unfinished::Head)) => "head_timeout",
            Outcome::Relayed(End::GivenUp(_)) => "request_timeout",
            Outcome::Relayed(End::Reset) | Outcome::ToldToEnd => "reset",
            Outcome::NoUpstream(_) => "no_upstream",
            Outcome::ClientLeft => "client_left",
            Outcome::NoSocket(_) => "no_socket",
        }
    }
}

impl Serving {
    /// Serves one connection to its end on one of the workers.
    pub(super) fn spawn(
        self: &Arc<Self>,
        connection: Connection,
        settings: &Arc<ListenerSettings>,
    ) {
        let Connection { client, registered, tracker, guard, permit } = connection;
        let serving = Arc::clone(self);
        if settings.http1.upstream_reuse {
            let settings = Arc::clone(settings);
            let carry = move || serving.carry_lending(client, settings, registered, guard, permit);
            return self.workers.spawn(carry);
        }
        let upstream = Arc::clone(&settings.upstream);
        let opening = Box::new(Opening { client, upstream, tracker, guard });
        self.workers.spawn(move || serving.carry(opening, registered, permit));
    }

    /// The whole of a connection's task.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps each of its arguments twice")]
    fn carry(
        self: Arc<Self>,
        mut opening: Box<Opening>,
        registered: Registered,
        permit: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = ()> {
        async move {
            let guard = opening.guard.take();
            let mut watcher = Watcher::new(&self, &registered.entry, guard);
            let outcome = Self::serve(opening, &mut watcher).await;
            let guard = watcher.into_guard();
            self.end(registered, &outcome, permit, guard);
        }
    }

    /// Says how a connection ended, and gives up what it held.
    pub(super) fn end(
        &self,
        registered: Registered,
        outcome: &Outcome,
        permit: Option<OwnedSemaphorePermit>,
        guard: Option<Guard>,
    ) {
        self.record(&registered.entry, outcome);
        drop(registered);
        drop(permit);
        // Last, so that a drain that sees zero finds nothing left in the table.
        drop(guard);
    }

    /// Connects, and relays to the end. What it needs of the connection it takes from the watcher:
    /// every argument is room in the task.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps each of its arguments twice")]
    fn serve(opening: Box<Opening>, watcher: &mut Watcher<'_>) -> impl Future<Output = Outcome> {
        async move {
            // Boxed, because it is most of the task and gone before the first byte.
            let opening = Box::pin(watcher.serving.open(*opening, watcher.entry));
            let Opened { client, upstream, tracker } = match opening.await {
                Ok(opened) => opened,
                Err(outcome) => return outcome,
            };
            let Watcher { serving, entry, .. } = *watcher;
            let manners = &serving.settings.manners;
            let control = &entry.control;
            let upstream = Some(upstream);
            let end = Relay::new(&client, upstream, control, tracker, manners, watcher).await;
            watcher.serving.deliver(&end, &client, watcher.entry).await;
            Outcome::Relayed(end)
        }
    }

    /// In a drain, waits until an orderly end has reached the client.
    pub(super) async fn deliver(&self, end: &End, client: &Socket, entry: &Entry) {
        if matches!(end, End::Finished | End::SeenOff) && self.drain.state().phase != Phase::Serving
        {
            acknowledged(client, entry).await;
        }
    }

    /// Connects to the application.
    async fn open(&self, opening: Opening, entry: &Entry) -> Result<Opened, Outcome> {
        let client = Socket::new(opening.client).map_err(Outcome::NoSocket)?;
        let upstream = self.connect(&opening.upstream, &client, entry).await?;
        Ok(Opened { client, upstream, tracker: opening.tracker })
    }

    /// Connects to the application; a client for whom that fails is reset.
    pub(super) async fn connect(
        &self,
        upstream: &Upstream,
        client: &Socket,
        entry: &Entry,
    ) -> Result<Socket, Outcome> {
        let looped = || {
            client.reset_on_close();
            Outcome::NoUpstream(ConnectError::Loop(upstream.clone()))
        };
        if is_own(client, entry.peer) {
            return Err(looped());
        }
        let connected = tokio::select! {
            connected = connect(upstream, &self.settings.connect, client) => connected,
            () = entry.control.ordered(Order::Close) => {
                client.reset_on_close();
                return Err(Outcome::ToldToEnd);
            }
        };
        match connected {
            // Another worker may have made it, and said so only now.
            Ok(_) if is_own(client, entry.peer) => Err(looped()),
            Ok(upstream) => Ok(upstream),
            Err(ConnectError::ClientLeft(_)) => {
                client.reset_on_close();
                Err(Outcome::ClientLeft)
            }
            Err(error) => {
                client.reset_on_close();
                Err(Outcome::NoUpstream(error))
            }
        }
    }

    /// One line when a connection ends, and its counts.
    fn record(&self, entry: &Entry, outcome: &Outcome) {
        let from_client = entry.control.bytes(Direction::FromClient);
        let probe = from_client == 0 && !matches!(outcome, Outcome::NoUpstream(_));
        let class = match entry.control.forced_class() {
            Some(class) => class,
            None if probe => Class::HealthCheck,
            None => entry.class(),
        };
        self.metrics.connection_ended(class == Class::HealthCheck, entry.age());
        if let Outcome::Relayed(End::GivenUp(unfinished)) = outcome {
            self.metrics.client_given_up(unfinished.name());
        }
        if let Outcome::NoUpstream(error) = outcome {
            self.metrics.upstream_failed(error.reason());
        }
        let forced = entry.was_forced().then(|| match entry.control.current() {
            Order::Serve | Order::Drain | Order::Retire | Order::Leave => "asked",
            Order::Close => "closed",
            Order::Reset => "reset",
        });
        if let Some(reason) = forced {
            self.metrics.forced(class.name(), reason);
        }
        let age_seconds = entry.age().as_secs_f64();
        let from_upstream = entry.control.bytes(Direction::FromUpstream);
        let error: Option<&dyn std::error::Error> = match outcome {
            Outcome::NoUpstream(error) => Some(error),
            Outcome::Relayed(End::ClientBroke(error) | End::UpstreamBroke(error))
            | Outcome::NoSocket(error) => Some(error),
            _ => None,
        };
        macro_rules! line {
            ($level:ident, $message:literal) => {
                $level!(
                    id = entry.id.to_string(),
                    peer = %entry.peer,
                    listener = %entry.listener.addr,
                    class = class.name(),
                    end = outcome.name(),
                    age_seconds,
                    from_client_bytes = from_client,
                    from_upstream_bytes = from_upstream,
                    forced,
                    error = error.map(error_chain),
                    $message
                )
            };
        }
        match (outcome, forced) {
            (_, Some(_)) => line!(warn, "connection force-closed by the drain"),
            (outcome, None) if outcome.is_unwatched() => {
                line!(warn, "connection reset: the kernel watches no more sockets (epoll)");
            }
            (Outcome::NoUpstream(_) | Outcome::NoSocket(_), None) => {
                line!(warn, "connection reset: the application can't be reached");
            }
            (Outcome::Relayed(End::GivenUp(_)), None) if !self.drain.is_serving() => {
                line!(info, "client given up: it did not finish what it had begun");
            }
            _ => line!(debug, "connection ended"),
        }
    }
}

/// Waits until the client has acknowledged every byte.
///
/// A kernel goes on sending for a closed socket, but not for a pod whose network is gone: the
/// process must not leave while the end of an answer is still in its socket's queue.
async fn acknowledged(client: &Socket, entry: &Entry) {
    let mut delivery = Acknowledgement::new();
    let all = std::future::poll_fn(|cx| delivery.poll(cx, client));
    tokio::select! {
        () = all => {}
        () = entry.control.ordered(Order::Close) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is called: the types say it all.
    fn future_bytes<A, B, C, D, F: Future>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Memory per idle connection is this, its entry, what watches its bytes, and what the reactor adds
    /// to a task and to two sockets. A future that grows by a field on the way to another await is
    /// noticed here.
    #[test]
    fn a_connection_stays_small() {
        const MOST_TASK_BYTES: usize = 400;
        const MOST_ENTRY_BYTES: usize = 136;
        const MOST_HTTP1_BYTES: usize = 200;
        let task = future_bytes(Serving::carry);
        let entry = size_of::<Entry>();
        let http1 = size_of::<crate::protocol::http1::Tracker>();
        println!(
            "task {task}, of it the relay {}; http1 {http1}; entry {entry}, of it the control {}",
            size_of::<Relay<'_, Watcher<'_>>>(),
            size_of::<crate::relay::Control>()
        );
        assert!(task <= MOST_TASK_BYTES, "the task of a connection has grown to {task} bytes");
        assert!(http1 <= MOST_HTTP1_BYTES, "what watches HTTP/1 has grown to {http1} bytes");
        assert!(entry <= MOST_ENTRY_BYTES, "an entry has grown to {entry} bytes");
    }
}
