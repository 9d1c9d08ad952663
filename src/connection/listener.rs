//! A listener through the life of a drain: accepting, emptied behind the SYN gate, closed, reopened.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::closing;
use super::policy::{RejectMode, Speaks};
use super::reject;
use super::serve::{Connection, Serving};
use super::status::{ListenerState, ListenerStatus};
use crate::drain::{Door, Phase, State};
use crate::net::{AcceptError, Accepted, Acceptor, Backoff, Bound, Listener, Upstream, gate};
use crate::protocol::Class;
use crate::protocol::http1::Options as Http1Options;

/// Between tries to get the port back after an undrain.
const REBIND_INTERVAL: Duration = Duration::from_millis(500);

/// How a listener treats those who come.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Where its connections go.
    pub upstream: Arc<Upstream>,
    /// What they speak.
    pub speaks: Speaks,
    /// What is looked for in HTTP/1.
    pub http1: Arc<Http1Options>,
    /// What happens to new connections once the lame duck is over.
    pub reject: RejectMode,
    /// Networks that stay welcome whatever the mode.
    pub admit: Vec<IpNet>,
    /// Networks whose connections only check our health and never keep a drain from ending.
    pub health_check_from: Vec<IpNet>,
    /// How long the accept queue must have been empty before a gated listener is closed.
    pub settle_period: Duration,
}

/// A listener at work.
#[derive(Debug)]
pub struct Listening {
    settings: Arc<ListenerSettings>,
    serving: Arc<Serving>,
    status: Arc<ListenerStatus>,
    listener: Acceptor,
    door: Door,
    states: watch::Receiver<State>,
    /// As many connections as may be open, over all listeners; absent without a bound.
    permits: Option<Arc<Semaphore>>,
    backoff: Backoff,
}

/// Why a round of accepting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    PhaseChanged,
    QueueEmpty,
}

impl Listening {
    /// Puts a listener to work.
    #[must_use]
    pub fn new(
        listener: Listener,
        settings: ListenerSettings,
        status: Arc<ListenerStatus>,
        serving: Arc<Serving>,
        permits: Option<Arc<Semaphore>>,
    ) -> Self {
        let door = serving.drain.door();
        let states = serving.drain.watch();
        let backoff = Backoff::default();
        let listener = Acceptor::from(listener);
        let settings = Arc::new(settings);
        Listening { settings, serving, status, listener, door, states, permits, backoff }
    }

    /// Serves and drains, and serves again after an undrain, on a worker. Ends only with the process.
    pub async fn run(mut self) {
        loop {
            self.status.set(ListenerState::Accepting);
            self.serve_until_rejecting().await;
            self = match self.settings.reject {
                RejectMode::Refuse if self.settings.admit.is_empty() => self.refuse().await,
                RejectMode::Refuse | RejectMode::Drop => self.gate().await,
                RejectMode::Accept => self.accept_on().await,
                RejectMode::Http503 | RejectMode::Reset => self.turn_away().await,
            };
            self.door.reopen();
        }
    }

    fn is_rejecting(&self) -> bool {
        self.states.borrow().phase >= Phase::Draining
    }

    /// Serves everybody until the lame duck is over.
    async fn serve_until_rejecting(&mut self) {
        while !self.is_rejecting() {
            self.serve_round(None).await;
        }
    }

    /// Serves who comes until the phase changes, or nobody has come for `settle_period`.
    async fn serve_round(&mut self, settle_period: Option<Duration>) -> Ended {
        loop {
            let permit = match self.permit(settle_period).await {
                Ok(permit) => permit,
                Err(ended) => return ended,
            };
            let accepted = async {
                match settle_period {
                    Some(period) => timeout(period, self.listener.accept()).await.ok(),
                    None => Some(self.listener.accept().await),
                }
            };
            let accepted = tokio::select! {
                biased;
                _ = self.states.changed() => return Ended::PhaseChanged,
                accepted = accepted => accepted,
            };
            // Silence by the poller's word; the queue itself has the last one.
            let accepted = accepted.or_else(|| self.listener.try_accept().transpose());
            match accepted {
                None => return Ended::QueueEmpty,
                Some(Ok(accepted)) => self.serve(accepted, permit),
                Some(Err(error)) => self.pause(&error).await,
            }
        }
    }

    /// Leave to open one more connection. None is needed when nobody has come for `settle_period`.
    async fn permit(
        &mut self,
        mut settle_period: Option<Duration>,
    ) -> Result<Option<OwnedSemaphorePermit>, Ended> {
        let Some(permits) = &self.permits else { return Ok(None) };
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Ok(Some(permit));
        }
        self.serving.metrics.accept_paused();
        warn!(
            listener = %self.status.addr,
            "as many connections are open as --max-connections allows: accepting pauses"
        );
        loop {
            let settled = async {
                match settle_period {
                    Some(period) => sleep(period).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.states.changed() => return Err(Ended::PhaseChanged),
                // The semaphore is never closed.
                permit = Arc::clone(permits).acquire_owned() => return Ok(permit.ok()),
                () = settled => {}
            }
            // Nobody accepts meanwhile, so a queue that is empty now was empty all the time.
            if self.listener.queue_length() == 0 {
                return Err(Ended::QueueEmpty);
            }
            settle_period = None;
        }
    }

