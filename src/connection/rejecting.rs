//! A listener that rejects: what a new connection meets in each reject mode, and how the listener is
//! emptied, closed and reopened without losing a connection that the kernel has accepted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::listener::{Ended, Listening, contains};
use super::policy::{ListenerProtocol, RejectMode};
use super::reject;
use super::serve::Serving;
use super::status::{ListenerState, ListenerStatus};
use crate::drain::Phase;
use crate::net::syn_filter::{self, SynDropper, SynFilter};
use crate::net::{Acceptor, Backoff, Bound, ListenOptions, Listener, handshakes};
use crate::reactor;

/// How long to wait before the port is asked for again, if someone else has it after an undrain.
const REBIND_INTERVAL: Duration = Duration::from_millis(500);

/// How long a listener is kept for handshakes that are half open. A SYN-ACK that was lost is sent again
/// after 1 s, and once more after 3 s; a handshake that is older is a client that is gone.
///
/// # Source
/// RFC 6298 §5.7; Linux `TCP_TIMEOUT_INIT`.
const HALF_OPEN_TIMEOUT: Duration = Duration::from_millis(3500);

/// Where the kernel does not tell of half-open handshakes, the queue must have been empty for at least
/// this long: longer than a round trip takes.
const UNSEEN_SETTLE_PERIOD: Duration = Duration::from_secs(1);

/// For the old socket after an undrain. While it waits it keeps the permit of one connection.
const FINISH_PERIOD: Duration = Duration::from_millis(100);

impl Listening {
    /// Refuse mode: lets the kernel refuse newcomers, empties the queue, closes the listener; back to
    /// work when the drain is undone.
    pub(super) async fn refuse(mut self) -> Self {
        if self.cookies_are_in_use() && self.finish_cookies().await == Ended::PhaseChanged {
            self.filtered(SynFilter::Off);
            return self;
        }
        let filter = match syn_filter::refuse(&self.listener) {
            Ok(()) => SynFilter::Device,
            Err(error) => {
                warn!(
                    listener = %self.status.addr,
                    error = &error as &dyn std::error::Error,
                    "the kernel does not let this listener refuse new connections while its queue is emptied"
                );
                return self.refuse_with_dropper().await;
            }
        };
        self.status.set(ListenerState::Refusing);
        self.filtered(filter);
        match self.empty_queue(self.settings.settle_period).await {
            Ended::QueueEmpty => self.closed(None).await,
            Ended::PhaseChanged => self.reopened_beside().await,
        }
    }

    /// Refuse mode where the kernel can only drop SYNs, or not even that.
    async fn refuse_with_dropper(mut self) -> Self {
        self.status.set(ListenerState::Dropping);
        let dropper = self.drop_handshakes();
        let ended = match &dropper {
            Some(_) => self.empty_queue(self.settings.settle_period).await,
            // Without a filter, waiting for silence might take for ever: an empty queue has to do.
            None => loop {
                let ended = self.serve_round(Some(Duration::ZERO)).await;
                if ended == Ended::QueueEmpty || !self.is_rejecting() {
                    break ended;
                }
            },
        };
        match ended {
            Ended::QueueEmpty => self.closed(dropper).await,
            Ended::PhaseChanged => {
                self.filtered(SynFilter::Off);
                self
            }
        }
    }

    fn cookies_are_in_use(&self) -> bool {
        handshakes::cookies_sent() > self.cookies_before
    }

    /// The ACK that brings a SYN cookie back finds no request socket, only the listener itself, and the
    /// kernel counts such a handshake nowhere. So new SYNs are dropped first, until those ACKs are in.
    async fn finish_cookies(&mut self) -> Ended {
        self.status.set(ListenerState::Dropping);
        // Without it, waiting for silence might take for ever.
        let Some(_dropper) = self.drop_handshakes() else { return Ended::QueueEmpty };
        let period = self.settings.settle_period.max(UNSEEN_SETTLE_PERIOD);
        loop {
            match self.serve_round(Some(period)).await {
                Ended::PhaseChanged if self.is_rejecting() => {}
                ended => return ended,
            }
        }
    }

    /// Serves whoever is queued or in a handshake, until there has been none for a period. `PhaseChanged`
    /// when the drain is undone.
    async fn empty_queue(&mut self, mut period: Duration) -> Ended {
        let began = Instant::now();
        loop {
            if self.serve_round(Some(period)).await == Ended::PhaseChanged {
                if self.is_rejecting() {
                    continue;
                }
                return Ended::PhaseChanged;
            }
            let is_over = began.elapsed() >= HALF_OPEN_TIMEOUT;
            match handshakes::half_open(self.status.addr) {
                Some(0) => return Ended::QueueEmpty,
                Some(_) if is_over => return Ended::QueueEmpty,
                Some(_) => {}
                None if period >= UNSEEN_SETTLE_PERIOD || is_over => return Ended::QueueEmpty,
                None => period = UNSEEN_SETTLE_PERIOD,
            }
        }
    }

    /// Begins to drop new handshakes. `None` when the kernel denies it.
    fn drop_handshakes(&self) -> Option<SynDropper> {
        match SynDropper::new(&self.listener, &self.settings.admit) {
            Ok(dropper) => {
                self.filtered(SynFilter::Reuseport);
                Some(dropper)
            }
            Err(error) => {
                self.filtered(SynFilter::Denied);
                warn!(
                    listener = %self.status.addr,
                    error = &error as &dyn std::error::Error,
                    "the kernel denies every SYN filter: the queue is emptied without one, so a \
                     connection that arrives in the instant of the close may be reset"
                );
                None
            }
        }
    }

