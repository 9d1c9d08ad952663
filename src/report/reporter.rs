//! The task that reports.
//!
//! One loop, at most one request under way, nothing queued: what goes out is always the snapshot of
//! that moment.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::attempt::Attempt;
use super::delivery::{Carrier, InFlight, Outcome, Post};
use super::feed::{Delivery, Feed, FinalReport};
use super::pace::{FinalOwed, Urgency, ask_again};
use super::settings::Settings;
use super::trouble::Trouble;
use crate::api::client::Client;
use crate::api::report::{Answer, BalancerState, Identity};
use crate::drain::Phase;

/// Told how each attempt ended.
type OnAttempt = Arc<dyn Fn(Attempt) + Send + Sync>;

/// Tells the controller the state of the proxy.
///
/// At once on a change of phase, coalesced on a change of counts, and as a heartbeat. Failures are
/// retried ever more slowly, except while a drain is under way, and least so at its end.
pub struct Reporter {
    carrier: Box<dyn Carrier>,
    server: String,
    identity: Identity,
    final_timeout: Duration,
    on_attempt: OnAttempt,
    delivery: watch::Sender<Delivery>,
}

impl Reporter {
    /// A reporter to the controller that `client` speaks to, in the name of `identity`.
    #[must_use]
    pub fn new(settings: Settings, client: Client, identity: Identity) -> Self {
        let server = client.server();
        let timeout = settings.final_report_timeout;
        let carrier = Post::new(client, settings.path, settings.token);
        Self::with_carrier(Box::new(carrier), server, identity, timeout)
    }

    pub(super) fn with_carrier(
        carrier: Box<dyn Carrier>,
        server: String,
        identity: Identity,
        final_timeout: Duration,
    ) -> Self {
        Reporter {
            carrier,
            server,
            identity,
            final_timeout,
            on_attempt: Arc::new(|_| {}),
            delivery: watch::Sender::new(Delivery::Pending),
        }
    }

    /// Calls `on_attempt` with the end of every attempt.
    #[must_use]
    pub fn on_attempt(mut self, on_attempt: impl Fn(Attempt) + Send + Sync + 'static) -> Self {
        self.on_attempt = Arc::new(on_attempt);
        self
    }

    /// What lets the process wait for the final report.
    #[must_use]
    pub fn final_report(&self) -> FinalReport {
        FinalReport::new(self.delivery.subscribe())
    }

    /// Reports until it is dropped.
    pub async fn run(self, feed: Feed) {
        Run::new(self, feed).forever().await;
    }
}

struct Run {
    reporter: Reporter,
    feed: Feed,
    trouble: Trouble,
    sequence: u64,
    /// When the next report goes out, if nothing is under way by then.
    due: Instant,
    /// When the last one went out.
    sent: Instant,
    /// Whether a count has changed since; once is enough to know.
    counts: Counts,
    /// Whether there is news that came while a report was under way.
    news: News,
    /// Failures in a row.
    failures: u32,
    /// Until when the final report is tried; none while it is not owed.
    final_deadline: Option<Instant>,
    phase: PhaseSource,
    told: Told,
    /// What the controller told us to remember for it.
    former_weight: Option<u32>,
    /// Answers in a row that kept a lame duck waiting for its balancer.
    kept_waiting: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    Reported,
    Changed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Reported,
    Waits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PhaseSource {
    Open,
    Lost,
}

/// What the last report told of the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Drained,
    NotDrained,
}

impl Run {
    fn new(reporter: Reporter, feed: Feed) -> Self {
        let now = Instant::now();
        Run {
            trouble: Trouble::none(reporter.server.clone()),
            reporter,
            feed,
            sequence: 0,
            due: now,
            sent: now,
            counts: Counts::Reported,
            news: News::Reported,
            failures: 0,
            final_deadline: None,
            phase: PhaseSource::Open,
            told: Told::NotDrained,
            former_weight: None,
            kept_waiting: 0,
        }
    }

    async fn forever(mut self) {
        let mut in_flight: Option<InFlight> = None;
        self.enter_phase();
        loop {
            let listening = self.counts == Counts::Reported && self.failures == 0;
            tokio::select! {
                // In this order, so that a phase is never told later than a count.
                biased;
                changed = self.feed.phase.changed(), if self.phase == PhaseSource::Open => {
                    match changed {
                        Ok(()) => {
                            if in_flight.take().is_some() {
                                (self.reporter.on_attempt)(Attempt::Superseded);
                            }
                            self.enter_phase();
                        }
                        Err(_) => self.phase = PhaseSource::Lost,
                    }
                }
                () = at(self.final_deadline) => self.give_up(),
                outcome = ended(&mut in_flight) => {
                    in_flight = None;
                    self.conclude(&outcome);
                }
                () = self.feed.news.notified() => {
                    self.news = News::Waits;
                    self.due = Instant::now();
                }
                () = self.feed.count_changed.notified(), if listening => {
                    self.counts = Counts::Changed;
                    self.due = self.due.min(self.sent + self.urgency().coalesce());
                }
                () = sleep_until(self.due), if in_flight.is_none() => {
                    in_flight = Some(self.send());
                }
            }
        }
    }

