//! A real database behind the proxy: what was begun before SIGTERM finishes after it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::postgres::{Postgres, Session, psql, query, text};
use crate::support::{Ebbtide, QUICK, http};

/// From the last session's end to the process's (the issue, §8.1).
const EXIT_BOUND: Duration = Duration::from_millis(500);

/// Waits until the cluster says that the sleeping query is under way.
fn until_sleeping(postgres: &Postgres, proxy: &Ebbtide) {
    let asleep = "select count(*) from pg_stat_activity \
                  where state = 'active' and query like 'select pg_sleep%'";
    proxy.until("a query that sleeps", |_| postgres.ask(asleep) == "1");
}

#[test]
fn sessions_finish_after_sigterm_and_the_controller_knows_before_the_exit() {
    let postgres = Postgres::start();
    postgres.ask("create table kept (i int)");
    let controller = Ebbtide::controller("127.0.0.1:0");
    let url = format!("http://{}", controller.takes_reports());
    let upstream = format!("127.0.0.1:{}", postgres.port());
    let proxy = Ebbtide::proxy(&upstream, &[&QUICK[..], &["--controller", &url]].concat());
    let addr = proxy.addr();

    let mut session = Session::open(addr.port());
    let begun = session.ask("begin; insert into kept values (1); select 'begun';");
    assert_eq!(begun, "begun");
    let sleeper = query(addr.port(), "select pg_sleep(3), 'slept'");
    until_sleeping(&postgres, &proxy);

    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    // Both go on, and nobody else gets in.
    let status = proxy.status();
    assert_eq!(status["drainBlockingConnections"], 2);
    assert_eq!(status["byClass"]["opaque"], 2, "{status}");
    let late = psql("127.0.0.1", addr.port()).args(["-c", "select 1"]).output().expect("psql");
    let (_, error) = text(&late);
    assert!(error.contains("Connection refused"), "{error}");

    let slept = sleeper.wait_with_output().expect("psql ends");
    assert_eq!(text(&slept), ("|slept".to_owned(), String::new()));
    let committed = session.ask("insert into kept values (2); commit; select 'committed';");
    assert_eq!(committed, "committed");
    session.quit();
    let last_end = Instant::now();
    let finished = proxy.finish();
    let took = last_end.elapsed();
    println!("the last session's end to the exit: {took:?}");
    assert_eq!(finished.code(), Some(0));
    assert!(took < EXIT_BOUND, "{took:?}");
    assert_eq!(postgres.ask("select sum(i) from kept"), "3");

    // No waiting here: what the controller knows now, it knew before the exit.
    assert_eq!(finished.lines("final report")[0]["delivery"], "Acknowledged");
    let targets =
        http::request(controller.takes_reports(), "GET", "/v1/targets").expect("an answer");
    let report = &targets.json()[0]["report"];
    assert_eq!(report["phase"], "Drained", "{report:#}");
    assert_eq!(report["drainBlockingConnections"], 0, "{report:#}");
    let deregistered = |line: &Value| line["action"] == "deregister";
    assert!(controller.log().iter().any(deregistered), "{:#?}", controller.log());
}

#[test]
fn a_session_through_a_unix_socket_finishes_too() {
    let postgres = Postgres::start();
    let upstream = format!("unix:{}", postgres.socket().display());
    let proxy = Ebbtide::proxy(&upstream, &QUICK);
    let mut session = Session::open(proxy.addr().port());
    assert_eq!(session.ask("begin; select 'begun';"), "begun");
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    assert_eq!(session.ask("select sum(n) from generate_series(1, 1000) n;"), "500500");
    assert_eq!(session.ask("commit; select 'committed';"), "committed");
    session.quit();
    assert_eq!(proxy.finish().code(), Some(0));
}
