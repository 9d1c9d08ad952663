//! The end of a drain: survivors are asked to leave in turn, and no byte in flight is cut off.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::churn::{echo, runtime};
use crate::support::crowd::{Crowd, HELLO, alone};
use crate::support::{Ebbtide, Finished, PATIENCE, Restrictions, open_to_all, written_at};

const DEADLINE: Duration = Duration::from_secs(5);
const SPREAD: Duration = Duration::from_secs(2);
/// From the deadline to the reset of what did not take its FIN.
const FORCE_CLOSE_PERIOD: Duration = Duration::from_secs(2);
/// For a busy machine to notice, and for the process to say goodbye.
const MARGIN: Duration = Duration::from_secs(2);
const FORCED: &str = "connection force-closed by the drain";

/// A proxy whose drain closes what is left in the last two of five seconds.
fn closing_proxy(upstream: SocketAddr, more: &[&str]) -> Ebbtide {
    let upstream = upstream.to_string();
    let mut line = vec!["proxy", "--upstream", &upstream, "--listen", "127.0.0.1:0"];
    line.extend(["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    line.extend(["--drain-delay", "0", "--drain-timeout", "5s", "--close-spread", "2s"]);
    line.extend(more);
    // Thousands of connections, with two descriptors each.
    Ebbtide::start_under(&Restrictions::of_a_pod().descriptors(20_000), &line)
}

/// When the drain began, by the proxy's own clock.
fn began(proxy: &Ebbtide) -> SystemTime {
    written_at(&proxy.says("signal"))
}

fn after(moment: SystemTime, start: SystemTime) -> f64 {
    moment.duration_since(start).map_or(-1.0, |passed| passed.as_secs_f64())
}

#[test]
fn five_thousand_idle_connections_leave_one_after_the_other() {
    const CONNECTIONS: usize = 5_000;
    /// The window in parts of 100 ms; a busy machine sees a few of them at once.
    const PARTS: usize = 20;
    /// Six times its fair share: a test that was not scheduled for half a second is no burst.
    const MOST_IN_A_PART: usize = 6 * CONNECTIONS / PARTS;
    let _alone = alone();
    let controller = Ebbtide::start(&["controller", "--listen", "127.0.0.1:0"]);
    let controller_addr = controller.says("controller takes reports")["listen"].clone();
    let controller_addr = controller_addr.as_str().expect("an address").to_owned();
    let log = std::env::temp_dir().join(format!("ebbtide-closing-{}", std::process::id()));
    std::fs::write(&log, "").expect("a termination log");
    open_to_all(&log);
    let url = format!("http://{controller_addr}");
    let log_name = log.to_str().expect("a path");
    let proxy = closing_proxy(echo(), &["--controller", &url, "--termination-log", log_name]);
    let addr = proxy.addr();
    let (start, leavers) = runtime().block_on(async {
        let crowd = Crowd::gather(addr, CONNECTIONS).await;
        let leaving = crowd.leave_when_told();
        proxy.signal(Signal::TERM);
        (began(&proxy), leaving.await)
    });
    let finished = proxy.finish();

    let mut parts = [0; PARTS];
    for leaver in &leavers {
        let at = after(leaver.told, start);
        let closing = (DEADLINE - SPREAD).as_secs_f64();
        assert!(at >= closing, "{} was told {at:.3} s into the drain", leaver.addr);
        assert!(at <= (DEADLINE + FORCE_CLOSE_PERIOD).as_secs_f64(), "told at {at:.3} s");
        let part = (at - closing) / SPREAD.as_secs_f64() * PARTS as f64;
        parts[(part as usize).min(PARTS - 1)] += 1;
    }
    println!("told to leave, by 100 ms: {parts:?}");
    assert_eq!(leavers.len(), CONNECTIONS);
    assert!(parts.iter().all(|part| *part <= MOST_IN_A_PART), "not spread: {parts:?}");
    for quarter in parts.chunks(PARTS / 4) {
        let share: usize = quarter.iter().sum();
        assert!(share >= CONNECTIONS / 20, "not spread: {parts:?}");
    }

    assert_eq!(finished.code(), Some(75));
    let clients: HashSet<String> = leavers.iter().map(|leaver| leaver.addr.to_string()).collect();
    assert_eq!(accounted_for(&finished), clients);
    let line = std::fs::read_to_string(&log).expect("the termination log");
    assert!(line.contains("5000 connections force-closed"), "{line}");
    std::fs::remove_file(&log).expect("removed");
    let address: SocketAddr = controller_addr.parse().expect("an address");
    let targets = crate::support::http::request(address, "GET", "/v1/targets").expect("targets");
    let report = &targets.json()[0]["report"];
    assert_eq!(report["phase"], "Drained", "{report:#}");
    assert_eq!(report["forcedCloses"], CONNECTIONS, "{report:#}");
    assert_eq!(report["activeConnections"], 0, "{report:#}");
}

/// The clients of the force-closed connections, each of which is logged once with all it has done.
fn accounted_for(finished: &Finished) -> HashSet<String> {
    let lines = finished.lines(FORCED);
    for line in &lines {
        assert!(line["age_seconds"].as_f64().is_some_and(|age| age > 0.0), "{line}");
        assert_eq!(line["from_client_bytes"], HELLO.len(), "{line}");
        assert_eq!(line["from_upstream_bytes"], HELLO.len(), "{line}");
    }
    let peers: HashSet<String> =
        lines.iter().filter_map(|line| line["peer"].as_str().map(str::to_owned)).collect();
    assert_eq!(peers.len(), lines.len(), "a connection is logged twice");
    peers
}

#[test]
fn clients_that_ignore_their_fin_are_reset_and_the_process_ends_in_time() {
    const CONNECTIONS: usize = 500;
    let _alone = alone();
    let proxy = closing_proxy(echo(), &["--termination-log", "/dev/null"]);
    let crowd = runtime().block_on(async {
        let crowd = Crowd::gather(proxy.addr(), CONNECTIONS).await;
        // Out of the runtime's hands: these only look when they are asked.
        crowd.0.into_iter().map(|stream| stream.into_std().expect("a socket")).collect::<Vec<_>>()
    });
    proxy.signal(Signal::TERM);
    let start = began(&proxy);
    let finished = proxy.finish();
    let took = after(SystemTime::now(), start);
    println!("ended {took:.3} s into a drain of {} s", DEADLINE.as_secs());
    assert!(took >= (DEADLINE + FORCE_CLOSE_PERIOD).as_secs_f64(), "reset after {took:.3} s");
    assert!(took <= (DEADLINE + FORCE_CLOSE_PERIOD + MARGIN).as_secs_f64(), "took {took:.3} s");
    assert_eq!(finished.code(), Some(75));
    for stream in &crowd {
        let reset = stream.take_error().expect("its state");
        assert!(reset.is_some(), "{:?} was not reset", stream.local_addr());
        let mut stream = stream;
        assert_eq!(stream.read(&mut [0; 16]).expect("its FIN came first"), 0);
    }
    let clients: HashSet<String> =
        crowd.iter().map(|stream| stream.local_addr().expect("its address").to_string()).collect();
    assert_eq!(accounted_for(&finished), clients);
}

/// More than a slow client's kernel takes, and less than the proxy's kernel takes for it.
const ANSWER_BYTES: usize = 512 * 1024;
const CLIENT_WINDOW_BYTES: usize = 16 * 1024;

/// An application that answers one connection when it is told to, and closes.
fn answering() -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    let (now, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        told.recv().expect("told to answer");
        stream.write_all(&answer()).expect("the answer is taken");
        stream.shutdown(Shutdown::Write).expect("its end is taken");
        // The client's end; a reset is as good.
        let _ = stream.read(&mut [0; 16]);
    });
    (addr, now)
}