    /// Says which filter is at work.
    fn filtered(&self, filter: SynFilter) {
        self.status.set_filter(filter);
        if filter == SynFilter::Off {
            info!(listener = %self.status.addr, "SYN filter removed");
        } else {
            self.serving.metrics.syn_filtered(filter.name());
            info!(listener = %self.status.addr, filter = filter.name(), "SYN filter at work");
        }
    }

    /// Closes the socket, waits for an undrain, and gets the port back.
    async fn closed(self, dropper: Option<SynDropper>) -> Self {
        let options = self.listener.options();
        let Listening { listener, mut door, mut states, status, .. } = self;
        close(listener, &self.serving, &status);
        // Behind the listener, so that no SYN comes in between.
        drop(dropper);
        status.set(ListenerState::Refusing);
        status.set_filter(SynFilter::Off);
        door.close();
        // A lost sender means that the process ends; nobody is there to undrain.
        while states.wait_for(|state| state.phase < Phase::Draining).await.is_err() {
            std::future::pending::<()>().await;
        }
        let listener = Acceptor::from(bind_again(status.addr, options).await);
        Listening { status, listener, door, states, ..self }
    }

    /// Serves on a second socket beside the one that can't be opened again, and empties that one.
    async fn reopened_beside(mut self) -> Self {
        match self.listener.beside().and_then(Bound::listen) {
            Ok(beside) => {
                let old = std::mem::replace(&mut self.listener, Acceptor::from(beside));
                let old = self.on(old);
                // Whoever accepts is on a worker.
                let _ = reactor::spawn(old.finish());
                self.filtered(SynFilter::Off);
                self
            }
            Err(error) => {
                warn!(
                    listener = %self.status.addr,
                    error = &error as &dyn std::error::Error,
                    "undrained, but the port can't be shared: the old listener is emptied first"
                );
                while self.empty_queue(self.settings.settle_period).await != Ended::QueueEmpty {}
                self.closed(None).await
            }
        }
    }

    /// Empties a listener that no SYN finds any more, whatever the drain does meanwhile.
    async fn finish(mut self) {
        while self.empty_queue(FINISH_PERIOD).await != Ended::QueueEmpty {}
        close(self.listener, &self.serving, &self.status);
    }

    /// Drop mode, and refuse mode with admitted networks: SYNs of all others are dropped for as long as
    /// the drain lasts.
    pub(super) async fn drop_syns(mut self) -> Self {
        self.status.set(ListenerState::Dropping);
        let Some(mut dropper) = self.drop_handshakes() else {
            return self.turn_away().await;
        };
        let status = Arc::clone(&self.status);
        let emptied_or_undrained = async {
            let mut ended = self.empty_queue(self.settings.settle_period).await;
            if ended == Ended::QueueEmpty {
                self.door.shut();
            }
            while self.is_rejecting() {
                ended = self.serve_round(None).await;
            }
            ended
        };
        tokio::select! {
            _ = emptied_or_undrained => {}
            () = reset_all(&mut dropper, &status) => {}
        }
        drop(dropper);
        self.filtered(SynFilter::Off);
        self
    }

    /// Accept mode: nobody is rejected; the drain is over when nobody is left.
    pub(super) async fn accept_on(mut self) -> Self {
        self.door.shut();
        while self.is_rejecting() {
            self.serve_round(None).await;
        }
        self
    }

    /// Accepts and turns away, but for admitted networks. Whoever was queued before is served.
    pub(super) async fn turn_away(mut self) -> Self {
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
                    // Already accepted, so it is served even if the phase changed during the wait.
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

/// Resets the connections whose SYN could not be dropped. Ends only when accepting fails.
async fn reset_all(dropper: &mut SynDropper, status: &ListenerStatus) {
    let mut backoff = Backoff::default();
    loop {
        match dropper.accept().await {
            Ok(accepted) => {
                backoff.reset();
                reject::turn_away(accepted, RejectMode::Reset, ListenerProtocol::Tcp);
            }
            Err(error) => {
                warn!(
                    listener = %status.addr,
                    error = &error as &dyn std::error::Error,
                    "a connection that should be rejected can't be accepted"
                );
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// Closes a listener, and counts what that cuts.
fn close(listener: Acceptor, serving: &Serving, status: &ListenerStatus) {
    let half_open = handshakes::half_open(status.addr).unwrap_or(0);
    let queued = listener.queue_length();
    drop(listener);
    serving.metrics.queue_aborted(queued);
    serving.metrics.handshakes_aborted(half_open);
    info!(listener = %status.addr, aborted = queued, half_open, "listener closed");
}

/// Gets the port back.
async fn bind_again(addr: SocketAddr, options: ListenOptions) -> Listener {
    loop {
        match Bound::new(addr, options).and_then(Bound::listen) {
            Ok(listener) => {
                info!(listener = %addr, "listener reopened");
                return listener;
            }
            Err(error) => {
                error!(
                    listener = %addr,
                    error = &error as &dyn std::error::Error,
                    "undrained, but the port can't be had back yet"
                );
                sleep(REBIND_INTERVAL).await;
            }
        }
    }
}
