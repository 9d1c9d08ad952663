use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::balancer::ErrorKind;

const SECOND: Duration = Duration::from_secs(1);
const FLEET: Fleet = Fleet { lost_after: Duration::from_secs(30), deaf: false };

fn heard(sequence: u64, phase: Phase) -> Heard {
    Heard {
        run: Run::begun(SystemTime::UNIX_EPOCH),
        sequence,
        phase,
        must_leave: true,
        application: Application::Reached,
        blocking: u64::from(phase != Phase::Drained),
        drain: None,
        deadline: None,
        former_weight: None,
    }
}

fn failure() -> Outcome {
    Error::new(ErrorKind::Unreachable, "nobody there").into()
}

/// Two looks, of which each finds this.
fn look_twice(target: &mut Target, finding: Finding, now: Instant) {
    for _ in 0..2 {
        target.look(finding, now, now);
    }
}

/// Gives the order that is due, and lets the balancer confirm it.
fn obey(target: &mut Target, now: Instant) -> Option<Action> {
    let action = target.order(FLEET, now)?;
    target.begin(action);
    target.conclude(Applied::default().into(), now, 0.0);
    Some(action)
}

/// A new target, led through `phases`; what was ordered after each and what its proxy was told.
fn walk(phases: &[Phase]) -> Vec<(Option<Action>, BalancerState)> {
    let now = Instant::now();
    let mut target = Target::new(heard(0, phases[0]), now);
    let mut steps = Vec::new();
    for (sequence, phase) in (1..).zip(phases) {
        target.hear(heard(sequence, *phase), now).expect("newer");
        steps.push((obey(&mut target, now), target.balancer(now)));
        assert_eq!(obey(&mut target, now), None, "nothing is ordered twice");
    }
    steps
}

#[test]
fn a_drain_is_weight_zero_and_then_one_deregistration() {
    use BalancerState::{Deregistered, Pending, WeightZero};
    use Phase::{Closing, Drained, Draining, LameDuck, Serving};
    let expected = [
        // Whatever an earlier controller may have done to it.
        (Some(Action::Register), Pending),
        (Some(Action::WeightZero), WeightZero),
        (None, WeightZero),
        (None, WeightZero),
        (Some(Action::Deregister), Deregistered),
        (None, Deregistered),
    ];
    assert_eq!(walk(&[Serving, LameDuck, Draining, Closing, Drained, Drained]), expected);
    assert_eq!(walk(&[Drained])[0].0, Some(Action::Deregister), "its beginning was missed");
}

#[test]
fn an_undrained_target_gets_its_former_weight_back_and_can_drain_again() {
    let now = Instant::now();
    let mut target = Target::new(heard(1, Phase::LameDuck), now);
    let order = target.order(FLEET, now).expect("weight zero");
    target.begin(order);
    let applied = Applied { former_weight: Some(70), ..Applied::default() };
    target.conclude(applied.into(), now, 0.0);
    assert_eq!(target.answer(now).former_weight, Some(70), "so that another controller knows");
    target.hear(heard(2, Phase::Serving), now).expect("newer");
    assert_eq!(
        (target.order(FLEET, now), target.former_weight()),
        (Some(Action::Register), Some(70))
    );
    obey(&mut target, now);
    assert_eq!(target.answer(now).former_weight, None);
    let steps = walk(&[Phase::Draining, Phase::Serving, Phase::Drained, Phase::Serving]);
    let actions: Vec<_> = steps.into_iter().filter_map(|step| step.0).collect();
    assert_eq!(
        actions,
        [Action::WeightZero, Action::Register, Action::Deregister, Action::Register]
    );
}

#[test]
fn a_controller_that_forgot_the_weight_learns_it_from_the_proxy() {
    let now = Instant::now();
    let mut report = heard(5, Phase::Draining);
    report.former_weight = Some(70);
    let mut target = Target::new(report, now);
    // What it reads now is its predecessor's zero.
    obey(&mut target, now);
    target.hear(heard(6, Phase::Serving), now).expect("newer");
    assert_eq!(target.former_weight(), Some(70));
}