fn answer() -> Vec<u8> {
    (0..ANSWER_BYTES).map(|at| (at % 251) as u8).collect()
}

/// A client that takes its time to listen.
fn slow_client(addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(CLIENT_WINDOW_BYTES).expect("a small window");
    socket.connect(&addr.into()).expect("a connection");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.write_all(b"?").expect("asked");
    stream
}

/// Whether a client has said all that it has to say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Ended,
    Open,
}

/// A draining proxy, and a client most of whose answer is still with the proxy's kernel although
/// the application has closed and the proxy has nothing left to do.
fn answer_in_the_kernel(end: Client, more: &[&str]) -> (Ebbtide, TcpStream) {
    let mut args = vec!["--drain-delay", "0", "--settled-for", "0", "--settle-period", "100ms"];
    args.extend(more);
    let (application, answer_now) = answering();
    let proxy = Ebbtide::proxy(&application.to_string(), &args);
    let client = slow_client(proxy.addr());
    if end == Client::Ended {
        client.shutdown(Shutdown::Write).expect("the end");
    }
    proxy.until("busy", |status| status["drainBlockingConnections"] == 1);
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    // Not earlier: a connection that ends before the drain begins is none of the drain's.
    answer_now.send(()).expect("the application waits");
    loop {
        let connections = crate::support::http::request(proxy.control(), "GET", "/connections");
        let connections = connections.expect("an answer").json();
        let connection = &connections["connections"][0];
        if connection["fromUpstreamBytes"] == ANSWER_BYTES {
            break;
        }
        assert!(connection["blocking"] == true, "it ended before its answer did: {connections}");
        std::thread::yield_now();
    }
    (proxy, client)
}

#[test]
fn the_end_of_an_answer_leaves_the_kernel_before_the_process_ends() {
    let (proxy, mut client) = answer_in_the_kernel(Client::Ended, &[]);
    // The relay is done; what is asked here again and again would be over within a few of them.
    for _ in 0..100 {
        assert_eq!(proxy.status()["drainBlockingConnections"], 1);
    }
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("the whole answer");
    assert!(all == answer(), "{} of {ANSWER_BYTES} bytes", all.len());
    assert_eq!(proxy.finish().code(), Some(0));
}

/// Guards: a socket that its client has reset still counts what it had queued, for ever.
#[test]
fn a_client_that_resets_does_not_hold_the_drain_with_what_it_never_took() {
    let (proxy, client) = answer_in_the_kernel(Client::Ended, &[]);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("a reset");
    drop(client);
    assert_eq!(proxy.finish().code(), Some(0));
}

/// Guards: the relay is silent while the kernel still hands a slow client the end of its answer.
#[test]
fn a_slow_reader_is_not_taken_for_a_half_closed_connection() {
    let (proxy, mut client) = answer_in_the_kernel(Client::Open, &["--half-closed-timeout", "1s"]);
    let mut all = Vec::new();
    let mut buffer = vec![0; ANSWER_BYTES / 40];
    loop {
        let read = client.read(&mut buffer).expect("the connection lives");
        if read == 0 {
            break;
        }
        all.extend_from_slice(&buffer[..read]);
        // A reader's pace, not a wait for anything: the whole takes several time-outs.
        std::thread::sleep(Duration::from_millis(60));
    }
    assert!(all == answer(), "{} of {ANSWER_BYTES} bytes", all.len());
    drop(client);
    assert_eq!(proxy.finish().code(), Some(0));
}
