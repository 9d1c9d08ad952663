//! Every metric: its name, its unit, its help, and the handle that counts it.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: base units, `_total` on counters,
//! labels from closed sets only.

#![expect(clippy::disallowed_macros, reason = "the one file where metrics get their names")]

use std::sync::Arc;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::requests::Requests;
use crate::drain::Phase;

const CONNECTIONS_ACTIVE: &str = "ebbtide_connections_active";
const CONNECTIONS: &str = "ebbtide_connections_total";
const CONNECTION_AGE: &str = "ebbtide_connection_age_seconds";
const REQUESTS_ACTIVE: &str = "ebbtide_requests_active";
const STREAMS_ACTIVE: &str = "ebbtide_streams_active";
const REQUESTS: &str = "ebbtide_requests_total";
const RESPONSES: &str = "ebbtide_responses_total";
const REQUEST_DURATION: &str = "ebbtide_request_duration_seconds";
const REFUSED_REQUESTS: &str = "ebbtide_drain_refused_requests_total";
const GOAWAYS: &str = "ebbtide_goaway_sent_total";
const WEBSOCKET_CLOSES: &str = "ebbtide_websocket_close_sent_total";
const OPAQUE: &str = "ebbtide_opaque_total";
const BLOCKING: &str = "ebbtide_drain_blocking_connections";
const DRAIN_STATE: &str = "ebbtide_drain_state";
const DRAIN_STARTED: &str = "ebbtide_drain_started_timestamp_seconds";
const DRAIN_DEADLINE: &str = "ebbtide_drain_deadline_timestamp_seconds";
const DRAIN_DURATION: &str = "ebbtide_drain_duration_seconds";
const FORCED_CLOSES: &str = "ebbtide_drain_forced_closes_total";
const GIVEN_UP: &str = "ebbtide_clients_given_up_total";
const REJECTED: &str = "ebbtide_drain_rejected_total";
const LATE: &str = "ebbtide_drain_late_connections_total";
const QUEUE_ABORTED: &str = "ebbtide_accept_queue_aborted_total";
const HANDSHAKES_ABORTED: &str = "ebbtide_handshakes_aborted_total";
const SYN_FILTERS: &str = "ebbtide_syn_filters_total";
const ACCEPT_ERRORS: &str = "ebbtide_accept_errors_total";
const ACCEPT_PAUSED: &str = "ebbtide_accept_paused_total";
const UPSTREAM_FAILURES: &str = "ebbtide_upstream_failures_total";
const UPSTREAM_LENT: &str = "ebbtide_upstream_lent_total";
const REPORT_ATTEMPTS: &str = "ebbtide_report_attempts_total";
const REPORT_AGE: &str = "ebbtide_report_age_seconds";
const BUILD_INFO: &str = "ebbtide_build_info";

/// Counters that stand at 0 from the start, value by value of their label: a rate over a series that
/// first appears with its first event misses that event, which in a pod that ends is often the only one.
const FROM_ZERO: [(&str, &str, &[&str]); 7] = [
    (CONNECTIONS, "result", &["accepted", "excluded", "rejected"]),
    (GOAWAYS, "phase", &["first", "final"]),
    (GIVEN_UP, "unfinished", &["head", "request"]),
    (REJECTED, "mode", &["http503", "reset"]),
    (ACCEPT_ERRORS, "reason", &["emfile", "enfile", "enobufs", "other"]),
    (UPSTREAM_LENT, "event", &["parked", "reused", "resent", "lost"]),
    (
        UPSTREAM_FAILURES,
        "reason",
        &[
            "timeout",
            "not_there",
            "queue_full",
            "ports",
            "emfile",
            "enfile",
            "enobufs",
            "name",
            "loop",
            "other",
        ],
    ),
];

/// Classes of status, in their order.
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

const REQUEST_DURATION_HELP: &str =
    "From the end of a request's head to the end of its response; pipelined ones are not timed.";

/// How a drain makes a connection leave; of these, too, there are 0 from the start.
const FORCED_REASONS: [&str; 3] = ["asked", "closed", "reset"];