#[test]
fn stale_reports_change_nothing() {
    let now = Instant::now();
    let mut target = Target::new(heard(5, Phase::Draining), now);
    for sequence in [4, 5] {
        let stale = Stale::Sequence { sequence, last: 5 };
        assert_eq!(target.hear(heard(sequence, Phase::Serving), now), Err(stale));
    }
    let later =
        Heard { run: Run::begun(SystemTime::UNIX_EPOCH + SECOND), ..heard(1, Phase::Serving) };
    target.hear(later, now).expect("a later run counts anew");
    assert_eq!(target.hear(heard(9, Phase::Drained), now), Err(Stale::Run));
    assert_eq!(target.heard().phase, Phase::Serving);
}

#[test]
fn a_failed_order_is_given_again_later_and_later_but_another_one_at_once() {
    let start = Instant::now();
    let mut now = start;
    let mut target = Target::new(heard(1, Phase::LameDuck), now);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let action = target.order(FLEET, now).expect("due");
        assert_eq!(action, Action::WeightZero);
        target.begin(action);
        assert_eq!(target.order(FLEET, now), None, "one at a time");
        target.conclude(failure(), now, 0.0);
        assert_eq!(target.order(FLEET, now), None);
        assert_eq!(target.balancer(now), BalancerState::Pending);
        let at = target.resumes_at(FLEET, now).expect("a pause");
        pauses.push(at.duration_since(now).as_millis());
        now = at;
        target.hear(heard(target.heard().sequence + 1, Phase::LameDuck), now).expect("newer");
    }
    assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    assert_eq!(target.trouble().map(|trouble| trouble.failures), Some(9));
    target.hear(heard(100, Phase::Drained), now).expect("newer");
    now -= SECOND;
    assert_eq!(target.order(FLEET, now), Some(Action::Deregister));
    obey(&mut target, now);
    assert_eq!(target.trouble(), None);
}

#[test]
fn a_target_without_reports_is_lost_and_comes_back_when_it_speaks() {
    let start = Instant::now();
    let mut target = Target::new(heard(1, Phase::Serving), start);
    obey(&mut target, start);
    assert!(!target.wants_look(FLEET, start + 29 * SECOND));
    assert!(target.wants_look(FLEET, start + 30 * SECOND));
    assert_eq!(target.goal(FLEET, start + 30 * SECOND), Goal::Hold, "nobody was asked");
    look_twice(&mut target, Finding::Gone, start + 30 * SECOND);
    let deaf = Fleet { deaf: true, ..FLEET };
    assert_eq!(target.goal(deaf, start + 30 * SECOND), Goal::Hold);
    assert_eq!(obey(&mut target, start + 30 * SECOND), Some(Action::Deregister));
    assert!(!target.wants_look(FLEET, start + 300 * SECOND), "it is lost");
    target.hear(heard(2, Phase::Serving), start + 31 * SECOND).expect("newer");
    assert_eq!(obey(&mut target, start + 31 * SECOND), Some(Action::Register));
}

#[test]
fn a_silent_target_that_is_there_keeps_its_place() {
    let start = Instant::now();
    let mut now = start;
    let mut target = Target::new(heard(1, Phase::Serving), start);
    obey(&mut target, start);
    for _ in 0..10 {
        now += 31 * SECOND;
        assert!(target.wants_look(FLEET, now));
        target.look(Finding::There, now, now);
        assert_eq!((target.goal(FLEET, now), target.order(FLEET, now)), (Goal::Registered, None));
    }
    now += 31 * SECOND;
    look_twice(&mut target, Finding::Unknown, now);
    assert_eq!(target.goal(FLEET, now), Goal::Hold, "nobody can tell");
    assert_eq!(target.order(FLEET, now + 3600 * SECOND), None);
}

#[test]
fn whoever_reports_is_not_lost_whatever_the_report_is_worth() {
    let start = Instant::now();
    let run = |number| Run::begun(SystemTime::UNIX_EPOCH + SECOND * number);
    let mut target = Target::new(Heard { run: run(1), ..heard(1, Phase::Serving) }, start);
    target.hear(Heard { run: run(2), ..heard(1, Phase::Serving) }, start).expect("another run");
    let late = Heard { run: run(1), ..heard(2, Phase::Serving) };
    assert_eq!(target.hear(late, start + 19 * SECOND), Err(Stale::Run));
    assert!(!target.is_silent(FLEET, start + 48 * SECOND));
    assert!(target.is_silent(FLEET, start + 49 * SECOND));
}

