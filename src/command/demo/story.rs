//! What was observed so far, and what of it is worth a line.

use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::block::bar;
use super::event::{Event, Line, Tone};
use super::tally::{Clients, Newcomers};
use crate::api::report::{BalancerState, Report};
use crate::controller::{Action, TargetView};
use crate::drain::Phase;

/// A report earns a line of its own when this part of all connections has gone since the last one.
const LINE_PART: u64 = 8;

/// Everything observed so far.
#[derive(Debug)]
pub struct Story {
    pub clients: Clients,
    pub newcomers: Newcomers,
    pub forced: u64,
    pub deregistered_at: Option<Instant>,
    pub exit: Option<(ExitStatus, Instant)>,
    signal_at: Option<Instant>,
    pub phase: Phase,
    phase_at: Option<Instant>,
    pub remaining: u64,
    pub most: u64,
    pub deadline: Option<SystemTime>,
    pub last_sequence: u64,
    last_told: u64,
    pub balancer: BalancerState,
}

impl Story {
    pub fn new(total: usize) -> Self {
        Story {
            clients: Clients::new(total),
            newcomers: Newcomers::default(),
            forced: 0,
            deregistered_at: None,
            exit: None,
            signal_at: None,
            phase: Phase::Serving,
            phase_at: None,
            remaining: 0,
            most: 0,
            deadline: None,
            last_sequence: 0,
            last_told: 0,
            balancer: BalancerState::Pending,
        }
    }

    pub fn signal_at(&self) -> Option<Instant> {
        self.signal_at
    }

    pub fn has_exited(&self) -> bool {
        self.exit.is_some()
    }

    /// The proxy is gone and every client knows its fate.
    pub fn is_over(&self) -> bool {
        self.has_exited() && self.clients.have_all_ended()
    }

    pub fn signalled(&mut self, at: Instant, pid: i32) -> Vec<Line> {
        self.signal_at = Some(at);
        self.phase_at = Some(at);
        self.newcomers.drain_begun();
        vec![Line::new("signal", format!("SIGTERM to process {pid}")).tone(Tone::Warm)]
    }

    /// Takes note of an event; what is worth it becomes lines.
    pub fn hear(&mut self, event: Event) -> Vec<Line> {
        match event {
            Event::Begun => {
                self.clients.begun += 1;
                Vec::new()
            }
            Event::Ended(ended) => self.clients.ended(ended).into_iter().collect(),
            Event::Newcomer(met) => self.newcomers.met(met).into_iter().collect(),
            Event::Status(report) => self.status(&report),
            Event::Reported(target) => self.reported(&target),
            Event::Action { action, report, at } => self.action(action, &report, at),
            Event::Log(entry) => log(&entry),
            Event::Exited { status, at } => {
                self.exit = Some((status, at));
                let tone = if status.success() { Tone::Good } else { Tone::Bad };
                vec![Line::new("proxy", format!("the process has ended: {status}")).tone(tone)]
            }
        }
    }

    fn status(&mut self, report: &Report) -> Vec<Line> {
        self.remaining = report.drain_blocking_connections;
        self.most = self.most.max(self.remaining);
        self.forced = report.forced_closes;
        let deadline = report.drain_deadline.as_deref();
        self.deadline = deadline.and_then(|text| humantime::parse_rfc3339(text).ok());
        self.entered(report)
    }

    /// The proxy's status and its reports both tell the phase; whichever is first counts.
    fn entered(&mut self, report: &Report) -> Vec<Line> {
        let phase = Phase::ALL.into_iter().find(|phase| phase.name() == report.phase);
        let Some(phase) = phase.filter(|phase| *phase > self.phase) else { return Vec::new() };
        let before = std::mem::replace(&mut self.phase, phase);
        let since = self.phase_at.replace(Instant::now()).map_or(Duration::ZERO, |at| at.elapsed());
        let what = match phase {
            Phase::Serving => String::new(),
            Phase::LameDuck => {
                let timeout = report.drain_timeout_seconds;
                format!("new connections are still served; deadline in {timeout:.0} s")
            }
            Phase::Draining => "new connections are rejected, open ones go on".to_owned(),
            Phase::Closing => "the deadline is near: survivors are asked to leave".to_owned(),
            Phase::Drained => "nothing is left".to_owned(),
        };
        let after = match before {
            Phase::Serving => String::new(),
            before => format!(" ({before} took {:.2} s)", since.as_secs_f64()),
        };
        vec![Line::new("phase", format!("{phase}: {what}{after}")).tone(Tone::Strong)]
    }

    fn reported(&mut self, target: &TargetView) -> Vec<Line> {
        let mut lines = self.report(&target.report);
        if target.balancer != self.balancer {
            self.balancer = target.balancer;
            if target.balancer == BalancerState::WeightZero {
                lines.push(Line::new("balancer", "weight zero is applied").tone(Tone::Warm));
            }
        }
        lines
    }

    fn action(&mut self, action: Action, report: &Report, at: Instant) -> Vec<Line> {
        let mut lines = self.report(report);
        let remaining = report.drain_blocking_connections;
        let text = match action {
            Action::Deregister => {
                self.deregistered_at = Some(at);
                format!("deregister, at {remaining} remaining")
            }
            Action::WeightZero => "is told: weight zero".to_owned(),
            // What every target begins with: it changes nothing here.
            Action::Register => return lines,
        };
        lines.push(Line::new("balancer", text).tone(Tone::Warm));
        lines
    }

    /// A report at the controller: a line when its phase is new, or the tide has visibly fallen.
    fn report(&mut self, report: &Report) -> Vec<Line> {
        if report.sequence <= self.last_sequence {
            return Vec::new();
        }
        self.last_sequence = report.sequence;
        let mut lines = self.entered(report);
        let remaining = report.drain_blocking_connections;
        let fallen = self.last_told.saturating_sub(remaining);
        let first = self.last_told == 0 && remaining > 0;
        if first || !lines.is_empty() || fallen * LINE_PART > self.most.max(1) || remaining == 0 {
            self.last_told = remaining;
            let bar = bar(remaining, self.most);
            let text = format!("{bar} {remaining:>3} remaining, says report {}", report.sequence);
            lines.push(Line::new("controller", text).tone(Tone::Water));
        }
        lines
    }
}

/// The proxy's own words, where they tell what nothing else does.
fn log(entry: &Value) -> Vec<Line> {
    let message = entry["message"].as_str().unwrap_or_default();
    match (entry["level"].as_str(), message) {
        (_, "listener closed") => {
            vec![Line::new("proxy", "its queue is empty and its listener closed")]
        }
        (Some("WARN" | "ERROR"), _) => {
            vec![Line::new("proxy", format!("says: {entry}")).tone(Tone::Warm)]
        }
        (None, _) => vec![Line::new("proxy", format!("says: {entry}")).tone(Tone::Bad)],
        _ => Vec::new(),
    }
}
