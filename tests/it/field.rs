//! The drain of the field: everything at once through one proxy, and nothing of it is lost.
//!
//! One drain in the normal run; `EBBTIDE_FIELD_DRAINS=10` makes it ten in a row.

mod application;
mod clients;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::support::frames::{HIGHEST_STREAM, last_streams};
use crate::support::h2::runtime;
use crate::support::tap::Tap;
use crate::support::{Ebbtide, PATIENCE};
use clients::{Field, Tally};

/// Two seconds, half more at most.
const IDLE_CLOSE: Duration = Duration::from_secs(3);

/// Between the end of the last connection and the end of the process.
const GONE_WITHIN: Duration = Duration::from_millis(500);

const CLIENTS: u64 = 1 + 200 + 50 + 200 + 200 + 20 + 50;

#[test]
fn nothing_is_lost_in_a_drain_of_the_field() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("descriptors");
    let drains =
        std::env::var("EBBTIDE_FIELD_DRAINS").map_or(1, |count| count.parse().expect("a number"));
    let application = application::start();
    for drain in 1..=drains {
        one_drain(drain, application);
    }
}

fn one_drain(drain: u32, application: SocketAddr) {
    let mut args = vec!["--protocol", "auto", "--drain-delay", "1s", "--quiet-period", "0"];
    args.extend(["--settled-for", "0", "--settle-period", "300ms"]);
    let proxy = Ebbtide::proxy(&application.to_string(), &args);
    let addr = proxy.addr();
    let tap = Tap::before(addr);
    let field = Arc::new(Field::default());
    runtime().block_on(async {
        let mut tasks = JoinSet::new();
        for number in 0..200 {
            tasks.spawn(clients::stream(Arc::clone(&field), addr, number));
            tasks.spawn(clients::websocket(Arc::clone(&field), addr, number));
            tasks.spawn(clients::keep_alive(Arc::clone(&field), addr));
        }
        for _ in 0..50 {
            tasks.spawn(clients::long(Arc::clone(&field), addr));
            tasks.spawn(clients::http2(Arc::clone(&field), tap.addr));
        }
        for _ in 0..20 {
            tasks.spawn(clients::idle(Arc::clone(&field), addr));
        }
        tasks.spawn(clients::newcomers(Arc::clone(&field), addr));
        let all_at_work = async {
            while field.at_work.load(Relaxed) < CLIENTS || field.newcomers.done.load(Relaxed) < 200
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all_at_work).await.expect("all clients at work");
        *field.began.lock().expect("an instant") = Some(Instant::now());
        proxy.signal(Signal::TERM);
        tokio::time::timeout(PATIENCE, tasks.join_all()).await.expect("an end of everything");
    });
    let finished = proxy.finish();
    let gone = Instant::now();
    let last_end = field.last_end.lock().expect("an instant").expect("connections");
    let gone_after = gone.saturating_duration_since(last_end);
    let idle_closed = *field.idle_closed.lock().expect("a duration");
    println!("{}", row(drain, &field, idle_closed, gone_after));

    for (name, tally, clients) in kinds(&field) {
        let lost = tally.lost.lock().expect("the losses");
        assert!(lost.is_empty(), "({name}) lost {}: {:?}", lost.len(), &lost[..lost.len().min(5)]);
        assert_eq!(tally.ended.load(Relaxed), clients, "({name})");
    }
    // Where bytes wait for a processor, a close does as well: for the signal, the timer and the FIN.
    let busy = 3 * Duration::from_millis(field.slowest.load(Relaxed));
    assert!(idle_closed < IDLE_CLOSE + busy, "(e) closed after {idle_closed:?}");
    for passed in tap.connections() {
        let last_streams = last_streams(&passed.to_client());
        assert_eq!((last_streams.len(), last_streams[0]), (2, HIGHEST_STREAM), "{last_streams:?}");
        assert!(!passed.broke, "(f) a connection was reset");
    }
    assert!(gone_after < GONE_WITHIN, "the process was gone {gone_after:?} after the last end");
    assert_eq!(finished.code(), Some(0), "nothing was force-closed");
}

fn kinds(field: &Field) -> [(&'static str, &Tally, u64); 7] {
    [
        ("a", &field.newcomers, 1),
        ("b", &field.keep_alive, 200),
        ("c", &field.long, 50),
        ("d, WebSocket", &field.websockets, 200),
        ("d, TCP", &field.streams, 200),
        ("e", &field.idle, 20),
        ("f", &field.http2, 50),
    ]
}

/// The drain as a line of a table.
fn row(drain: u32, field: &Field, idle_closed: Duration, gone_after: Duration) -> String {
    let number = |count: &AtomicU64| count.load(Relaxed);
    let cells = kinds(field).map(|(name, tally, clients)| {
        let lost = tally.lost.lock().expect("the losses").len();
        let (done, refused) = (number(&tally.done), number(&tally.refused));
        let ended = number(&tally.ended);
        format!("({name}) {done} done, {refused} refused, {lost} lost, {ended}/{clients} ended")
    });
    let times = format!("idle closed {idle_closed:.2?}, gone after {gone_after:.3?}");
    let slowest = number(&field.slowest);
    format!("drain {drain}: {}; {times}, slowest echo {slowest} ms", cells.join("; "))
}