#[test]
fn a_pod_whose_own_time_is_over_is_lost_when_nobody_can_tell() {
    let start = Instant::now();
    let deadline = Some(start + 60 * SECOND);
    let leaves = Heard { deadline, ..heard(1, Phase::Draining) };
    let mut target = Target::new(leaves, start);
    look_twice(&mut target, Finding::Unknown, start + 30 * SECOND);
    assert!(!target.is_lost(FLEET, start + 69 * SECOND), "its drain may go on");
    assert!(target.is_lost(FLEET, start + 70 * SECOND));
    let mut asked = Target::new(Heard { must_leave: false, ..leaves }, start);
    look_twice(&mut asked, Finding::Unknown, start + 30 * SECOND);
    assert!(!asked.is_lost(FLEET, start + 3600 * SECOND), "it stays when it is drained");
}

#[test]
fn a_target_is_registered_when_its_application_is_reached() {
    let now = Instant::now();
    let alone =
        |sequence| Heard { application: Application::NotYet, ..heard(sequence, Phase::Serving) };
    let mut target = Target::new(alone(1), now);
    assert_eq!(
        (target.goal(FLEET, now), target.order(FLEET, now)),
        (Goal::AwaitsApplication, None)
    );
    target.hear(heard(2, Phase::Serving), now).expect("newer");
    assert_eq!(obey(&mut target, now), Some(Action::Register));
    // Its container is restarted: whatever the balancer does stays as it is.
    let run = Run::begun(SystemTime::UNIX_EPOCH + SECOND);
    target.hear(Heard { run, ..alone(1) }, now).expect("another run");
    assert_eq!(target.order(FLEET, now), None);
    target.hear(Heard { run, ..heard(2, Phase::LameDuck) }, now).expect("newer");
    assert_eq!(obey(&mut target, now), Some(Action::WeightZero), "a drain does not wait for it");
}

#[test]
fn weight_zero_of_an_earlier_drain_is_not_claimed_for_the_next() {
    let now = Instant::now();
    let drain = |seconds, sequence| Heard {
        drain: Some(SystemTime::UNIX_EPOCH + SECOND * seconds),
        ..heard(sequence, Phase::LameDuck)
    };
    let mut target = Target::new(drain(1, 1), now);
    assert_eq!(obey(&mut target, now), Some(Action::WeightZero));
    target.hear(drain(1, 2), now).expect("newer");
    assert_eq!(target.balancer(now), BalancerState::WeightZero);
    // What it said in between was told to another replica.
    target.hear(drain(2, 9), now).expect("newer");
    assert_eq!(target.balancer(now), BalancerState::Pending);
    assert_eq!(obey(&mut target, now), Some(Action::WeightZero));
}

#[test]
fn an_answer_says_that_the_balancer_refuses() {
    let now = Instant::now();
    let mut target = Target::new(heard(1, Phase::Drained), now);
    for (kind, said) in [
        (ErrorKind::Denied, Some(BalancerError::Denied)),
        (ErrorKind::Refused, Some(BalancerError::Refused)),
        (ErrorKind::Unreachable, None),
        (ErrorKind::Throttled, None),
    ] {
        target.begin(Action::Deregister);
        target.conclude(Error::new(kind, "no").into(), now, 0.0);
        assert_eq!(target.answer(now).balancer_error, said, "{kind:?}");
    }
}

#[test]
fn a_draining_target_is_lost_soon_after_its_deadline_but_not_while_it_speaks() {
    let start = Instant::now();
    let with = |sequence, deadline| Heard {
        deadline: Some(start + deadline),
        ..heard(sequence, Phase::Draining)
    };
    let target = Target::new(with(1, 5 * SECOND), start);
    assert_eq!(target.doubted_at(FLEET), start + 15 * SECOND);
    let target = Target::new(with(1, 300 * SECOND), start);
    assert_eq!(target.doubted_at(FLEET), start + 30 * SECOND);
    let mut target = Target::new(with(1, 5 * SECOND), start);
    target.hear(with(2, 5 * SECOND), start + 14 * SECOND).expect("newer");
    assert_eq!(target.doubted_at(FLEET), start + 24 * SECOND, "its clock may differ from ours");
    look_twice(&mut target, Finding::Gone, start + 24 * SECOND);
    let deaf = Fleet { deaf: true, ..FLEET };
    assert_eq!(target.goal(deaf, start + 24 * SECOND), Goal::Deregistered);
}

