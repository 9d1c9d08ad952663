//! A connection whose upstream connections are lent: it has one only while there are exchanges.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::OwnedSemaphorePermit;

use super::listener::ListenerSettings;
use super::observer::Watcher;
use super::serve::{Outcome, Serving};
use super::table::{Entry, Registered};
use crate::drain::{Guard, Phase};
use crate::net::Socket;
use crate::protocol::{Direction, Tracker};
use crate::relay::{End, Relay, parking};

impl Serving {
    /// The whole of the connection's task.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps each of its arguments twice")]
    pub(super) fn carry_lending(
        self: Arc<Self>,
        client: OwnedFd,
        settings: Arc<ListenerSettings>,
        registered: Registered,
        guard: Option<Guard>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = ()> {
        async move {
            let mut watcher = Watcher::new(&self, &registered.entry, guard);
            let outcome = match Socket::new(client) {
                Err(error) => Outcome::NoSocket(error),
                Ok(client) => loop {
                    // With a time-out the relay waits itself: it has the clock.
                    if self.settings.manners.idle_timeouts.open.is_zero() {
                        called(&client, &registered.entry).await;
                    }
                    let entry = &registered.entry;
                    let relay = self.relay_to_rest(&client, &settings, entry, &mut watcher);
                    // Boxed, because it is most of the task, and an idle client does without.
                    match Box::pin(relay).await {
                        Outcome::Relayed(End::AtRest) => {}
                        outcome => break outcome,
                    }
                },
            };
            let guard = watcher.into_guard();
            self.end(registered, &outcome, permit, guard);
        }
    }

    /// From a client's first bytes, or an order, until it is at rest again.
    async fn relay_to_rest(
        &self,
        client: &Socket,
        settings: &ListenerSettings,
        entry: &Entry,
        watcher: &mut Watcher<'_>,
    ) -> Outcome {
        let options = Arc::clone(&settings.http1);
        let peer = entry.peer.ip();
        let tracker = if entry.control.bytes(Direction::FromClient) == 0 {
            Tracker::http1(options, peer)
        } else {
            Tracker::http1_resumed(options, peer, entry.class())
        };
        let manners = &self.settings.manners;
        let mut relay = Relay::new(client, None, &entry.control, tracker, manners, watcher)
            .lending(Arc::clone(&settings.upstream), self.settings.upstream_rest);
        loop {
            match (&mut relay).await {
                End::WantsUpstream => {
                    match Box::pin(self.connect(&settings.upstream, client, entry)).await {
                        Ok(upstream) => relay.attach(upstream),
                        Err(outcome) => return outcome,
                    }
                }
                end => {
                    drop(relay);
                    self.deliver(&end, client, entry).await;
                    return Outcome::Relayed(end);
                }
            }
        }
    }
}

/// Closes what is parked whenever a drain begins.
pub async fn empty_parking(serving: Arc<Serving>) {
    let mut states = serving.drain.watch();
    while states.wait_for(|state| state.phase != Phase::Serving).await.is_ok() {
        serving.workers.on_each(parking::clear);
        if states.wait_for(|state| state.phase == Phase::Serving).await.is_err() {
            return;
        }
    }
}

/// Waits until the client has sent something, or has ended, or the connection is under an order.
async fn called(client: &Socket, entry: &Entry) {
    std::future::poll_fn(|cx| {
        if entry.control.poll_called(cx).is_ready() {
            return Poll::Ready(());
        }
        client.poll_readable(cx)
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, D, E, G, F: Future>(_: impl FnOnce(A, B, C, D, E, G) -> F) -> usize {
        size_of::<F>()
    }

    /// An idle client's memory is this, its entry, and what the reactor adds to a task and to one
    /// socket.
    #[test]
    fn an_idle_client_stays_small() {
        const MOST_TASK_BYTES: usize = 280;
        let task = future_bytes(Serving::carry_lending);
        println!("task {task}");
        assert!(task <= MOST_TASK_BYTES, "the task of a connection has grown to {task} bytes");
    }
}
