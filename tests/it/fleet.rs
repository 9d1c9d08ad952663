//! The whole story: pods with addresses of their own, a real HAProxy, and the controller between them.

mod faults;
mod watch;
mod world;

use std::sync::atomic::Ordering;

use crate::support::crowd::alone;
use crate::support::namespace::inside;
use crate::support::written_at as at;
use faults::FAULTS;
use watch::Watch;
use world::{BRIDGE, Controllers, World};

/// A rolling restart of `pods` of three, with nobody in the world who notices. `disturb` may do what it
/// likes once the drain of a pod has begun.
fn rolling_restart(controllers: Controllers, pods: usize, disturb: impl Fn(&mut World) + Sync) {
    let _alone = alone();
    inside(BRIDGE, || {
        let mut world = World::new(controllers);
        for pod in 0..pods {
            world.begin_to_drain(pod);
            disturb(&mut world);
            world.replace(pod);
        }
        world.end();
    });
}

#[test]
fn a_rolling_restart_goes_by_knowledge_and_costs_no_client_anything() {
    let _alone = alone();
    inside(BRIDGE, || {
        let mut world = World::new(Controllers::One);
        for pod in 0..3 {
            let watch = Watch::start(&world.haproxy, &world::name(pod));
            world.begin_to_drain(pod);
            let finished = world.replace(pod);
            let seen = watch.stop();
            let name = world::name(pod);

            // The order of things, each by the clock of who did it.
            let applied = |action: &str| {
                let is_it = |line: &&serde_json::Value| {
                    line["message"] == "applied"
                        && line["action"] == action
                        && line["pod"] == format!("shop/{name}")
                };
                let log = world.controllers[0].log();
                log.iter().rev().find(is_it).map_or_else(|| panic!("no {action}"), at)
            };
            let phase = |phase: &str| {
                let lines = finished.lines("phase");
                let line = lines.into_iter().find(|line| line["phase"] == phase);
                at(line.unwrap_or_else(|| panic!("no {phase}: {finished:?}")))
            };
            let (zero, gone) = (applied("weight-zero"), applied("deregister"));
            let (lame_duck, draining, drained) =
                (phase("LameDuck"), phase("Draining"), phase("Drained"));
            assert!(lame_duck < zero, "weight zero comes after the drain's report");
            assert!(zero < draining, "the lame duck ends by knowledge");
            let lasted = draining.duration_since(lame_duck).expect("in order");
            assert!(lasted < world::DRAIN_DELAY, "it ended by its delay: {lasted:?}");
            assert!(draining < drained && drained < gone, "deregistered at zero, not before");
            assert!(gone <= at(finished.log.last().expect("a line")), "the process waited for it");

            // What HAProxy itself shows.
            assert_eq!(seen.states(), ["UP", "DRAIN", "MAINT", "UP"], "{name}");
            let (before, after) = (seen.sessions_at(zero), seen.sessions_at(gone));
            assert_eq!(before, after, "a new session after the acknowledgement");
            println!(
                "{name}: weight zero {:?} after the trigger, lame duck {lasted:?}, deregistered {:?} after zero",
                zero.duration_since(lame_duck).expect("in order"),
                gone.duration_since(drained).expect("in order"),
            );
        }
        world.end();
    });
}

#[test]
fn a_controller_that_is_killed_in_the_middle_and_starts_again_loses_nothing() {
    rolling_restart(Controllers::One, 1, |world| {
        world.until_applied("weight-zero");
        world.restart_controller();
    });
}

#[test]
fn a_balancer_that_cannot_be_told_for_a_while_is_told_in_the_end() {
    rolling_restart(Controllers::One, 1, |world| {
        let log = world.controllers[0].log().len();
        world.haproxy.hide_socket();
        // It is missed, and then it is there again.
        world.until_logged(log, |line| line["message"] == "failed, trying again");
        std::thread::sleep(std::time::Duration::from_secs(5));
        world.haproxy.show_socket();
    });
}

#[test]
fn two_controllers_do_no_harm() {
    rolling_restart(Controllers::Two, 2, |_| {});
}

#[test]
fn reports_that_are_lost_late_and_unanswered_do_no_harm() {
    rolling_restart(Controllers::Behind(FAULTS), 1, |_| {});
}

impl World {
    /// Everybody stops; nobody may have noticed anything.
    fn end(mut self) {
        self.meetings.say("stop");
        let ends = self.meetings.json();
        self.seen.stop.store(true, Ordering::SeqCst);
        let clients = std::mem::take(&mut self.clients);
        assert!(clients.into_iter().all(|client| client.join().is_ok()), "a request was lost");
        for pod in 0..world::PODS {
            for run in 0..=self.runs[pod] {
                let told = crate::support::meetings::told_to_leave(&ends, &world::label(pod, run));
                assert_eq!(told, 0, "all meetings end at their own pace");
            }
        }
        for pod in 0..world::PODS {
            for column in ["econ", "eresp", "wretr", "wredis"] {
                let count = self.haproxy.stat("pods", &world::name(pod), column);
                assert_eq!(count, "0", "{column} of {}", world::name(pod));
            }
        }
        println!(
            "{} meetings, {} requests on {} connections, no error",
            ends.as_array().map_or(0, Vec::len),
            self.seen.answers.load(Ordering::SeqCst),
            self.seen.connections.load(Ordering::SeqCst),
        );
    }
}
