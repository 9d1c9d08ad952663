//! What an idle connection costs in memory.

use crate::support::Ebbtide;
use crate::support::churn::{echo, runtime};
use crate::support::crowd::{Crowd, alone};

const CONNECTIONS: usize = 5_000;
/// A quarter of the relay's smallest buffer, so that one kept by an idle connection is seen.
const MOST_BYTES: usize = 4 * 1024;

/// The process's share of memory, in bytes.
fn proportional_set_size(pid: i32) -> usize {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line of it");
    let kib: usize = pss.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let _alone = alone();
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    let addr = proxy.addr();
    runtime().block_on(async {
        // What the first connections warm up is not theirs.
        let few = Crowd::gather(addr, 100).await;
        let before = proportional_set_size(proxy.pid());
        let crowd = Crowd::gather(addr, CONNECTIONS).await;
        let after = proportional_set_size(proxy.pid());
        let each = after.saturating_sub(before) / CONNECTIONS;
        println!("{each} bytes of the process for each idle connection");
        assert!(each < MOST_BYTES, "{each} bytes for each idle connection");
        drop((few, crowd));
    });
}
