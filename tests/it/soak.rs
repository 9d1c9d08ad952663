//! A soak: mixed traffic, a drain and an undrain each 20 s, controllers that are killed and come again.
//! Nobody loses anything, and afterwards the process holds what it held at the start.
//!
//! Two minutes in the normal run; `EBBTIDE_SOAK_MINUTES=60` makes it an hour, which a person starts by hand.

mod clients;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::field::application;
use crate::support::{Ebbtide, PATIENCE, free_port, usage};
use clients::{Clients, KINDS};

/// One drain and one undrain.
const CYCLE: Duration = Duration::from_secs(20);
/// Before the drain; the controller is away for a part of it.
const SERVING: Duration = Duration::from_secs(10);
/// For allocators and tables to settle; a leak of a hundred bytes a connection is more in two minutes.
const MOST_GROWTH: u64 = 6 << 20;
/// How long the process is watched at rest.
const REST: Duration = Duration::from_secs(3);

/// What a process holds at rest.
#[derive(Debug)]
struct Holds {
    /// Descriptors by what they are; of pipes a worker keeps a few.
    descriptors: BTreeMap<String, usize>,
    threads: usize,
    resident: u64,
    /// How often its threads woke up while nobody asked for anything: timers that are left wake them.
    wakes: u64,
}

#[test]
fn a_soak_loses_nothing_and_leaves_nothing_behind() {
    let minutes =
        std::env::var("EBBTIDE_SOAK_MINUTES").map_or(2, |count| count.parse().expect("minutes"));
    let controller_addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let application = application::start();
    let url = format!("http://{controller_addr}");
    let mut args = vec!["--protocol", "auto", "--controller", &url, "--drain-delay", "500ms"];
    args.extend(["--quiet-period", "0", "--settled-for", "500ms", "--settle-period", "100ms"]);
    let proxy = Ebbtide::proxy(&application.to_string(), &args);
    let addr = proxy.addr();

    // One cycle warms up: what the first of each kind opens or grows is not theirs.
    let mut controller = Some(start_controller(controller_addr));
    cycles(&proxy, addr, 1, &mut controller);
    let before = Holds::of(&proxy);
    let count = Duration::from_secs(60 * minutes).as_secs() / CYCLE.as_secs();
    cycles(&proxy, addr, count - 1, &mut controller);
    let after = Holds::of(&proxy);
    println!("before {before:#?}\nafter {after:#?}");
    after.compare(&before);

    proxy.signal(Signal::TERM);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
    let forced = finished.lines("connection force-closed by the drain");
    assert!(forced.is_empty(), "{forced:#?}");
}

/// So many cycles under load; afterwards nobody is there.
fn cycles(proxy: &Ebbtide, addr: SocketAddr, count: u64, controller: &mut Option<Ebbtide>) {
    let clients = Arc::new(Clients::default());
    let load = clients.start(addr);
    for cycle in 0..count {
        one_cycle(proxy, controller);
        let lost = clients.lost();
        assert!(
            lost.is_empty(),
            "cycle {cycle}: {} lost: {:#?}",
            lost.len(),
            &lost[..lost.len().min(9)]
        );
    }
    clients.stop();
    load.join().expect("the clients end well");
    let lost = clients.lost();
    assert!(lost.is_empty(), "{} lost: {:#?}", lost.len(), &lost[..lost.len().min(9)]);
    for (kind, done) in KINDS.iter().zip(clients.done()) {
        println!("{done} visits: {kind:?}");
        assert!(done > 0, "no visit: {kind:?}");
    }
}

/// Serves, loses its controller and finds it again, drains to the end, and serves again.
fn one_cycle(proxy: &Ebbtide, controller: &mut Option<Ebbtide>) {
    let began = Instant::now();
    std::thread::sleep(SERVING / 3);
    let addr = controller.take().expect("a controller").takes_reports();
    std::thread::sleep(SERVING / 3);
    *controller = Some(start_controller(addr));
    std::thread::sleep(SERVING.saturating_sub(began.elapsed()));
    assert_eq!(proxy.post("/drain").status, 200);
    // Every connection ended, every guard went back.
    let drained = proxy.until_phase("Drained");
    assert_eq!(drained["drainBlockingConnections"], 0, "{drained}");
    assert_eq!(drained["forcedCloses"], 0, "{drained}");
    assert_eq!(proxy.post("/undrain").status, 200);
    proxy.until_phase("Serving");
    std::thread::sleep(CYCLE.saturating_sub(began.elapsed()));
}

/// A controller at an address where one was a moment ago.
fn start_controller(addr: SocketAddr) -> Ebbtide {
    let controller = Ebbtide::controller(&addr.to_string());
    controller.takes_reports();
    controller
}

impl Holds {
    /// Looks at a proxy whose clients have gone.
    fn of(proxy: &Ebbtide) -> Self {
        let deadline = Instant::now() + PATIENCE;
        while !proxy.connections().is_empty() {
            assert!(Instant::now() < deadline, "stays in the table: {:#?}", proxy.connections());
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = proxy.until("at rest", |status| status["activeConnections"] == 0);
        assert_eq!(status["drainBlockingConnections"], 0, "{status}");
        assert_eq!((&status["activeRequests"], &status["activeStreams"]), (&0.into(), &0.into()));
        let pid = proxy.pid();
        // The endpoints' connections of these looks end too.
        std::thread::sleep(Duration::from_millis(500));
        let wakes_before = wakes(pid);
        std::thread::sleep(REST);
        let wakes = wakes(pid) - wakes_before;
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        let resident = usage::resident_bytes(pid);
        Holds { descriptors: descriptors(pid), threads: tasks.count(), resident, wakes }
    }

    fn compare(&self, before: &Self) {
        /// A worker's pipes that are kept for the next who needs one, both ends.
        const PIPE_ENDS: usize = 8;
        for (kind, count) in &self.descriptors {
            let was = before.descriptors.get(kind).copied().unwrap_or_default();
            // The connection to the controller is there, or just made again.
            let spare = match kind.as_str() {
                "pipe" => PIPE_ENDS,
                "socket" => 1,
                _ => 0,
            };
            assert!(*count <= was + spare, "descriptors: {kind} {was}, now {count}");
        }
        assert!(self.threads <= before.threads + 1, "{self:?} {before:?}");
        assert!(self.resident <= before.resident + MOST_GROWTH, "{self:?} {before:?}");
        assert!(self.wakes <= 2 * before.wakes + 50, "timers are left: {self:?} {before:?}");
    }
}

/// How often the threads of a process went to sleep of their own will, and so woke up.
fn wakes(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let of_one = |path: std::path::PathBuf| -> Option<u64> {
        let status = std::fs::read_to_string(path.join("status")).ok()?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?
            .trim()
            .parse()
            .ok()
    };
    tasks.filter_map(|task| of_one(task.path())).sum()
}

fn descriptors(pid: i32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        let kind = target.split(":[").next().unwrap_or_default();
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}
