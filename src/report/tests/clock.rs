//! When reports go out, on a clock that stands still and with a carrier that has no sockets.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::support::{FOREVER, Proxy, who};
use crate::api::report::{Answer, BalancerError, BalancerState, Report};
use crate::drain::Phase;
use crate::report::delivery::{Carrier, InFlight, Outcome};
use crate::report::{Attempt, Delivery, Reporter};

const SECOND: Duration = Duration::from_secs(1);

/// Notes what is sent and when; what becomes of it is the script's.
struct Scripted {
    sent: mpsc::UnboundedSender<(Instant, Report)>,
    fate: fn(&Report) -> Fate,
}

enum Fate {
    Stored,
    /// Stored, with what the balancer has applied, and a weight to remember.
    Told(BalancerState, Option<u32>),
    /// Stored, and the balancer denies what it is told.
    Denied,
    Refused,
    Never,
}

impl Carrier for Scripted {
    fn send(&mut self, report: Bytes) -> InFlight {
        let report: Report = serde_json::from_slice(&report).expect("a report");
        let fate = (self.fate)(&report);
        let mut answer = Answer { sequence: report.sequence, ..Answer::default() };
        if let Fate::Told(balancer, former_weight) = fate {
            answer = Answer { balancer: Some(balancer), former_weight, ..answer };
        }
        if let Fate::Denied = fate {
            let (balancer, balancer_error) =
                (Some(BalancerState::Pending), Some(BalancerError::Denied));
            answer = Answer { balancer, balancer_error, ..answer };
        }
        let _test_is_over = self.sent.send((Instant::now(), report));
        let attempt = match fate {
            Fate::Stored | Fate::Told(..) | Fate::Denied => Attempt::Ok,
            Fate::Refused => Attempt::ConnectError,
            Fate::Never => return Box::pin(std::future::pending()),
        };
        Box::pin(std::future::ready(Outcome {
            attempt,
            status: None,
            answer: attempt.is_stored().then_some(answer),
            error: String::new(),
        }))
    }
}

struct Line {
    sent: mpsc::UnboundedReceiver<(Instant, Report)>,
}

impl Line {
    async fn next(&mut self) -> (Instant, Report) {
        self.sent.recv().await.expect("the reporter lives")
    }
}