/// From a probe to a day-long stream.
const AGE_BUCKETS: [f64; 9] = [0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 3600.0, 14_400.0, 86_400.0];
/// docs/defaults.md.
const DRAIN_BUCKETS: [f64; 8] = [1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 7200.0];

/// Between two foldings of the histograms, which keep every connection's age until then.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What is read at the moment of a scrape, rather than counted as it happens.
#[derive(Clone, Debug)]
pub struct Levels {
    /// Open connections by class.
    pub connections: Vec<(&'static str, u64)>,
    /// HTTP/1 connections with an exchange in flight.
    pub active_requests: u64,
    /// Open HTTP/2 streams.
    pub active_streams: u64,
    /// Connections that keep the drain from ending.
    pub blocking: u64,
    /// The phase.
    pub phase: Phase,
    /// When the drain began, in seconds since the epoch; 0 without one.
    pub drain_started: f64,
    /// Its deadline, likewise.
    pub drain_deadline: f64,
    /// Since the last acknowledged report; absent without a controller.
    pub report_age: Option<Duration>,
}

/// Handles to everything that is counted.
#[derive(Clone)]
pub struct Metrics {
    exporter: PrometheusHandle,
    accepted: Counter,
    excluded: Counter,
    connection_age: Histogram,
    late: Counter,
    queue_aborted: Counter,
    handshakes_aborted: Counter,
    accept_paused: Counter,
    drain_duration: Histogram,
    requests: Arc<Requests>,
    refused_requests: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Installs the process's recorder. Later calls in one process share the first one's names but
    /// count into what was installed first.
    ///
    /// # Errors
    /// When a histogram has no buckets, which would be a bug.
    pub fn install() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(CONNECTION_AGE.into()), &AGE_BUCKETS)?
            .set_buckets_for_metric(Matcher::Full(DRAIN_DURATION.into()), &DRAIN_BUCKETS)?
            .build_recorder();
        let exporter = recorder.handle();
        // A second install in one process (tests) keeps the first recorder.
        let _ = metrics::set_global_recorder(recorder);
        describe();
        start_from_zero();
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Metrics {
            exporter,
            accepted: counter!(CONNECTIONS, "result" => "accepted"),
            excluded: counter!(CONNECTIONS, "result" => "excluded"),
            connection_age: histogram!(CONNECTION_AGE),
            late: counter!(LATE),
            queue_aborted: counter!(QUEUE_ABORTED),
            handshakes_aborted: counter!(HANDSHAKES_ABORTED),
            accept_paused: counter!(ACCEPT_PAUSED),
            drain_duration: histogram!(DRAIN_DURATION),
            requests: Arc::default(),
            refused_requests: counter!(REFUSED_REQUESTS),
        })
    }

    /// A connection of a class ended after `age`; `excluded` ones never kept a drain from ending.
    pub fn connection_ended(&self, excluded: bool, age: Duration) {
        if excluded { &self.excluded } else { &self.accepted }.increment(1);
        self.connection_age.record(age.as_secs_f64());
    }

    /// Requests whose heads have passed.
    pub fn requests(&self, begun: u32) {
        self.requests.begin(begun);
    }

    /// Responses that have passed, by class of status.
    pub fn responses(&self, ended: [u32; 5]) {
        self.requests.end(ended);
    }

    /// From the end of a request's head to the end of its response.
    pub fn request_took(&self, took: Duration) {
        self.requests.time(took);
    }

    /// A client sent a request after it was told that the connection ends.
    pub fn request_refused(&self) {
        self.refused_requests.increment(1);
    }

    /// An HTTP/2 client was sent the first or the final GOAWAY of a drain.
    pub fn goaway_sent(&self, phase: &'static str) {
        counter!(GOAWAYS, "phase" => phase).increment(1);
    }

    /// A WebSocket's client was sent a Close; there is one code in a process, the configured one.
    pub fn websocket_close_sent(&self, code: u16) {
        counter!(WEBSOCKET_CLOSES, "code" => code.to_string()).increment(1);
    }

    /// Lets the count of Close frames of this code stand at 0 from the start.
    pub fn expect_websocket_code(&self, code: u16) {
        counter!(WEBSOCKET_CLOSES, "code" => code.to_string()).increment(0);
    }

    /// A connection turned out to be something that is not understood.
    pub fn opaque(&self, surprise: &'static str) {
        counter!(OPAQUE, "surprise" => surprise).increment(1);
    }

    /// A drain rejected a connection.
    pub fn rejected(&self, mode: &'static str) {
        counter!(REJECTED, "mode" => mode).increment(1);
        counter!(CONNECTIONS, "result" => "rejected").increment(1);
    }

    /// A drain made a connection leave.
    pub fn forced(&self, class: &'static str, reason: &'static str) {
        counter!(FORCED_CLOSES, "class" => class, "reason" => reason).increment(1);
    }

    /// A client did not go on with what it had begun.
    pub fn client_given_up(&self, unfinished: &'static str) {
        counter!(GIVEN_UP, "unfinished" => unfinished).increment(1);
    }

    /// A connection came although the lame duck is over.
    pub fn late(&self) {
        self.late.increment(1);
    }

    /// A listener was closed with connections in its queue.
    pub fn queue_aborted(&self, connections: u32) {
        self.queue_aborted.increment(u64::from(connections));
    }

    /// A listener was closed with handshakes half open.
    pub fn handshakes_aborted(&self, handshakes: u32) {
        self.handshakes_aborted.increment(u64::from(handshakes));
    }

    /// New handshakes are kept from a listener in this way.
    pub fn syn_filtered(&self, filter: &'static str) {
        counter!(SYN_FILTERS, "filter" => filter).increment(1);
    }

    /// Accepting failed for want of something.
    pub fn accept_failed(&self, reason: &'static str) {
        counter!(ACCEPT_ERRORS, "reason" => reason).increment(1);
    }

    /// Accepting paused because as many connections are open as may be.
    pub fn accept_paused(&self) {
        self.accept_paused.increment(1);
    }

    /// The application could not be reached.
    pub fn upstream_failed(&self, reason: &'static str) {
        counter!(UPSTREAM_FAILURES, "reason" => reason).increment(1);
    }

    /// An upstream connection was given away, or was another client's.
    pub fn upstream_lent(&self, event: &'static str) {
        counter!(UPSTREAM_LENT, "event" => event).increment(1);
    }

    /// A report was sent, well or not.
    pub fn report_attempted(&self, result: &'static str) {
        counter!(REPORT_ATTEMPTS, "result" => result).increment(1);
    }

    /// A drain is over.
    pub fn drained(&self, took: Duration) {
        self.drain_duration.record(took.as_secs_f64());
    }

    /// Folds what histograms have collected, for as long as the process runs: they keep every
    /// sample until then, and nobody may ever scrape them.
    pub async fn keep_up(self) {
        let mut clock = tokio::time::interval(UPKEEP_INTERVAL);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            clock.tick().await;
            self.exporter.run_upkeep();
        }
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn render(&self, levels: &Levels) -> String {
        for (class, open) in &levels.connections {
            gauge!(CONNECTIONS_ACTIVE, "class" => *class).set(as_f64(*open));
        }
        gauge!(REQUESTS_ACTIVE).set(as_f64(levels.active_requests));
        gauge!(STREAMS_ACTIVE).set(as_f64(levels.active_streams));
        gauge!(BLOCKING).set(as_f64(levels.blocking));
        for phase in Phase::ALL {
            let state: Gauge = gauge!(DRAIN_STATE, "state" => phase.name());
            state.set(if phase == levels.phase { 1.0 } else { 0.0 });
        }
        gauge!(DRAIN_STARTED).set(levels.drain_started);
        gauge!(DRAIN_DEADLINE).set(levels.drain_deadline);
        if let Some(age) = levels.report_age {
            gauge!(REPORT_AGE).set(age.as_secs_f64());
        }
        counter!(REQUESTS).absolute(self.requests.begun());
        for (status, ended) in STATUSES.into_iter().zip(self.requests.ended()) {
            counter!(RESPONSES, "status" => status).absolute(ended);
        }
        self.exporter.run_upkeep();
        let mut text = self.exporter.render();
        text.push_str(&self.requests.histogram(REQUEST_DURATION, REQUEST_DURATION_HELP));
        text
    }
}