    fn serve(&mut self, accepted: Accepted, permit: Option<OwnedSemaphorePermit>) {
        self.backoff.reset();
        let phase = self.states.borrow().phase;
        let peer = accepted.peer.ip();
        let tracker = self.settings.speaks.tracker(&self.settings.http1, peer);
        let is_health_check = contains(&self.settings.health_check_from, peer);
        let class = if is_health_check { Class::HealthCheck } else { tracker.class() };
        // Counted before the queue is looked at again: a drain never sees zero in between.
        let guard = (!is_health_check).then(|| self.serving.drain.guard());
        let registered = self.serving.table.register(accepted.peer, &self.status, class);
        closing::join(&self.serving.drain, &registered.entry.control);
        if phase >= Phase::Draining && !is_health_check {
            self.serving.metrics.late();
        }
        let connection = Connection { client: accepted.fd, registered, tracker, guard, permit };
        self.serving.spawn(connection, &self.settings);
    }

    /// The system is out of something: say so and wait a moment.
    async fn pause(&mut self, error: &AcceptError) {
        let pause = self.backoff.pause();
        self.serving.metrics.accept_failed(error.reason());
        warn!(
            listener = %self.status.addr,
            error = error as &dyn std::error::Error,
            pause_seconds = pause.as_secs_f64(),
            "accepting pauses"
        );
        sleep(pause).await;
    }

    /// Drops new handshakes. `false` when the kernel refuses the filter.
    fn shut_gate(&self) -> bool {
        match gate::shut(&self.listener.socket(), &self.settings.admit) {
            Ok(()) => true,
            Err(error) => {
                warn!(
                    listener = %self.status.addr,
                    error = &error as &dyn std::error::Error,
                    "the kernel refuses the SYN gate: the queue is emptied without it, so a \
                     connection that arrives in the very instant of the close may be reset"
                );
                false
            }
        }
    }

    /// Refuse mode: gate, empty the queue, close; back to work when the drain is undone.
    async fn refuse(mut self) -> Self {
        self.status.set(ListenerState::Gated);
        let gated = self.shut_gate();
        // Without the gate, waiting for silence might take for ever: an empty queue has to do.
        let settle_period = if gated { self.settings.settle_period } else { Duration::ZERO };
        while self.is_rejecting() {
            if self.serve_round(Some(settle_period)).await == Ended::QueueEmpty {
                return self.closed().await;
            }
        }
        self.reopened();
        self
    }

    /// Closes the listener, waits for an undrain, and gets the port back.
    async fn closed(self) -> Self {
        let Listening {
            settings,
            serving,
            status,
            listener,
            mut door,
            mut states,
            permits,
            backoff,
        } = self;
        let options = listener.options();
        let queued = listener.queue_length();
        drop(listener);
        serving.metrics.queue_aborted(queued);
        status.set(ListenerState::Refusing);
        info!(listener = %status.addr, aborted = queued, "listener closed");
        door.close();
        // A lost sender means that the process ends; nobody is there to undrain.
        while states.wait_for(|state| state.phase < Phase::Draining).await.is_err() {
            std::future::pending::<()>().await;
        }
        let listener = loop {
            match Bound::new(status.addr, options).and_then(Bound::listen) {
                Ok(listener) => break listener,
                Err(error) => {
                    error!(
                        listener = %status.addr,
                        error = &error as &dyn std::error::Error,
                        "undrained, but the port can't be had back yet"
                    );
                    sleep(REBIND_INTERVAL).await;
                }
            }
        };
        info!(listener = %status.addr, "listener reopened");
        let listener = Acceptor::from(listener);
        Listening { settings, serving, status, listener, door, states, permits, backoff }
    }

    fn reopened(&self) {
        match gate::open(&self.listener.socket()) {
            Ok(()) => info!(listener = %self.status.addr, "SYN gate removed"),
            Err(error) => {
                // Without a filter there is nothing to remove, and we have said so at the start.
                tracing::debug!(error = &error as &dyn std::error::Error, "no SYN gate to remove");
            }
        }
    }

    /// The gate stays: others hear nothing, admitted networks are served.
    async fn gate(mut self) -> Self {
        self.status.set(ListenerState::Gated);
        if !self.shut_gate() {
            return self.turn_away().await;
        }
        let mut settling = Some(self.settings.settle_period);
        while self.is_rejecting() {
            if self.serve_round(settling).await == Ended::QueueEmpty {
                self.status.set(ListenerState::Rejecting);
                self.door.shut();
                settling = None;
            }
        }
        self.reopened();
        self
    }

    /// Accept mode: nobody is rejected; the drain is over when nobody is left.
    async fn accept_on(mut self) -> Self {
        self.door.shut();
        while self.is_rejecting() {
            self.serve_round(None).await;
        }
        self
    }

    /// Accepts and turns away, but for admitted networks. Who was queued before is served.
    async fn turn_away(mut self) -> Self {
        while self.is_rejecting() {
            if self.serve_round(Some(Duration::ZERO)).await == Ended::QueueEmpty {
                self.status.set(ListenerState::Rejecting);
                self.door.shut();
                while self.is_rejecting() {
                    self.turn_away_round().await;
                }
            }
        }
        self
    }

    async fn turn_away_round(&mut self) {
        loop {
            let accepted = tokio::select! {
                biased;
                _ = self.states.changed() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Err(error) => self.pause(&error).await,
                Ok(accepted) if contains(&self.settings.admit, accepted.peer.ip()) => {
                    // It is accepted already: what ends the wait is not held against it.
                    let permit = self.permit(None).await;
                    let ended = permit.is_err();
                    self.serve(accepted, permit.ok().flatten());
                    if ended {
                        return;
                    }
                }
                Ok(accepted) => {
                    self.serving.table.count_rejected();
                    self.serving.metrics.rejected(self.settings.reject.name());
                    reject::turn_away(accepted, self.settings.reject, self.settings.speaks);
                }
            }
        }
    }
}

fn contains(networks: &[IpNet], addr: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&addr))
}