#[test]
fn a_drain_that_was_asked_for_waits_and_one_by_signal_does_not() {
    let now = Instant::now();
    let asked = |sequence, phase| Heard { must_leave: false, ..heard(sequence, phase) };
    let mut target = Target::new(asked(1, Phase::LameDuck), now);
    target.permit(false);
    assert!(target.waits() && !target.is_draining(now));
    assert_eq!(target.answer(now).directive, Directive::Wait);
    assert_eq!(target.goal(FLEET, now), Goal::Registered);
    target.hear(heard(2, Phase::LameDuck), now).expect("newer");
    assert_eq!(target.answer(now).directive, Directive::None, "a signal has come");
    assert_eq!(target.goal(FLEET, now), Goal::WeightZero);
}

#[test]
fn a_wish_is_repeated_until_it_is_fulfilled_or_too_old() {
    let now = Instant::now();
    let mut target = Target::new(heard(1, Phase::Serving), now);
    target.wish(Directive::Drain, now);
    assert_eq!(target.answer(now).directive, Directive::Drain);
    assert!(target.is_draining(now));
    target.hear(heard(2, Phase::Serving), now).expect("newer");
    assert_eq!(target.answer(now).directive, Directive::Drain);
    target.hear(heard(3, Phase::LameDuck), now).expect("newer");
    assert_eq!(target.answer(now).directive, Directive::None);
    target.wish(Directive::Undrain, now);
    assert_eq!(target.answer(now).directive, Directive::Undrain);
    assert_eq!(target.answer(now + WISH_TIMEOUT).directive, Directive::None);
}

/// What may happen next in the world of one proxy, one controller and one balancer.
#[derive(Clone, Debug)]
enum Event {
    /// The proxy goes on: another phase, another number of connections; and reports.
    Report { phase: Phase, blocking: u64 },
    /// One of the reports on their way arrives; it may arrive again.
    Arrive(usize),
    /// One of them is lost.
    Lose(usize),
    /// The balancer is told what is due.
    Order(Fate),
    /// Somebody looks at it.
    Look(Finding),
    /// Time passes.
    Pass(u64),
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Confirmed,
    NotYet,
    /// Not done, and said so.
    Failed,
    /// Done, but the confirmation was lost.
    Unheard,
}

fn event() -> impl Strategy<Value = Event> {
    let phase = prop::sample::select(Phase::ALL.to_vec());
    let fate = prop::sample::select(vec![
        Fate::Confirmed,
        Fate::Confirmed,
        Fate::NotYet,
        Fate::Failed,
        Fate::Unheard,
    ]);
    let finding = prop::sample::select(vec![Finding::There, Finding::Gone, Finding::Unknown]);
    prop_oneof![
        2 => finding.prop_map(Event::Look),
        3 => (phase, 0..3_u64).prop_map(|(phase, blocking)| Event::Report { phase, blocking }),
        4 => any::<usize>().prop_map(Event::Arrive),
        1 => any::<usize>().prop_map(Event::Lose),
        4 => fate.prop_map(Event::Order),
        2 => (0..20_u64).prop_map(Event::Pass),
    ]
}

/// The world, and what it must never see.
struct World {
    now: Instant,
    sequence: u64,
    on_their_way: Vec<Heard>,
    target: Option<Target>,
    /// What the balancer truly does: whether it sends new connections, whether it knows the target.
    sends: bool,
    knows: bool,
    deadline: Option<Instant>,
    /// Looks in a row, since a report came, that found nobody.
    gone: u32,
}

impl World {
    fn new() -> Self {
        World {
            now: Instant::now(),
            sequence: 0,
            on_their_way: Vec::new(),
            target: None,
            sends: true,
            knows: true,
            deadline: None,
            gone: 0,
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Report { phase, blocking } => self.report(phase, blocking),
            Event::Arrive(which) => {
                if !self.on_their_way.is_empty() {
                    let report = self.on_their_way[which % self.on_their_way.len()];
                    self.arrive(report);
                }
            }
            Event::Lose(which) => {
                if !self.on_their_way.is_empty() {
                    self.on_their_way.remove(which % self.on_their_way.len());
                }
            }
            Event::Order(fate) => self.order(fate),
            Event::Look(finding) => self.look(finding),
            Event::Pass(seconds) => self.now += SECOND * u32::try_from(seconds).expect("small"),
        }
    }

