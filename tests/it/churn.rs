//! New connections across the moment the listener closes: none is established and then lost.

mod delayed;

use std::io::Write;
use std::net::{IpAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::churn::{Churn, Outcome, Tally, echo};
use crate::support::crowd::alone;
use crate::support::{Ebbtide, namespace, process, written_at};

/// Half as many again as must be reached, so that a busy machine reaches it.
const PER_SECOND: u32 = 1500;
const LEAST_PER_SECOND: f64 = 1000.0;
/// More than the 16 that are asked for: no source runs out of ports.
const SOURCES: u8 = 32;
const DRAINS: usize = 10;
/// Around the close, connections of the busiest moment are counted within this distance.
const AROUND: Duration = Duration::from_millis(100);

fn sources_v4() -> Vec<IpAddr> {
    (2..2 + SOURCES).map(|last| IpAddr::from([127, 0, 0, last])).collect()
}

fn sources_v6() -> Vec<IpAddr> {
    (2..2 + u16::from(SOURCES)).map(|last| [0xfd00, 0, 0, 0, 0, 0, 0, last].into()).collect()
}

/// A namespace with as many IPv6 addresses as there are sources; the host has but `::1`.
fn setup_v6() -> String {
    let add = |addr| format!("ip -6 addr add {addr}/128 dev lo nodad; ");
    sources_v6().into_iter().map(add).collect()
}

/// A proxy that logs no single connection: at this rate the log would be half of the work.
fn proxy(args: &[&str]) -> Ebbtide {
    let upstream = echo().to_string();
    let mut command = Command::new("env");
    command.args(["EBBTIDE_LOG=ebbtide=info", &process::program(), "proxy"]);
    command.args(["--upstream", &upstream, "--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    command.args(["--termination-log", "/dev/null", "--drain-delay", "500ms"]);
    command.args(["--quiet-period", "0", "--settled-for", "0"]).args(args);
    Ebbtide::spawn(command)
}

/// One drain in the middle of the churn, with fresh processes.
fn drain(args: &[&str], listeners: usize, sources: Vec<IpAddr>) -> Tally {
    let proxy = proxy(args);
    let churn = Churn { sources, targets: proxy.addrs(listeners), per_second: PER_SECOND }.start();
    churn.another(500);
    proxy.signal(Signal::TERM);
    let closed = |line: &Value| line["message"] == "listener closed";
    proxy.says("listener closed");
    while proxy.log().iter().filter(|line| closed(line)).count() < listeners {
        churn.another(1);
    }
    churn.another(700);
    let tally = churn.stop();
    let finished = proxy.finish();
    let lost = tally.lost().len();
    let mut aborted = 0;
    for line in finished.log.iter().filter(|line| closed(line)) {
        let around = tally.around(written_at(line), AROUND);
        println!(
            "{:.0}/s: {} answered, {} refused, {} unheard, {} lost, {around} around the close",
            tally.rate,
            tally.count(&Outcome::Answered),
            tally.count(&Outcome::Refused),
            tally.count(&Outcome::Unheard),
            lost,
        );
        assert!(around >= 100, "only {around} connections were begun around the close");
        aborted += line["aborted"].as_u64().expect("a count");
    }
    assert_eq!(finished.code(), Some(0), "{:#?}", finished.log);
    assert!(tally.rate >= LEAST_PER_SECOND, "only {:.0} connections a second", tally.rate);
    assert!(tally.count(&Outcome::Answered) > 500 && tally.count(&Outcome::Refused) > 500);
    assert_eq!(aborted, lost as u64, "the proxy counts what the close of its listeners aborts");
    tally
}

fn lose_nothing(args: &[&str], listeners: usize, sources: impl Fn() -> Vec<IpAddr>, drains: usize) {
    // All drains first: how many were lost in how many tells more than the first that was.
    let lost: Vec<_> = (0..drains)
        .flat_map(|_| {
            let tally = drain(args, listeners, sources());
            tally.lost().into_iter().cloned().collect::<Vec<_>>()
        })
        .collect();
    assert!(lost.is_empty(), "{} connections lost in {drains} drains: {lost:#?}", lost.len());
}

#[test]
fn ten_drains_lose_no_established_connection() {
    let _alone = alone();
    lose_nothing(&["--listen", "127.0.0.1:0"], 1, sources_v4, DRAINS);
}

#[test]
fn ten_drains_lose_no_established_connection_over_ipv6() {
    let _alone = alone();
    namespace::inside(&setup_v6(), || {
        lose_nothing(&["--listen", "[::1]:0"], 1, sources_v6, DRAINS);
    });
}

#[test]
fn two_listeners_on_two_threads_lose_none_either() {
    let _alone = alone();
    let directory = std::env::temp_dir().join(format!("ebbtide-churn-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("two.yaml");
    let listeners = "listeners:\n- listen: 127.0.0.1:0\n- listen: 127.0.0.1:0\n";
    std::fs::write(&file, listeners).expect("a file");
    let file_name = file.to_str().expect("a path");
    lose_nothing(&["--config", file_name, "--threads", "2"], 2, sources_v4, 3);
    std::fs::remove_dir_all(&directory).expect("removed");
}

/// Where the kernel denies the SYN filter (here: it has no memory for the program) newcomers are accepted
/// and reset. What is promised is that the drain ends, and that it is said.
#[test]
fn a_kernel_that_denies_the_syn_filter_is_reported_and_the_drain_ends() {
    let _alone = alone();
    namespace::inside("echo 1 > /proc/sys/net/core/optmem_max", || {
        let proxy = proxy(&["--listen", "127.0.0.1:0", "--reject", "drop"]);
        let mut held = TcpStream::connect(proxy.addr()).expect("a connection");
        held.write_all(b"held").expect("sent");
        let targets = vec![proxy.addr()];
        let churn = Churn { sources: sources_v4(), targets, per_second: PER_SECOND }.start();
        churn.another(500);
        proxy.signal(Signal::TERM);
        let denied = |status: &Value| status["listeners"][0]["synFilter"] == "denied";
        proxy.until("without a filter", denied);
        proxy.until_metric("ebbtide_syn_filters_total{filter=\"denied\"} 1");
        churn.another(500);
        drop(held);
        let tally = churn.stop();
        let finished = proxy.finish();
        let said = |line: &&Value| {
            line["message"].as_str().is_some_and(|text| text.contains("denies every SYN filter"))
        };
        assert_eq!(finished.log.iter().filter(said).count(), 1, "{:#?}", finished.log);
        assert_eq!(finished.code(), Some(0));
        println!(
            "without the filter, {:.0}/s: {} answered, {} refused, {} lost",
            tally.rate,
            tally.count(&Outcome::Answered),
            tally.count(&Outcome::Refused),
            tally.lost().len()
        );
    });
}