fn start_from_zero() {
    for (name, label, values) in FROM_ZERO {
        for value in values {
            counter!(name, label => *value).increment(0);
        }
    }
    for reason in FORCED_REASONS {
        counter!(FORCED_CLOSES, "class" => "tcp", "reason" => reason).increment(0);
    }
}

/// Counts stay far below 2^53, where a float stops being exact.
#[expect(clippy::cast_precision_loss, reason = "no pod has 2^53 connections")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

fn describe() {
    describe_gauge!(CONNECTIONS_ACTIVE, "Open connections by class.");
    describe_counter!(
        CONNECTIONS,
        "Connections that ended, by result: accepted, excluded (health checks and probes, which \
         never keep a drain from ending) or rejected by a drain."
    );
    describe_histogram!(CONNECTION_AGE, "How long connections had been open when they ended.");
    describe_gauge!(REQUESTS_ACTIVE, "HTTP/1 connections with an exchange in flight.");
    describe_gauge!(STREAMS_ACTIVE, "Open HTTP/2 streams.");
    describe_counter!(REQUESTS, "HTTP/1 requests.");
    describe_counter!(RESPONSES, "HTTP/1 responses, by class of status.");
    describe_counter!(
        REFUSED_REQUESTS,
        "Connections on which a client went on after it was told that they end."
    );
    describe_counter!(
        GOAWAYS,
        "GOAWAY frames that drains sent to HTTP/2 clients: the first, and the final one with the \
         last stream."
    );
    describe_counter!(
        WEBSOCKET_CLOSES,
        "Close frames that drains sent to the clients of WebSockets, by code."
    );
    describe_counter!(OPAQUE, "Connections that are not understood, by what surprised.");
    describe_gauge!(BLOCKING, "Open connections that keep a drain from ending.");
    describe_gauge!(DRAIN_STATE, "1 for the current phase, 0 for the others.");
    describe_gauge!(DRAIN_STARTED, "When the drain began, 0 without one.");
    describe_gauge!(DRAIN_DEADLINE, "When the drain force-closes what is left, 0 without one.");
    describe_histogram!(DRAIN_DURATION, "How long drains took, from trigger to Drained.");
    describe_counter!(FORCED_CLOSES, "Connections that a drain made leave, by class and how.");
    describe_counter!(
        GIVEN_UP,
        "Connections that were closed because the client did not go on with a head or with a \
         request that it had begun; not among the forced ones."
    );
    describe_counter!(REJECTED, "Connections that a drain rejected, as far as the proxy saw them.");
    describe_counter!(LATE, "Connections that arrived after the lame duck was over.");
    describe_counter!(
        QUEUE_ABORTED,
        "Connections still queued when a listener was closed; 0 unless the kernel denies every SYN \
         filter."
    );
    describe_counter!(
        HANDSHAKES_ABORTED,
        "Handshakes still half open when a listener was closed: clients that had not answered for \
         seconds."
    );
    describe_counter!(
        SYN_FILTERS,
        "Listeners that were emptied, by the SYN filter that was at work."
    );
    describe_counter!(ACCEPT_ERRORS, "Pauses of accepting for want of something, by reason.");
    describe_counter!(ACCEPT_PAUSED, "Pauses of accepting because of --max-connections.");
    describe_counter!(UPSTREAM_FAILURES, "Connections that found no application, by reason.");
    describe_counter!(
        UPSTREAM_LENT,
        "Upstream connections between two clients (--upstream-reuse): parked, reused, and requests \
         that met one which was just closing: resent, or lost with a reset to the client."
    );
    describe_counter!(REPORT_ATTEMPTS, "Reports sent to the controller, by result.");
    describe_gauge!(REPORT_AGE, "Since the controller last acknowledged a report.");
    describe_gauge!(BUILD_INFO, "1, with the version as a label.");
}
