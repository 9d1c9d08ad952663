//! A rolling update of two pods behind a real HAProxy: meetings and requests go through it all the time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::process::Signal;

use crate::support::Ebbtide;
use crate::support::crowd::alone;
use crate::support::haproxy::Haproxy;
use crate::support::meetings::{APPLICATION, MEETINGS, Seen, keep_asking, told_to_leave};
use crate::support::peers::Peer;

const MEETING_COUNT: usize = 100;
const HTTP_CLIENTS: usize = 20;

/// An application with Ebbtide before it.
struct Pod {
    application: Peer,
    proxy: Ebbtide,
}

impl Pod {
    fn start(name: &str, listen: &str) -> Self {
        let application = Peer::node(&APPLICATION.replace("POD", name));
        let proxy = Ebbtide::proxy(
            &application.upstream,
            &[
                ["--listen", listen, "--protocol", "auto", "--reject", "refuse"],
                ["--drain-delay", "1s", "--quiet-period", "0", "--drain-timeout", "9s"],
                ["--close-spread", "2s", "--settled-for", "0", "--settle-period", "100ms"],
            ]
            .concat(),
        );
        Pod { application, proxy }
    }

    /// Waits for the proxy's end and looks at what both said: the exit status, and how many were
    /// force-closed.
    fn finish(self) -> (Option<i32>, u64) {
        let finished = self.proxy.finish();
        let errors: Vec<_> = self.application.said();
        assert!(errors.is_empty(), "the application saw {errors:?}");
        let forced = finished.lines("drained")[0]["forced"].as_u64().expect("a number");
        (finished.code(), forced)
    }
}

#[test]
fn a_rolling_update_behind_haproxy_costs_no_client_anything() {
    let _alone = alone();
    let (a, b) = (Pod::start("a1", "127.0.0.1:0"), Pod::start("b1", "127.0.0.1:0"));
    let (a_addr, b_addr) = (a.proxy.addr(), b.proxy.addr());
    let balancer = Haproxy::new(&[("a", a_addr), ("b", b_addr)]);
    let seen = Arc::new(Seen::default());
    let clients: Vec<_> =
        (0..HTTP_CLIENTS).map(|seed| keep_asking(balancer.addr, seed, Arc::clone(&seen))).collect();
    let url = format!("ws://{}/meeting", balancer.addr);
    let mut meetings = Peer::python_client(MEETINGS, &[&url, &MEETING_COUNT.to_string()]);
    let opened = meetings.json();
    for pod in ["a1", "b1"] {
        assert!(opened[pod].as_u64() > Some(MEETING_COUNT as u64 / 4), "{opened}");
        seen.until_pod(pod);
    }

    // The balancer knows first. Half of the meetings end in time, the others are told to leave.
    balancer.drain("a");
    a.proxy.signal(Signal::TERM);
    meetings.say("leave a1 2 3");
    a.proxy.says("listener closed");
    let (code, forced) = a.finish();
    assert_eq!(code, Some(75));
    let a = Pod::start("a2", &a_addr.to_string());
    assert_eq!(a.proxy.addr(), a_addr);
    balancer.ready("a");
    seen.until_pod("a2");

    // The pod knows first. All of its meetings end in time.
    b.proxy.signal(Signal::TERM);
    balancer.drain("b");
    meetings.say("leave b1 1 3");
    b.proxy.says("listener closed");
    assert_eq!(b.finish(), (Some(0), 0));
    let b = Pod::start("b2", &b_addr.to_string());
    assert_eq!(b.proxy.addr(), b_addr);
    balancer.ready("b");
    seen.until_pod("b2");

    meetings.say("stop");
    let ends = meetings.json();
    seen.stop.store(true, Ordering::SeqCst);
    assert!(clients.into_iter().all(|client| client.join().is_ok()), "a request was lost");
    let told = told_to_leave(&ends, "a1");
    assert!(told > 0, "nobody stayed to the end");
    assert_eq!(told, forced);
    for pod in ["b1", "a2", "b2"] {
        assert_eq!(told_to_leave(&ends, pod), 0, "{pod}");
    }
    let ends = ends.as_array().expect("a list");
    let messages: u64 = ends.iter().filter_map(|end| end["messages"].as_u64()).sum();
    println!(
        "{} meetings, {messages} messages, {told} told 1001; {} requests on {} connections",
        ends.len(),
        seen.answers.load(Ordering::SeqCst),
        seen.connections.load(Ordering::SeqCst)
    );
}
