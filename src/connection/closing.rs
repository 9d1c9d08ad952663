//! The end of a drain: who still has to leave, and when each one is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use super::table::{Entry, Table};
use crate::drain::{Drain, FORCE_CLOSE_PERIOD, Phase, State};
use crate::relay::{Control, Order};

/// How long a connection whose budget is over may take to leave, before it gets a FIN: the closing
/// handshake of a WebSocket, and its staged close.
const LEAVE_PERIOD: Duration = Duration::from_secs(7);

/// A class of connections that may not use the whole time until the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The class's name.
    pub class: &'static str,
    /// From the drain's start.
    pub timeout: Duration,
}

/// What a connection is asked to do while this phase lasts, until its turn to leave comes.
fn order_in(phase: Phase) -> Order {
    match phase {
        Phase::Serving => Order::Serve,
        Phase::LameDuck => Order::Drain,
        Phase::Draining | Phase::Closing | Phase::Drained => Order::Retire,
    }
}

/// Gives a connection that has just come into the table the order of the phase. The phase may change
/// meanwhile, and the order to all that follows a change may have missed the connection, or come before
/// this one: so the phase is looked at again.
pub(super) fn join(drain: &Drain, control: &Control) {
    let mut phase = drain.phase();
    loop {
        control.order(order_in(phase));
        let now = drain.phase();
        if now == phase {
            return;
        }
        phase = now;
    }
}

