//! The drain of the field: everything at once through one proxy, and nothing of it is lost.
//!
//! One drain of short streams in the normal run. `EBBTIDE_TEST_FULL=1` gives them their full time,
//! and judges how soon the process was gone; `EBBTIDE_FIELD_DRAINS=10` makes it ten in a row. How many new
//! connections came in each second is printed, not judged: the machine has a say in that.

pub mod application;
mod clients;
mod comparison;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::support::frames::{HIGHEST_STREAM, last_streams};
use crate::support::h2::runtime;
use crate::support::peers::Peer;
use crate::support::tap::Tap;
use crate::support::{
    Directory, Ebbtide, Finished, PATIENCE, Restrictions, free_port, is_full_form, written_at,
};
use clients::{Field, Tally};

/// Two seconds, half more at most.
const IDLE_CLOSE: Duration = Duration::from_secs(3);

/// Between the end of the last connection and the end of the process.
const GONE_WITHIN: Duration = Duration::from_millis(500);

/// All but the newcomers.
const CLIENTS: u64 = 200 + 50 + 200 + 200 + 20 + 50 + 1;

/// How long what lasts lasts.
#[derive(Clone, Copy)]
struct Form {
    response: Duration,
    stay: Duration,
    /// Whether times are judged as well as losses and order: that wants a machine of one's own.
    is_full: bool,
}

impl Default for Form {
    fn default() -> Self {
        let is_full = is_full_form();
        let [response, stay] = if is_full { [15, 20] } else { [5, 6] }.map(Duration::from_secs);
        Form { response, stay, is_full }
    }
}

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
    let grpc_server = Peer::grpc_server();
    let directory = Directory::new();
    let listeners = format!(
        "listeners:\n- listen: 127.0.0.1:0\n- listen: 127.0.0.1:0\n  upstream: {}\n",
        grpc_server.upstream
    );
    let config = directory.write("listeners.yaml", listeners);
    let mut args = vec!["--config", &config, "--protocol", "auto"];
    args.extend(["--drain-delay", "1s", "--quiet-period", "0"]);
    args.extend(["--settled-for", "0", "--settle-period", "300ms"]);
    // Of the 750 clients each takes two descriptors, and those that splice two more.
    let roomy = Restrictions::of_a_pod().descriptors(20_000);
    let proxy = Ebbtide::proxy_under(&roomy, &application.to_string(), &args);
    let [addr, grpc_addr] = proxy.addrs(2)[..] else { panic!("two listeners") };
    let (grpc_clients, _elsewhere) = grpc_load(&proxy, grpc_addr, &grpc_server);
    let tap = Tap::before(addr);
    let field = Arc::new(Field::default());
    runtime().block_on(async {
        let mut tasks = JoinSet::new();
        for number in 0..200 {
            tasks.spawn(clients::stream(Arc::clone(&field), addr, number));
            tasks.spawn(clients::websocket(Arc::clone(&field), addr, number));
            tasks.spawn(clients::keep_alive(Arc::clone(&field), addr, "/"));
        }
        for _ in 0..50 {
            tasks.spawn(clients::long(Arc::clone(&field), addr));
            tasks.spawn(clients::http2(Arc::clone(&field), tap.addr));
        }
        for _ in 0..20 {
            tasks.spawn(clients::idle(Arc::clone(&field), addr));
        }
        tasks.spawn(clients::grpc(Arc::clone(&field), grpc_clients));
        reach(&field.at_work, CLIENTS).await;
        clients::newcomers(Arc::clone(&field), addr);
        reach(&field.newcomers.done, 200).await;
        *field.began.lock().expect("a time") = Some(SystemTime::now());
        proxy.signal(Signal::TERM);
        tokio::time::timeout(PATIENCE, tasks.join_all()).await.expect("an end of everything");
        reach(&field.newcomers.ended, 1).await;
    });
    let finished = proxy.finish();
    let times = Times::of(&field, &finished);
    println!("{}", row(drain, &field, &times));

    for (name, tally, clients) in kinds(&field) {
        let lost = tally.lost.lock().expect("the losses");
        assert!(lost.is_empty(), "({name}) lost {}: {:?}", lost.len(), &lost[..lost.len().min(5)]);
        assert_eq!(tally.ended.load(Relaxed), clients, "({name})");
    }
    for passed in tap.connections() {
        let last_streams = last_streams(&passed.to_client());
        assert_eq!((last_streams.len(), last_streams[0]), (2, HIGHEST_STREAM), "{last_streams:?}");
        assert!(!passed.broke, "(f) a connection was reset");
    }
    assert_eq!(finished.code(), Some(0), "nothing was force-closed");
    assert!(times.idle_closed < times.last_end, "(e) idle connections waited for the others");
    if field.form.is_full {
        times.judge(&field);
    }
}

