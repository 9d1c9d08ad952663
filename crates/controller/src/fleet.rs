//! Every metric of the controller: its name, its unit, its help, and what counts it.

#![expect(
    clippy::disallowed_macros,
    reason = "the controller's one file where metrics get their names"
)]

use std::fmt::Write as _;
use std::time::Duration;

use metrics::{
    Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

const TARGETS: &str = "ebbtide_controller_targets";
const TARGETS_HELP: &str = "Targets by service and state: serving, silent (serving when last heard of, half of \
     --lost-after ago), draining, drained.";
const REPORTS: &str = "ebbtide_controller_reports_total";
const THROTTLED: &str = "ebbtide_controller_throttled_requests_total";
const ORDERS: &str = "ebbtide_controller_orders_total";
const QUEUED: &str = "ebbtide_controller_queued_orders";
const ACKNOWLEDGED: &str = "ebbtide_controller_acknowledgement_seconds";
const LOST: &str = "ebbtide_controller_lost_targets_total";
const BUILD_INFO: &str = "ebbtide_build_info";

/// From a local socket's answer to what a network balancer takes to spread a change.
const ACKNOWLEDGED_BUCKETS: [f64; 10] = [0.01, 0.05, 0.25, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0];

/// A service's targets, in these states.
pub type Service<'a, const STATES: usize> = (&'a str, &'a str, [(&'static str, usize); STATES]);

/// What becomes of reports; each result stands at 0 from the start.
const REPORT_RESULTS: [&str; 7] =
    ["stored", "stale", "refused", "full", "denied", "unreviewed", "too_often"];

/// Counts what a controller does.
#[derive(Clone)]
pub struct Fleet {
    exporter: PrometheusHandle,
    acknowledged: Histogram,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fleet")
    }
}

impl Fleet {
    /// Installs the process's recorder.
    ///
    /// # Errors
    /// When a histogram has no buckets, which would be a bug.
    pub fn install() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(ACKNOWLEDGED.into()), &ACKNOWLEDGED_BUCKETS)?
            .build_recorder();
        let exporter = recorder.handle();
        // A second install in one process (tests) keeps the first recorder.
        let _ = metrics::set_global_recorder(recorder);
        describe();
        for result in REPORT_RESULTS {
            counter!(REPORTS, "result" => result).increment(0);
        }
        counter!(LOST).increment(0);
        counter!(THROTTLED).increment(0);
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Fleet { exporter, acknowledged: histogram!(ACKNOWLEDGED) })
    }

    /// A report came; `result` is `stored`, `stale`, `refused`, `full`, `denied`, `unreviewed` or
    /// `too_often`.
    pub fn reported(&self, result: &'static str) {
        counter!(REPORTS, "result" => result).increment(1);
    }

    /// A request was refused because its source sends too many.
    pub fn throttled(&self) {
        counter!(THROTTLED).increment(1);
    }

    /// The balancer was told something, well or not.
    pub fn ordered(&self, action: &'static str, result: &'static str) {
        counter!(ORDERS, "action" => action, "result" => result).increment(1);
    }

    /// A balancer confirmed weight zero, this long after it was to be told.
    pub fn acknowledged(&self, after: Duration) {
        self.acknowledged.record(after.as_secs_f64());
    }

    /// A target was given up for lost.
    pub fn lost(&self) {
        counter!(LOST).increment(1);
    }

    /// Orders that wait to be given.
    pub fn queued(&self, orders: usize) {
        gauge!(QUEUED).set(as_f64(orders));
    }

    /// Folds what the histograms have gathered; wants to be called every few seconds.
    pub fn upkeep(&self) {
        self.exporter.run_upkeep();
    }

    /// The text of `/metrics`, with the targets of each service (namespace, name).
    ///
    /// Services come and go with whoever reports, and a recorder would keep each that there ever was.
    #[must_use]
    pub fn render<const STATES: usize>(&self, services: &[Service<'_, STATES>]) -> String {
        let mut text = self.exporter.render();
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP {TARGETS} {TARGETS_HELP}\n# TYPE {TARGETS} gauge");
        for (namespace, service, counts) in services {
            // Names are letters, digits and `-._:`, which need no escape.
            for (state, count) in counts {
                let _ = writeln!(
                    text,
                    "{TARGETS}{{namespace=\"{namespace}\",service=\"{service}\",state=\"{state}\"}} {count}"
                );
            }
        }
        text
    }
}

#[expect(clippy::cast_precision_loss, reason = "no fleet has 2^53 pods")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

fn describe() {
    describe_counter!(REPORTS, "Reports by what became of them.");
    describe_counter!(
        THROTTLED,
        "Requests that were refused because their source sends more than --max-source-rate."
    );
    describe_counter!(ORDERS, "What the balancer was told, by action and result.");
    describe_gauge!(QUEUED, "Orders that wait to be given to the balancer.");
    describe_histogram!(
        ACKNOWLEDGED,
        "From a drain's report to the balancer's confirmation of weight zero."
    );
    describe_counter!(LOST, "Targets that were given up after --lost-after without a report.");
    describe_gauge!(BUILD_INFO, "1, with the version as a label.");
}