    fn report(&mut self, phase: Phase, blocking: u64) {
        self.sequence += 1;
        if phase == Phase::Serving {
            self.deadline = None;
        } else {
            self.deadline.get_or_insert(self.now + 60 * SECOND);
        }
        let deadline = self.deadline;
        let report = Heard { blocking, deadline, ..heard(self.sequence, phase) };
        self.on_their_way.push(report);
    }

    fn look(&mut self, finding: Finding) {
        let Some(target) = self.target.as_mut().filter(|it| it.wants_look(FLEET, self.now)) else {
            return;
        };
        target.look(finding, self.now, self.now);
        self.gone = if finding == Finding::Gone { self.gone + 1 } else { 0 };
    }

    fn arrive(&mut self, report: Heard) {
        self.gone = 0;
        match &mut self.target {
            None => self.target = Some(Target::new(report, self.now)),
            Some(target) => {
                let before = target.heard().sequence;
                let taken = target.hear(report, self.now).is_ok();
                assert_eq!(taken, report.sequence > before, "only what is newer counts");
            }
        }
    }

    fn order(&mut self, fate: Fate) {
        let Some(target) = &mut self.target else { return };
        let Some(action) = target.order(FLEET, self.now) else { return };
        let last = target.heard();
        let is_fresh = self.now < target.heard_at() + MIN_SILENCE;
        match action {
            Action::Register => assert_eq!(last.phase, Phase::Serving, "it drains"),
            Action::Deregister => {
                let is_over = last.phase != Phase::Serving;
                assert!(is_over || self.gone >= 2, "silence alone proves nothing: {last:?}");
                let lives = is_fresh && last.blocking > 0;
                let before_deadline = last.deadline.is_none_or(|at| self.now < at);
                assert!(
                    !(lives && before_deadline),
                    "it lives, and something would be cut: {last:?}"
                );
            }
            Action::WeightZero => assert_ne!(last.phase, Phase::Serving),
        }
        target.begin(action);
        let done = matches!(fate, Fate::Confirmed | Fate::Unheard);
        if done {
            self.sends = action == Action::Register;
            self.knows = action != Action::Deregister;
        }
        let outcome = match fate {
            Fate::Confirmed => Applied::default().into(),
            Fate::NotYet => Outcome::NotYet(SECOND),
            Fate::Failed | Fate::Unheard => failure(),
        };
        target.conclude(outcome, self.now, 0.5);
        match target.balancer(self.now) {
            BalancerState::WeightZero => assert!(!self.sends, "claimed, not true"),
            BalancerState::Deregistered => assert!(!self.knows, "claimed, not true"),
            BalancerState::Pending => {}
        }
    }

    /// From now on everything works, for as long as the longest pause and the longest silence.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.look(Finding::Gone);
            self.order(Fate::Confirmed);
            self.now += SECOND;
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_nothing_live_is_cut_and_what_is_over_is_deregistered(
        events in prop::collection::vec(event(), 0..60),
        ends_with_a_report in any::<bool>(),
    ) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        if ends_with_a_report {
            world.report(Phase::Drained, 0);
            let last = world.on_their_way[world.on_their_way.len() - 1];
            world.arrive(last);
        }
        world.settle();
        if world.target.is_some() {
            prop_assert!(!world.knows, "drained or silent, it must be deregistered in the end");
        }
    }

    #[test]
    fn while_it_drains_and_reports_the_weight_ends_at_zero_and_stays(
        events in prop::collection::vec(event(), 0..40),
        fates in prop::collection::vec(0..20_u64, 1..20),
    ) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        let mut zero = false;
        for _ in fates {
            for phase in [Phase::LameDuck, Phase::Draining] {
                world.report(phase, 1);
                let last = world.on_their_way[world.on_their_way.len() - 1];
                world.arrive(last);
                world.now += 2 * SECOND;
                world.order(Fate::Confirmed);
            }
            zero |= !world.sends;
            prop_assert!(!zero || !world.sends, "weight above zero while draining");
        }
    }
}