fn start(phase: Phase, final_timeout: Duration, fate: fn(&Report) -> Fate) -> (Proxy, Line) {
    let (tell, sent) = mpsc::unbounded_channel();
    let carrier = Box::new(Scripted { sent: tell, fate });
    let reporter = Reporter::with_carrier(carrier, "scripted".to_owned(), who(), final_timeout);
    (Proxy::start(phase, reporter), Line { sent })
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_slow_while_serving_and_fast_while_draining() {
    for (phase, seconds) in [
        (Phase::Serving, 10),
        (Phase::LameDuck, 5),
        (Phase::Draining, 5),
        (Phase::Closing, 5),
        (Phase::Drained, 10),
    ] {
        let began = Instant::now();
        let (_proxy, mut line) = start(phase, FOREVER, |_| Fate::Stored);
        let (first, report) = line.next().await;
        assert_eq!(first, began, "the first report goes out at once");
        assert_eq!(report.phase, phase.name());
        let (second, _) = line.next().await;
        let period = SECOND * seconds;
        // Tokio's timers are whole milliseconds, rounded up.
        let (least, most) = (period.mul_f64(0.9), period.mul_f64(1.1) + Duration::from_millis(1));
        let waited = second - first;
        assert!(waited >= least && waited <= most, "{phase}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_phase_goes_out_at_once_and_sequences_grow() {
    let (proxy, mut line) = start(Phase::Serving, FOREVER, |_| Fate::Stored);
    let mut last = line.next().await.1.sequence;
    for phase in [Phase::LameDuck, Phase::Draining, Phase::Closing, Phase::Drained, Phase::Serving]
    {
        let now = Instant::now();
        proxy.phase.send_replace(phase);
        let (at, report) = line.next().await;
        assert_eq!(at, now);
        assert_eq!(report.phase, phase.name());
        assert!(report.sequence > last);
        assert_eq!(report.identity, who());
        last = report.sequence;
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_counts_are_coalesced() {
    for (phase, millis) in [(Phase::Draining, 500), (Phase::Serving, 5000)] {
        let (proxy, mut line) = start(phase, FOREVER, |_| Fate::Stored);
        let (first, _) = line.next().await;
        // Let it hear each change by itself.
        for count in 1..=3 {
            proxy.count(count);
            tokio::task::yield_now().await;
        }
        let (second, report) = line.next().await;
        assert_eq!(report.drain_blocking_connections, 3, "the latest state");
        assert_eq!(second - first, Duration::from_millis(millis));
        proxy.count(4);
        let (third, report) = line.next().await;
        assert_eq!(report.drain_blocking_connections, 4);
        assert_eq!(third - second, Duration::from_millis(millis));
    }
}

#[tokio::test(start_paused = true)]
async fn a_count_that_changed_long_after_the_last_report_goes_out_at_once() {
    let (proxy, mut line) = start(Phase::Draining, FOREVER, |_| Fate::Stored);
    line.next().await;
    tokio::time::advance(SECOND).await;
    let now = Instant::now();
    proxy.count(1);
    assert_eq!(line.next().await.0, now);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_down_is_not_asked_more_often_for_changed_counts() {
    let (proxy, mut line) = start(Phase::Serving, FOREVER, |_| Fate::Refused);
    let mut last = line.next().await.0;
    for millis in [500, 1000, 2000, 4000, 5000, 5000] {
        proxy.count(1);
        let (at, _) = line.next().await;
        let pause = Duration::from_millis(millis);
        assert!(at - last >= pause, "{:?}", at - last);
        assert!(at - last <= pause * 2 + Duration::from_millis(1), "{:?}", at - last);
        last = at;
    }
}

#[tokio::test(start_paused = true)]
async fn the_final_report_is_retried_at_least_twice_a_second_until_its_bound() {
    let bound = SECOND * 10;
    let (mut proxy, mut line) = start(Phase::Drained, bound, |_| Fate::Refused);
    let (began, _) = line.next().await;
    let mut last = began;
    while last - began + SECOND < bound {
        let (at, report) = line.next().await;
        assert!(at - last <= Duration::from_millis(501), "{:?}", at - last);
        assert_eq!(report.phase, "Drained");
        assert_eq!(proxy.final_report.now(), Delivery::Pending);
        last = at;
    }
    assert_eq!(proxy.final_report.wait().await, Delivery::GivenUp);
    assert_eq!(Instant::now() - began, bound);
}

#[tokio::test(start_paused = true)]
async fn a_silent_controller_cannot_stretch_the_bound() {
    let bound = SECOND * 10;
    let began = Instant::now();
    let (mut proxy, _line) = start(Phase::Drained, bound, |_| Fate::Never);
    assert_eq!(proxy.final_report.wait().await, Delivery::GivenUp);
    assert_eq!(Instant::now() - began, bound);
}

#[tokio::test(start_paused = true)]
async fn the_final_report_does_not_wait_for_a_slow_one() {
    let (mut proxy, mut line) =
        start(Phase::Draining, FOREVER, |report| match report.phase.as_str() {
            "Drained" => Fate::Stored,
            _ => Fate::Never,
        });
    line.next().await;
    let now = Instant::now();
    proxy.phase.send_replace(Phase::Drained);
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
    assert_eq!(Instant::now(), now);
    assert_eq!(proxy.attempt().await, Attempt::Superseded);
    assert_eq!(proxy.attempt().await, Attempt::Ok);
}

#[tokio::test(start_paused = true)]
async fn an_undrain_makes_the_final_report_pending_again() {
    let (mut proxy, mut line) = start(Phase::Drained, FOREVER, |_| Fate::Stored);
    line.next().await;
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
    proxy.phase.send_replace(Phase::Serving);
    assert_eq!(line.next().await.1.phase, "Serving");
    assert_eq!(proxy.final_report.now(), Delivery::Pending);
    proxy.phase.send_replace(Phase::Drained);
    assert_eq!(line.next().await.1.phase, "Drained");
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
}

#[tokio::test(start_paused = true)]
async fn a_final_report_that_comes_late_still_counts() {
    let (mut proxy, mut line) = start(Phase::Drained, SECOND, |report| {
        if report.sequence < 20 { Fate::Refused } else { Fate::Stored }
    });
    assert_eq!(proxy.final_report.wait().await, Delivery::GivenUp);
    while line.next().await.1.sequence < 20 {}
    tokio::task::yield_now().await;
    assert_eq!(proxy.final_report.now(), Delivery::Acknowledged);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_reporter_that_is_gone_waits_no_longer() {
    let (proxy, _line) = start(Phase::Draining, FOREVER, |_| Fate::Stored);
    let mut final_report = proxy.final_report.clone();
    drop(proxy);
    assert_eq!(final_report.wait().await, Delivery::GivenUp);
}

#[tokio::test(start_paused = true)]
async fn a_lost_phase_is_no_change_of_phase() {
    let (mut proxy, mut line) = start(Phase::Serving, FOREVER, |_| Fate::Stored);
    let (first, _) = line.next().await;
    proxy.phase = tokio::sync::watch::Sender::new(Phase::Serving);
    let (second, _) = line.next().await;
    assert!(second - first >= SECOND * 9, "{:?}", second - first);
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_do_not_stop_the_reports() {
    let (mut proxy, mut line) = start(Phase::Draining, FOREVER, |_| Fate::Stored);
    for _ in 0..5 {
        line.next().await;
    }
    let answer = proxy.answers.recv().await.expect("the first one waits");
    assert_eq!(answer.sequence, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_asks_again_soon_while_weight_zero_is_pending() {
    let (_proxy, mut line) = start(Phase::LameDuck, FOREVER, |report| {
        if report.sequence < 6 {
            Fate::Told(BalancerState::Pending, None)
        } else {
            Fate::Told(BalancerState::WeightZero, None)
        }
    });
    let (mut last, _) = line.next().await;
    for millis in [250, 500, 1000, 1000, 1000] {
        let (at, _) = line.next().await;
        assert_eq!((at - last).as_millis(), millis);
        last = at;
    }
    let (at, _) = line.next().await;
    assert!(at - last >= SECOND * 4, "it knows now: {:?}", at - last);
}

#[tokio::test(start_paused = true)]
async fn the_end_is_confirmed_by_the_deregistration() {
    let (mut proxy, mut line) = start(Phase::Drained, FOREVER, |report| {
        if report.sequence < 4 {
            Fate::Told(BalancerState::WeightZero, None)
        } else {
            Fate::Told(BalancerState::Deregistered, None)
        }
    });
    for _ in 0..3 {
        line.next().await;
        assert_eq!(proxy.final_report.now(), Delivery::Pending);
    }
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
    assert_eq!(line.next().await.1.sequence, 4);
}

#[tokio::test(start_paused = true)]
async fn what_the_controller_wants_remembered_is_repeated_until_it_no_longer_does() {
    let (_proxy, mut line) = start(Phase::Draining, FOREVER, |report| match report.sequence {
        2 | 3 => Fate::Told(BalancerState::WeightZero, Some(70)),
        _ => Fate::Told(BalancerState::Pending, None),
    });
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(line.next().await.1.former_weight);
    }
    assert_eq!(told, [None, None, Some(70), Some(70), None]);
}

#[tokio::test(start_paused = true)]
async fn news_goes_out_at_once() {
    let (proxy, mut line) = start(Phase::Serving, FOREVER, |_| Fate::Stored);
    let (began, _) = line.next().await;
    tokio::time::advance(SECOND).await;
    proxy.news.notify_one();
    assert_eq!(line.next().await.0, began + SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_balancer_that_refuses_is_not_waited_for() {
    let (mut proxy, mut line) = start(Phase::Drained, FOREVER, |_| Fate::Denied);
    line.next().await;
    assert_eq!(proxy.final_report.wait().await, Delivery::Refused);
}
