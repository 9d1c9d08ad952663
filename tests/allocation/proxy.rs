//! A listener of the proxy with everything behind it, on the thread that counts; its peers on another.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use allocation_counter::AllocationInfo;
use ebbtide::connection::{
    ListenerProtocol, ListenerSettings, ListenerStatus, Listening, RejectMode, Serving, Settings,
    Table,
};
use ebbtide::drain::{Drain, Schedule};
use ebbtide::net::{Bound, ConnectOptions, HalfClosed, ListenOptions, Upstream};
use ebbtide::reactor::{self, Workers};
use ebbtide::relay::{ClientTimeouts, IdleClose, IdleTimeouts, RelaySettings};
use ebbtide::telemetry::Metrics;
use tokio::sync::oneshot;

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Units of work before the count: pools fill, tables and pipes get their size.
const WARM_UP: usize = 100;

/// Units of work that are counted.
pub const COUNTED: usize = 1000;

/// The two ends that the proxy stands between.
pub struct Peers {
    pub client: TcpStream,
    pub application: TcpStream,
}

impl Peers {
    /// The client's bytes reach the application as they are.
    pub fn ask(&mut self, request: &[u8]) {
        pass(&mut self.client, &mut self.application, request);
    }

    /// The application's bytes reach the client as they are.
    pub fn answer(&mut self, response: &[u8]) {
        pass(&mut self.application, &mut self.client, response);
    }
}

/// Written by a thread of its own when the kernel would not hold all of it.
fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    /// Less than any socket holds.
    const HELD_BYTES: usize = 64 * 1024;
    let mut read = vec![0; bytes.len()];
    if bytes.len() <= HELD_BYTES {
        from.write_all(bytes).expect("sent");
        to.read_exact(&mut read).expect("received");
    } else {
        std::thread::scope(|scope| {
            scope.spawn(|| from.write_all(bytes).expect("sent"));
            to.read_exact(&mut read).expect("received");
        });
    }
    assert!(read == bytes, "other bytes came out than went in");
}

/// What the proxy's thread allocates, the reactor's part included, while `talk` goes on so many times on
/// one connection, behind `greet` and a warm-up. `talk` is told how often it has been called.
pub fn allocations(
    speaks: ListenerProtocol,
    counted: usize,
    greet: impl FnOnce(&mut Peers) + Send,
    mut talk: impl FnMut(&mut Peers, usize) + Send,
) -> AllocationInfo {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let upstream = application.local_addr().expect("its address");
    let _timers = runtime.enter();
    let addr = listen(speaks, upstream);
    let (warm, is_warm) = oneshot::channel();
    let (over, is_over) = oneshot::channel();
    let (go, may_go) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let client = TcpStream::connect(addr).expect("a connection");
            let (application, _) = application.accept().expect("the proxy's");
            let mut peers = Peers { client, application };
            for stream in [&peers.client, &peers.application] {
                stream.set_nodelay(true).expect("no delay");
                stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            }
            greet(&mut peers);
            (0..WARM_UP).for_each(|call| talk(&mut peers, call));
            warm.send(()).expect("the proxy's thread waits");
            // Only then is everything counted.
            may_go.recv().expect("the proxy's thread tells");
            (WARM_UP..WARM_UP + counted).for_each(|call| talk(&mut peers, call));
            // Open until all is counted: the end of a connection is another matter.
            over.send(peers).ok().expect("the proxy's thread waits");
        });
        reactor::block_on(is_warm).expect("a worker").expect("warmed up");
        go.send(()).expect("the peers wait");
        let mut ended = None;
        let info = allocation_counter::measure(|| ended = Some(reactor::block_on(is_over)));
        drop(ended.expect("it ran").expect("a worker").expect("talked to the end"));
        info
    })
}

/// As the proxy does it, without its endpoints and what runs by the clock.
fn listen(speaks: ListenerProtocol, upstream: SocketAddr) -> SocketAddr {
    let second = Duration::from_secs(1);
    let drain = Drain::new(Schedule {
        delay: second,
        timeout: 60 * second,
        quiet_period: second,
        close_spread: second,
        settled_for: second,
    });
    tokio::spawn(drain.clone().run());
    let manners = RelaySettings {
        idle_timeouts: IdleTimeouts { half_closed: 60 * second, open: Duration::ZERO },
        idle_close: IdleClose::After(2 * second),
        client_timeouts: ClientTimeouts::default(),
        websocket_code: 1001,
        websocket_reason: String::new(),
    };
    let serving = Serving {
        settings: Settings {
            connect: ConnectOptions {
                timeout: PATIENCE,
                wait: PATIENCE,
                sources: Vec::new(),
                half_closed: HalfClosed::Left,
            },
            upstream_rest: Duration::ZERO,
            manners,
            drain_deadline_header: false,
        },
        table: Table::default(),
        drain,
        metrics: Metrics::install().expect("a recorder"),
        workers: Workers::here().expect("this thread"),
    };
    let settings = ListenerSettings {
        upstream: Arc::new(Upstream::Address(upstream)),
        speaks,
        http1: Arc::default(),
        reject: RejectMode::Refuse,
        admit: Vec::new(),
        health_check_from: Vec::new(),
        settle_period: second,
    };
    let options = ListenOptions { only_v6: false, user_timeout: Duration::ZERO };
    let bound = Bound::new((Ipv4Addr::LOCALHOST, 0).into(), options).expect("a free port");
    let addr = bound.local_addr();
    let status = Arc::new(ListenerStatus::new(addr));
    let listener = bound.listen().expect("a listener");
    let listening = Listening::new(listener, settings, status, Arc::new(serving), None);
    reactor::spawn(listening.run()).expect("a worker");
    addr
}