/// Watches the phases and tells the connections: find dead peers sooner, leave in turn, end.
pub async fn see_out(drain: Drain, table: Table, budgets: Vec<Budget>) {
    let mut states = drain.watch();
    let mut counted_since = None;
    'phases: loop {
        let state = *states.borrow_and_update();
        if let Some(progress) = state.progress
            && counted_since.replace(progress.started).is_some_and(|at| at != progress.started)
        {
            // The drain before was undone, and this one began before we looked.
            table.forget_drain();
        }
        table.order_all(order_in(state.phase));
        match (state.phase, state.progress) {
            (Phase::Serving, _) | (_, None) => table.forget_drain(),
            (Phase::LameDuck | Phase::Draining, Some(progress)) => {
                end_budgets(&mut states, &table, &budgets, progress.started.into()).await;
                continue;
            }
            (Phase::Closing, Some(progress)) => {
                if ask_to_leave(&mut states, &table, progress.deadline.into()).await {
                    close_all(&table, Order::Close);
                } else {
                    // The phase changed meanwhile: look at it first.
                    continue;
                }
            }
            (Phase::Drained, Some(progress)) => {
                // Who came when it was over (mode `accept`, `--admit`) has until the deadline too.
                let deadline = Instant::from(progress.deadline);
                for (at, order) in
                    [(deadline, Order::Close), (deadline + FORCE_CLOSE_PERIOD, Order::Reset)]
                {
                    if !sleep_unless_changed(&mut states, at).await {
                        continue 'phases;
                    }
                    close_all(&table, order);
                }
            }
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Ends one class after the other as its budget is used up, until the phase changes.
async fn end_budgets(
    states: &mut watch::Receiver<State>,
    table: &Table,
    budgets: &[Budget],
    started: Instant,
) {
    let mut budgets = budgets.to_vec();
    budgets.sort_unstable_by_key(|budget| budget.timeout);
    for budget in budgets {
        // One that was over in an earlier phase finds nobody, or those who came since.
        if !sleep_unless_changed(states, started + budget.timeout).await {
            return;
        }
        let mut entries = survivors(table);
        entries.retain(|entry| entry.class().name() == budget.class);
        info!(class = budget.class, connections = entries.len(), "budget used up");
        end_class(table, entries);
    }
    // A lost sender ends the process, and this with it.
    if states.changed().await.is_ok() {
        states.mark_changed();
    }
}

fn end_class(table: &Table, entries: Vec<Arc<Entry>>) {
    for entry in &entries {
        table.force(entry, Order::Leave);
    }
    let table = table.clone();
    tokio::spawn(async move {
        tokio::time::sleep(LEAVE_PERIOD).await;
        for entry in &entries {
            table.force(entry, Order::Close);
        }
        tokio::time::sleep(FORCE_CLOSE_PERIOD).await;
        for entry in &entries {
            table.force(entry, Order::Reset);
        }
    });
}

/// Asks every survivor to leave, one after the other in random order, spread evenly up to the
/// deadline, so that their clients do not all come back in the same instant. Looks again before
/// the deadline for those that came meanwhile. `false` when the phase changed before it.
async fn ask_to_leave(
    states: &mut watch::Receiver<State>,
    table: &Table,
    deadline: Instant,
) -> bool {
    let mut survivors = survivors(table);
    fastrand::shuffle(&mut survivors);
    let now = Instant::now();
    let spread = deadline.saturating_duration_since(now);
    let slots = u32::try_from(survivors.len()).unwrap_or(u32::MAX).max(1);
    let slot = spread / slots;
    info!(survivors = survivors.len(), spread_seconds = spread.as_secs_f64(), "asking to leave");
    for (index, entry) in (0u32..).zip(survivors) {
        let jitter = slot.mul_f64(fastrand::f64());
        if !sleep_unless_changed(states, now + slot * index + jitter).await {
            return false;
        }
        table.force(&entry, Order::Leave);
    }
    sleep_unless_changed(states, deadline).await
}

async fn sleep_unless_changed(states: &mut watch::Receiver<State>, until: Instant) -> bool {
    // A past moment needs no timer: a thousand survivors a second share the clock's milliseconds.
    if until.saturating_duration_since(Instant::now()) < Duration::from_millis(1) {
        return !states.has_changed().unwrap_or(true);
    }
    tokio::select! {
        () = tokio::time::sleep_until(until) => true,
        _ = states.changed() => {
            // Left unseen, so that the caller's loop finds the new phase.
            states.mark_changed();
            false
        }
    }
}

fn close_all(table: &Table, order: Order) {
    for entry in survivors(table) {
        table.force(&entry, order);
    }
}

fn survivors(table: &Table) -> Vec<Arc<Entry>> {
    let mut entries = table.list();
    entries.retain(|entry| entry.class().excluded().is_none());
    entries
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::connection::status::ListenerStatus;
    use crate::connection::table::Registered;
    use crate::drain::{Door, Guard, Schedule, Trigger};
    use crate::protocol::Class;

    const SECOND: Duration = Duration::from_secs(1);

    /// A drain of 10 s as a lame duck and 100 s in all, and what is seen out in it.
    struct Scene {
        drain: Drain,
        table: Table,
        listener: Arc<ListenerStatus>,
        begun: Instant,
        /// What keeps the drain from being over.
        #[expect(dead_code, reason = "held, not read")]
        held: (Door, Guard),
    }

    impl Scene {
        fn new(budgets: Vec<Budget>) -> Self {
            let drain = Drain::new(Schedule {
                delay: 10 * SECOND,
                timeout: 100 * SECOND,
                quiet_period: Duration::ZERO,
                close_spread: 20 * SECOND,
                settled_for: Duration::ZERO,
            });
            let table = Table::default();
            tokio::spawn(drain.clone().run());
            tokio::spawn(see_out(drain.clone(), table.clone(), budgets));
            let listener = Arc::new(ListenerStatus::new(SocketAddr::from(([127, 0, 0, 1], 1))));
            let held = (drain.door(), drain.guard());
            Scene { drain, table, listener, begun: Instant::now(), held }
        }

        fn open(&self, class: Class) -> Registered {
            let peer = SocketAddr::from(([127, 0, 0, 1], 2));
            let registered = self.table.register(peer, &self.listener, class);
            join(&self.drain, &registered.entry.control);
            registered
        }

        /// Moves the clock to so long after the scene's beginning, and lets everybody act.
        async fn at(&self, after: Duration) {
            tokio::time::sleep_until(self.begun + after).await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn order(registered: &Registered) -> Order {
        registered.entry.control.current()
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_gives_its_order_to_those_who_are_there_and_those_who_come() {
        let scene = Scene::new(Vec::new());
        let old = scene.open(Class::Tcp);
        assert_eq!(order(&old), Order::Serve);
        scene.drain.trigger(Trigger::Endpoint);
        let newcomer = scene.open(Class::Tcp);
        assert_eq!(order(&newcomer), Order::Drain);
        scene.at(SECOND).await;
        assert_eq!(order(&old), Order::Drain);
        scene.at(11 * SECOND).await;
        let late = scene.open(Class::Tcp);
        assert_eq!([&old, &newcomer, &late].map(order), [Order::Retire; 3]);
        assert_eq!(scene.drain.undrain(), Ok(()));
        scene.at(12 * SECOND).await;
        assert_eq!([&old, &newcomer, &late].map(order), [Order::Serve; 3]);
        assert_eq!(scene.table.forced(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn survivors_are_asked_one_after_the_other_over_the_whole_spread() {
        const SURVIVORS: usize = 100;
        let scene = Scene::new(Vec::new());
        let crowd: Vec<_> = (0..SURVIVORS).map(|_| scene.open(Class::Tcp)).collect();
        let idle = scene.open(Class::Idle);
        scene.drain.trigger(Trigger::Endpoint);
        let asked = || crowd.iter().filter(|registered| order(registered) == Order::Leave).count();
        scene.at(79 * SECOND).await;
        assert_eq!(asked(), 0);
        // Each has a slot of a fifth of a second, and is asked within it.
        for second in 1..20 {
            scene.at((80 + second) * SECOND).await;
            let expected = 5 * usize::try_from(second).unwrap();
            assert!(asked().abs_diff(expected) <= 1, "{} after {second} s", asked());
        }
        assert_eq!(order(&idle), Order::Retire, "who does not block is not asked");
        scene.at(100 * SECOND).await;
        assert!(crowd.iter().all(|registered| order(registered) == Order::Close));
        scene.at(102 * SECOND).await;
        assert!(crowd.iter().all(|registered| order(registered) == Order::Reset));
        assert_eq!(scene.table.forced(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn an_undrain_while_survivors_are_asked_spares_the_others() {
        let scene = Scene::new(Vec::new());
        let crowd: Vec<_> = (0..100).map(|_| scene.open(Class::Tcp)).collect();
        scene.drain.trigger(Trigger::Endpoint);
        scene.at(90 * SECOND).await;
        assert_eq!(scene.drain.undrain(), Ok(()));
        scene.at(95 * SECOND).await;
        let of = |wanted| crowd.iter().filter(|registered| order(registered) == wanted).count();
        assert!((49..=51).contains(&of(Order::Leave)), "{}", of(Order::Leave));
        assert_eq!(of(Order::Leave) + of(Order::Serve), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_ends_its_class_alone() {
        let scene = Scene::new(vec![Budget { class: "silent", timeout: 20 * SECOND }]);
        let (silent, tcp) = (scene.open(Class::Silent), scene.open(Class::Tcp));
        scene.drain.trigger(Trigger::Endpoint);
        for (at, expected) in [
            (19 * SECOND, Order::Retire),
            (21 * SECOND, Order::Leave),
            (20 * SECOND + LEAVE_PERIOD + SECOND, Order::Close),
            (20 * SECOND + LEAVE_PERIOD + FORCE_CLOSE_PERIOD + SECOND, Order::Reset),
        ] {
            scene.at(at).await;
            assert_eq!((order(&silent), order(&tcp)), (expected, Order::Retire), "at {at:?}");
        }
        assert_eq!(scene.table.forced(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_right_behind_an_undrain_counts_anew() {
        let scene = Scene::new(vec![Budget { class: "tcp", timeout: SECOND }]);
        let forced = scene.open(Class::Tcp);
        scene.drain.trigger(Trigger::Endpoint);
        scene.at(2 * SECOND).await;
        assert_eq!((order(&forced), scene.table.forced()), (Order::Leave, 1));
        drop(forced);
        // Nobody runs in between: what watches the phases never sees `Serving`.
        assert_eq!(scene.drain.undrain(), Ok(()));
        scene.drain.trigger(Trigger::Signal);
        scene.at(2 * SECOND + SECOND / 2).await;
        assert_eq!(scene.table.forced(), 0);
    }
}