    /// Takes the phase as it is now and makes its report due at once.
    fn enter_phase(&mut self) {
        let now = Instant::now();
        let phase = *self.feed.phase.borrow_and_update();
        self.due = now;
        self.failures = 0;
        self.kept_waiting = 0;
        self.final_deadline = (phase == Phase::Drained).then(|| now + self.reporter.final_timeout);
        self.reporter.delivery.send_replace(Delivery::Pending);
    }

    fn send(&mut self) -> InFlight {
        self.sequence += 1;
        self.sent = Instant::now();
        self.counts = Counts::Reported;
        self.news = News::Reported;
        let mut report = (self.feed.snapshot)();
        report.sequence = self.sequence;
        report.identity = self.reporter.identity.clone();
        report.former_weight = self.former_weight;
        self.told =
            if report.phase == Phase::Drained.name() { Told::Drained } else { Told::NotDrained };
        match serde_json::to_vec(&report) {
            Ok(body) => self.reporter.carrier.send(Bytes::from(body)),
            Err(error) => Box::pin(std::future::ready(Outcome::unsendable(&error))),
        }
    }

    fn conclude(&mut self, outcome: &Outcome) {
        (self.reporter.on_attempt)(outcome.attempt);
        self.trouble.note(outcome);
        let now = Instant::now();
        if !outcome.attempt.is_stored() {
            self.failures = self.failures.saturating_add(1);
            self.due = now + self.urgency().retry(self.failures, fastrand::f64());
            return;
        }
        self.failures = 0;
        let balancer = outcome.answer.and_then(|answer| answer.balancer);
        if let Some(answer) = outcome.answer {
            self.take(answer);
        }
        // A controller that says nothing of a balancer has no more to do once it has the report.
        let is_done = balancer.is_none_or(|state| state == BalancerState::Deregistered);
        let is_refused = outcome.answer.is_some_and(|answer| answer.balancer_error.is_some());
        if self.told == Told::Drained && *self.feed.phase.borrow() == Phase::Drained {
            if is_done {
                self.end(Delivery::Acknowledged);
            } else if is_refused {
                self.end(Delivery::Refused);
            }
        }
        let urgency = self.urgency();
        self.due = now + urgency.heartbeat(fastrand::f64());
        let is_lame_duck = *self.feed.phase.borrow() == Phase::LameDuck;
        if is_lame_duck && balancer == Some(BalancerState::Pending) {
            self.due = self.due.min(now + ask_again(self.kept_waiting));
            self.kept_waiting = self.kept_waiting.saturating_add(1);
        }
        if self.counts == Counts::Changed {
            self.due = self.due.min(self.sent + urgency.coalesce());
        }
        if self.news == News::Waits {
            self.due = now;
        }
    }

    fn take(&mut self, answer: Answer) {
        self.former_weight = answer.former_weight;
        // Full or closed: the proxy is busy or gone, and the next answer says the same.
        let _unheard = self.feed.answers.try_send(answer);
    }

    /// The final report need not be sent again.
    fn end(&mut self, end: Delivery) {
        self.final_deadline = None;
        let is_news = self
            .reporter
            .delivery
            .send_if_modified(|delivery| std::mem::replace(delivery, end) != end);
        match end {
            _ if !is_news => {}
            Delivery::Refused => tracing::warn!(
                sequence = self.sequence,
                "the controller knows that the drain is over, but its balancer refuses to deregister the target: see \
                 the controller's log"
            ),
            _ => {
                tracing::info!(
                    sequence = self.sequence,
                    "the controller knows that the drain is over"
                );
            }
        }
    }

    fn give_up(&mut self) {
        let waited = self.reporter.final_timeout.as_secs_f64();
        tracing::warn!(
            waited_seconds = waited,
            "the controller did not confirm that the drain is over and the target deregistered"
        );
        self.final_deadline = None;
        self.reporter.delivery.send_replace(Delivery::GivenUp);
    }

    fn urgency(&self) -> Urgency {
        let owed = match self.final_deadline {
            Some(_) => FinalOwed::Yes,
            None => FinalOwed::No,
        };
        Urgency::of(*self.feed.phase.borrow(), owed)
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn ended(in_flight: &mut Option<InFlight>) -> Outcome {
    match in_flight {
        Some(in_flight) => in_flight.await,
        None => std::future::pending().await,
    }
}