async fn reach(count: &AtomicU64, wanted: u64) {
    let reached = async {
        while count.load(Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("as many as are wanted");
}

/// grpcio's clients, all of them at the proxy, and where they may go when it leaves.
fn grpc_load(proxy: &Ebbtide, addr: SocketAddr, server: &Peer) -> (Peer, Ebbtide) {
    let elsewhere = format!("127.0.0.1:{}", free_port());
    let clients = Peer::grpc_clients(&[addr.to_string(), elsewhere.clone()]);
    assert_eq!(clients.line(), "ready");
    proxy.until("all gRPC clients", |status| status["byClass"]["http2"] == 8);
    let other = Ebbtide::proxy(&server.upstream, &["--listen", &elsewhere]);
    other.addr();
    (clients, other)
}

/// When what ended, since the drain began.
struct Times {
    idle_closed: Duration,
    /// The last connection's end as its client saw it.
    last_end: Duration,
    /// From there to the end of the process.
    gone_after: Duration,
    /// The same, from the last connection's end as the proxy logged it.
    gone_after_logged: Duration,
}

impl Times {
    fn of(field: &Field, finished: &Finished) -> Self {
        let began = field.began.lock().expect("a time").expect("a drain");
        let last_end = field.last_end.lock().expect("a time").expect("connections");
        let ended = finished.lines("connection ended");
        let logged = ended.iter().map(|line| written_at(line)).max().expect("connections");
        Times {
            idle_closed: *field.idle_closed.lock().expect("a duration"),
            last_end: last_end.duration_since(began).unwrap_or_default(),
            gone_after: finished.at.duration_since(last_end).unwrap_or_default(),
            gone_after_logged: finished.at.duration_since(logged).unwrap_or_default(),
        }
    }

    fn judge(&self, field: &Field) {
        // Where bytes wait for a processor, a close does as well: for the signal, the timer and the FIN.
        let busy = 3 * Duration::from_millis(field.slowest.load(Relaxed));
        assert!(self.idle_closed < IDLE_CLOSE + busy, "(e) closed after {:?}", self.idle_closed);
        let gone_after = self.gone_after.max(self.gone_after_logged);
        assert!(gone_after < GONE_WITHIN, "the process was gone {gone_after:?} after the last end");
    }
}

fn kinds(field: &Field) -> [(&'static str, &Tally, u64); 8] {
    [
        ("a", &field.newcomers, 1),
        ("b", &field.keep_alive, 200),
        ("c", &field.long, 50),
        ("d, WebSocket", &field.websockets, 200),
        ("d, TCP", &field.streams, 200),
        ("e", &field.idle, 20),
        ("f", &field.http2, 50),
        ("g", &field.grpc, 20),
    ]
}

/// The drain as a line of a table.
fn row(drain: u32, field: &Field, times: &Times) -> String {
    let number = |count: &AtomicU64| count.load(Relaxed);
    let cells = kinds(field).map(|(name, tally, clients)| {
        let lost = tally.lost.lock().expect("the losses").len();
        let (done, refused) = (number(&tally.done), number(&tally.refused));
        let ended = number(&tally.ended);
        format!("({name}) {done} done, {refused} refused, {lost} lost, {ended}/{clients} ended")
    });
    let Times { idle_closed, last_end, gone_after, gone_after_logged } = times;
    let rate = *field.newcomers_per_second.lock().expect("a rate");
    let untold = number(&field.keep_alive.untold);
    format!(
        "drain {drain}: {}; {rate:.0} new connections/s, {untold} of (b) untold, idle closed {idle_closed:.2?}, \
         last end {last_end:.2?}, gone {gone_after:.3?} later ({gone_after_logged:.3?} by the log), \
         slowest echo {} ms",
        cells.join("; "),
        number(&field.slowest)
    )
}
