//! The same on a path with delay, as networks have: handshakes are under way when the listener closes.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::proxy;
use crate::support::PATIENCE;
use crate::support::churn::{Churn, Outcome, Tally};
use crate::support::crowd::alone;
use crate::support::delayed::{DelayedPath, SERVER_V4, SERVER_V6, sources_v4, sources_v6};

/// Each way.
const DELAY: Duration = Duration::from_millis(2);
const PER_SECOND: u32 = 1000;
const DRAINS: usize = 8;
/// Drains that lost nothing because nobody came would show nothing.
const LEAST: usize = 300;

/// Who comes, and to what address.
#[derive(Clone, Copy)]
enum Families {
    V4,
    V6,
    /// One listener for both.
    Both,
}

impl Families {
    fn listen(self) -> String {
        match self {
            Families::V4 => format!("{SERVER_V4}:0"),
            Families::V6 => format!("[{SERVER_V6}]:0"),
            Families::Both => "[::]:0".to_owned(),
        }
    }

    fn servers(self) -> Vec<IpAddr> {
        let [v4, v6] = [SERVER_V4, SERVER_V6].map(|text| text.parse().expect("an address"));
        match self {
            Families::V4 => vec![v4],
            Families::V6 => vec![v6],
            Families::Both => vec![v4, v6],
        }
    }

    /// In the order of the servers' addresses, so that each source meets its own family.
    fn sources(self) -> Vec<IpAddr> {
        let (v4, v6) = (sources_v4(), sources_v6());
        match self {
            Families::V4 => v4,
            Families::V6 => v6,
            Families::Both => v4.into_iter().zip(v6).flat_map(|(v4, v6)| [v4, v6]).collect(),
        }
    }
}

fn churn(path: &DelayedPath, families: Families, port: u16) -> crate::support::churn::Churning {
    let targets = families.servers().into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    let churn = Churn { sources: families.sources(), targets, per_second: PER_SECOND };
    path.at_clients(|| churn.start())
}

/// One drain in the middle of the churn.
fn drain(path: &DelayedPath, families: Families) -> Tally {
    let proxy = proxy(&["--listen", &families.listen()]);
    let churn = churn(path, families, proxy.addr().port());
    churn.another(LEAST);
    proxy.signal(Signal::TERM);
    let closed = proxy.says("listener closed");
    churn.another(LEAST);
    let tally = churn.stop();
    assert_eq!(proxy.finish().code(), Some(0));
    println!(
        "{:.0}/s: {} answered, {} refused, {} unheard, longest refusal {:?}, {} lost, counted {}",
        tally.rate,
        tally.count(&Outcome::Answered),
        tally.count(&Outcome::Refused),
        tally.count(&Outcome::Unheard),
        tally.longest_refusal(),
        tally.lost().len(),
        closed["aborted"],
    );
    assert!(tally.count(&Outcome::Answered) >= LEAST);
    assert!(tally.count(&Outcome::Refused) + tally.count(&Outcome::Unheard) > 0);
    tally
}

fn lose_nothing(families: Families, setup: &str) {
    let _alone = alone();
    let path = DelayedPath::new(DELAY, setup);
    let tallies: Vec<_> = path.at_servers(|| (0..DRAINS).map(|_| drain(&path, families)).collect());
    let lost: Vec<_> = tallies.iter().flat_map(Tally::lost).collect();
    assert!(lost.is_empty(), "{} connections lost in {DRAINS} drains: {lost:#?}", lost.len());
}

#[test]
fn no_handshake_under_way_is_lost() {
    lose_nothing(Families::V4, "");
}

#[test]
fn no_handshake_under_way_is_lost_over_ipv6() {
    lose_nothing(Families::V6, "");
}

#[test]
fn no_handshake_under_way_is_lost_on_a_listener_for_both_families() {
    lose_nothing(Families::Both, "");
}

/// The kernel keeps no half-open handshake then; the ACK brings back all that it needs.
#[test]
fn no_handshake_under_way_is_lost_with_syn_cookies() {
    lose_nothing(Families::Both, "echo 2 > /proc/sys/net/ipv4/tcp_syncookies");
}

/// Clients whose kernels have said that they are connected, and whose last ACK is still under way when
/// newcomers are refused already.
#[test]
fn handshakes_that_are_half_open_when_newcomers_are_refused_are_finished() {
    const HALF_OPEN: usize = 40;
    let _alone = alone();
    for families in [Families::V4, Families::V6, Families::Both] {
        let path = DelayedPath::new(DELAY, "");
        path.at_servers(|| {
            let proxy = proxy(&["--listen", &families.listen()]);
            let port = proxy.addr().port();
            path.hold_handshakes();
            let churn = churn(&path, families, port);
            churn.another(HALF_OPEN);
            churn.pause();
            path.until_half_open(HALF_OPEN);
            proxy.signal(Signal::TERM);
            path.at_clients(|| until_refused(SocketAddr::new(families.servers()[0], port)));
            path.release_handshakes();
            let tally = churn.stop();
            let finished = proxy.finish();
            let said = |line: &&Value| line["message"] == "listener closed";
            let closed = finished.log.iter().find(said).expect("the listener closed");
            let lost = tally.lost();
            assert!(lost.is_empty(), "{} of {HALF_OPEN} lost: {lost:#?}; {closed}", lost.len());
            assert!(tally.count(&Outcome::Answered) >= HALF_OPEN, "{tally:?}");
            assert_eq!(finished.code(), Some(0));
        });
    }
}

/// Connects until nobody is let in.
fn until_refused(addr: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(addr).is_ok() {
        assert!(Instant::now() < deadline, "never refused");
    }
}
