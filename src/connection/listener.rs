//! A listener while it serves; what it does once it rejects is in `rejecting.rs`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::closing;
use super::policy::{ListenerProtocol, RejectMode};
use super::serve::{Connection, Serving};
use super::status::{ListenerState, ListenerStatus};
use crate::drain::{Door, Phase, State};
use crate::net::{AcceptError, Accepted, Acceptor, Backoff, Listener, Upstream, handshakes};
use crate::protocol::Class;
use crate::protocol::http1::Options as Http1Options;

/// How a listener treats those who come.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Where its connections go.
    pub upstream: Arc<Upstream>,
    /// What they speak.
    pub speaks: ListenerProtocol,
    /// What is looked for in HTTP/1.
    pub http1: Arc<Http1Options>,
    /// What happens to new connections once the lame duck is over.
    pub reject: RejectMode,
    /// Networks that stay welcome whatever the mode.
    pub admit: Vec<IpNet>,
    /// Networks whose connections only check our health and never keep a drain from ending.
    pub health_check_from: Vec<IpNet>,
    /// How long the accept queue must have been empty before a listener is closed.
    pub settle_period: Duration,
}

/// A listener at work.
#[derive(Debug)]
pub struct Listening {
    pub(super) settings: Arc<ListenerSettings>,
    pub(super) serving: Arc<Serving>,
    pub(super) status: Arc<ListenerStatus>,
    pub(super) listener: Acceptor,
    pub(super) door: Door,
    pub(super) states: watch::Receiver<State>,
    /// As many connections as may be open, over all listeners; absent without a bound.
    pub(super) permits: Option<Arc<Semaphore>>,
    pub(super) backoff: Backoff,
    /// SYN cookies that the kernel had sent before this listener served.
    pub(super) cookies_before: Option<u64>,
}

/// Why a round of accepting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
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
        let cookies_before = handshakes::cookies_sent();
        Listening {
            settings,
            serving,
            status,
            listener,
            door,
            states,
            permits,
            backoff,
            cookies_before,
        }
    }

    /// The same work on another socket, with an intake of its own.
    pub(super) fn on(&self, listener: Acceptor) -> Self {
        Listening {
            settings: Arc::clone(&self.settings),
            serving: Arc::clone(&self.serving),
            status: Arc::clone(&self.status),
            listener,
            door: self.serving.drain.door(),
            states: self.serving.drain.watch(),
            permits: self.permits.clone(),
            backoff: Backoff::default(),
            cookies_before: self.cookies_before,
        }
    }

    /// Serves and drains, and serves again after an undrain, on a worker. Ends only with the process.
    pub async fn run(mut self) {
        loop {
            self.status.set(ListenerState::Accepting);
            self.serve_until_rejecting().await;
            self = match self.settings.reject {
                RejectMode::Refuse if self.settings.admit.is_empty() => self.refuse().await,
                RejectMode::Refuse | RejectMode::Drop => self.drop_syns().await,
                RejectMode::Accept => self.accept_on().await,
                RejectMode::Http503 | RejectMode::Reset => self.turn_away().await,
            };
            self.door.reopen();
        }
    }

    pub(super) fn is_rejecting(&self) -> bool {
        self.states.borrow().phase >= Phase::Draining
    }

    /// Serves everybody until the lame duck is over.
    async fn serve_until_rejecting(&mut self) {
        while !self.is_rejecting() {
            self.serve_round(None).await;
        }
    }

    /// Serves who comes until the phase changes, or nobody has come for `settle_period`.
    pub(super) async fn serve_round(&mut self, settle_period: Option<Duration>) -> Ended {
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
            // The poller saw nothing; check the accept queue itself before believing it.
            let accepted = accepted.or_else(|| self.listener.try_accept().transpose());
            match accepted {
                None => return Ended::QueueEmpty,
                Some(Ok(accepted)) => self.serve(accepted, permit),
                Some(Err(error)) => self.pause(&error).await,
            }
        }
    }

    /// A permit to open one more connection. None is needed when nobody has come for `settle_period`.
    pub(super) async fn permit(
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

    pub(super) fn serve(&mut self, accepted: Accepted, permit: Option<OwnedSemaphorePermit>) {
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
    pub(super) async fn pause(&mut self, error: &AcceptError) {
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
}

pub(super) fn contains(networks: &[IpNet], addr: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&addr))
}
