//! What goes wrong while a pod ends, and what must come of it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::support::process::{program, run};
use crate::support::{
    Ebbtide, PATIENCE, QUICK, Reply, Restrictions, application, connect, echo, exchange,
    expect_end, expect_refused, expect_reset, free_port, http, usage,
};

/// More than 256 descriptors hold, and far fewer than the kernel queues.
const CLIENTS: usize = 400;

/// What a second of having nothing to give may cost: a spin would cost all of it.
const IDLE_COST: Duration = Duration::from_millis(250);

/// A proxy with at most 256 descriptors.
fn short_of_descriptors(args: &[&str]) -> Ebbtide {
    let mut command = Command::new("sh");
    let upstream = echo().to_string();
    command.args(["-c", "ulimit -n 256; exec \"$@\"", "sh", &program(), "proxy"]);
    command.args(["--upstream", &upstream, "--listen", "127.0.0.1:0"]);
    command.args(["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    command.args(["--termination-log", "/dev/null"]).args(QUICK).args(args);
    Ebbtide::spawn(command)
}

/// Many clients at once, each of which says one thing.
fn crowd(addr: SocketAddr) -> Vec<TcpStream> {
    (0..CLIENTS)
        .map(|index| {
            let mut stream = connect(addr);
            write!(stream, "client {index:04}").expect("taken by the kernel");
            stream
        })
        .collect()
}

/// Every client is answered, one after the other as there is room, and leaves.
fn all_answered(crowd: Vec<TcpStream>) {
    for (index, mut stream) in crowd.into_iter().enumerate() {
        let mut answer = [0; 11];
        stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("client {index}: {error}"));
        assert_eq!(answer, format!("client {index:04}").as_bytes());
    }
}

/// Processor time that a process uses in a second of real time.
fn cost_of_a_second(pid: i32) -> Duration {
    let before = usage::processor_time(pid);
    std::thread::sleep(Duration::from_secs(1));
    usage::processor_time(pid).saturating_sub(before)
}

/// How often accepting failed for want of a descriptor.
fn accept_errors(proxy: &Ebbtide) -> u32 {
    let metrics = proxy.get("/metrics").body;
    let errors = metrics
        .lines()
        .find_map(|line| line.strip_prefix("ebbtide_accept_errors_total{reason=\"emfile\"} "));
    errors.unwrap_or_else(|| panic!("not counted: {metrics}")).parse().expect("a number")
}

fn control(proxy: &Ebbtide) -> String {
    proxy.control().to_string()
}

fn deadline(proxy: &Ebbtide) -> Value {
    let status = proxy.status();
    assert!(status["drainDeadline"].is_string(), "{status:#}");
    status["drainDeadline"].clone()
}

fn undrain(proxy: &Ebbtide) -> Reply {
    proxy.post("/undrain")
}

#[test]
fn nobody_is_lost_for_want_of_descriptors() {
    let proxy = short_of_descriptors(&[]);
    let crowd = crowd(proxy.addr());
    proxy.says("as many connections are open as --max-connections allows: accepting pauses");
    assert_eq!(proxy.says("serving")["max_connections"], (256 - 48) / 2);
    let cost = cost_of_a_second(proxy.pid());
    println!("a second at the limit cost {cost:?}");
    assert!(cost < IDLE_COST, "{cost:?}");
    // A drain can begin, and it sees to those who wait in the kernel's queue, too.
    let (status, ..) = run(&["drain", "--control", &control(&proxy)]);
    assert_eq!(status, Some(0));
    assert_eq!(accept_errors(&proxy), 0);
    all_answered(crowd);
    proxy.says("listener closed");
    proxy.until_phase("Drained");
    proxy.signal(Signal::TERM);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
    assert_eq!(finished.lines("connection ended").len(), CLIENTS);
}

/// Guards against taking clients for whom there is no second descriptor.
#[test]
fn more_connections_than_descriptors_are_not_promised() {
    let proxy = short_of_descriptors(&["--max-connections", "10000"]);
    let crowd = crowd(proxy.addr());
    all_answered(crowd);
    assert_eq!(proxy.says("serving")["max_connections"], (256 - 48) / 2);
    proxy.says("--max-connections is more than the descriptor limit allows: taking what it allows");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.finish().code(), Some(0));
}

/// Changes the soft limit of a proxy that runs, as its own user: not every root may.
fn limit_descriptors(proxy: &Ebbtide, most: u64) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &proxy.pid().to_string(), &format!("--nofile={most}:1024")]);
    let _confined = Restrictions::of_a_pod().apply(&mut command);
    assert!(command.status().expect("prlimit, of util-linux").success(), "the limit is {most}");
}

/// Descriptors that are gone all the same: the limit sinks below what is open.
#[test]
fn accepting_pauses_and_goes_on_when_descriptors_run_out() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    // Both endpoints have their reserved descriptor by now, with a number that is below the limit to come.
    let _ = (proxy.status(), proxy.connections());
    let mut open: Vec<TcpStream> = (0..20).map(|_| connect(proxy.addr())).collect();
    for stream in &mut open {
        exchange(stream, b"served");
    }
    limit_descriptors(&proxy, 30);
    let mut waiting = connect(proxy.addr());
    waiting.write_all(b"waiting").expect("taken by the kernel");
    proxy.says("accepting pauses");
    let cost = cost_of_a_second(proxy.pid());
    println!("a second without descriptors cost {cost:?}");
    assert!(cost < IDLE_COST, "{cost:?}");
    // The proxy can still be told and asked.
    let (status, out, error) = run(&["drain", "--control", &control(&proxy)]);
    assert_eq!(status, Some(0), "{out}{error}");
    let errors = accept_errors(&proxy);
    println!("{errors} accept errors");
    assert!((1..30).contains(&errors), "{errors} accept errors in a second or two");
    // As often as one likes, and nobody is taken for whom there is no second descriptor.
    for _ in 0..50 {
        assert_eq!(proxy.post("/drain").status, 200);
        assert_eq!(proxy.status()["activeConnections"], 20);
    }
    for stream in &mut open {
        exchange(stream, b"untouched");
    }
    limit_descriptors(&proxy, 1024);
    let mut answer = [0; 7];
    waiting
        .read_exact(&mut answer)
        .unwrap_or_else(|error| panic!("not served in the end: {error}; {:#?}", proxy.log()));
    drop((open, waiting));
    proxy.until_phase("Drained");
}

/// The last report that a controller has of its only target.
fn target(controller: &Ebbtide) -> Value {
    let list = http::request(controller.takes_reports(), "GET", "/v1/targets").expect("an answer");
    list.json()[0]["report"].clone()
}

#[test]
fn a_controller_that_is_killed_and_comes_back_still_deregisters() {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())).to_string();
    let url = format!("http://{listen}");
    let first = Ebbtide::controller(&listen);
    first.takes_reports();
    let args = ["--controller", &url, "--final-report-timeout", "55s"];
    let proxy = Ebbtide::proxy(&echo().to_string(), &[&QUICK[..], &args].concat());
    let mut stream = connect(proxy.addr());
    exchange(&mut stream, b"hello");
    proxy.signal(Signal::TERM);
    first.line("weight zero", |line| line["action"] == "weight-zero");
    proxy.says("listener closed");
    // SIGKILL.
    drop(first);
    exchange(&mut stream, b"nobody listens to the reports");
    drop(stream);
    // The drain is over although nobody can be told.
    proxy.until_phase("Drained");
    let second = Ebbtide::controller(&listen);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
    assert_eq!(finished.lines("final report")[0]["delivery"], "Acknowledged");
    assert_eq!(target(&second)["phase"], "Drained");
    second.line("deregister", |line| line["action"] == "deregister");
}

#[test]
fn a_controller_that_never_answers_delays_no_drain() {
    // It takes connections and says nothing for as long as the test runs.
    let hung = application(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let url = format!("http://{hung}");
    let args = ["--controller", &url, "--final-report-timeout", "300ms"];
    let proxy = Ebbtide::proxy(&echo().to_string(), &[&QUICK[..], &args].concat());
    let mut stream = connect(proxy.addr());
    exchange(&mut stream, b"hello");
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    exchange(&mut stream, b"hello");
    drop(stream);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
    assert_eq!(finished.lines("final report")[0]["delivery"], "GivenUp");
    let took = finished.lines("drained")[0]["took_seconds"].as_f64().expect("seconds");
    // A request to the controller takes 3 s to be given up: none of that is the drain's.
    assert!(took < 3.0, "{took} s");
}

#[test]
fn a_second_sigterm_moves_no_deadline() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let mut stream = connect(proxy.addr());
    exchange(&mut stream, b"hello");
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    let first = deadline(&proxy);
    proxy.signal(Signal::TERM);
    let signals = |line: &Value| line["message"] == "signal" && line["phase"] == "Draining";
    proxy.line("the second signal", signals);
    assert_eq!(deadline(&proxy), first);
    exchange(&mut stream, b"untouched");
    drop(stream);
    assert_eq!(proxy.finish().code(), Some(0));
}

#[test]
fn sigquit_drains_as_sigterm_does() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let mut stream = connect(proxy.addr());
    exchange(&mut stream, b"hello");
    proxy.signal(Signal::QUIT);
    proxy.says("listener closed");
    exchange(&mut stream, b"untouched");
    drop(stream);
    assert_eq!(proxy.finish().code(), Some(0));
}

#[test]
fn sigint_drains_and_a_second_one_ends_at_once() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let mut stream = connect(proxy.addr());
    exchange(&mut stream, b"hello");
    proxy.signal(Signal::INT);
    proxy.says("listener closed");
    exchange(&mut stream, b"untouched");
    proxy.signal(Signal::INT);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(75), "something was cut");
    expect_reset(&mut stream);
    assert_eq!(finished.lines("ending at once")[0]["cut"], 1);
}

#[test]
fn a_sigterm_in_a_lame_duck_that_the_endpoint_began_makes_it_exit_and_no_more() {
    let args = ["--drain-delay", "2s", "--quiet-period", "0", "--settled-for", "0"];
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let mut stream = connect(proxy.addr());
    exchange(&mut stream, b"hello");
    assert_eq!(proxy.post("/drain").json()["phase"], "LameDuck");
    let first = deadline(&proxy);
    proxy.signal(Signal::TERM);
    let signal = proxy.says("signal");
    assert_eq!(signal["phase"], "LameDuck");
    // New connections are still served.
    exchange(&mut connect(proxy.addr()), b"late, and welcome");
    let status = proxy.until_phase("Draining");
    assert_eq!((&status["drainDeadline"], &status["reason"]), (&first, &"Signal".into()));
    exchange(&mut stream, b"untouched");
    drop(stream);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
}

#[test]
fn undrain_in_the_lame_duck() {
    let args = ["--drain-delay", "100s", "--quiet-period", "0"];
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let mut stream = connect(proxy.addr());
    exchange(&mut stream, b"hello");
    assert_eq!(proxy.post("/drain").json()["phase"], "LameDuck");
    let undone = undrain(&proxy);
    assert_eq!((undone.status, &undone.json()["phase"]), (200, &"Serving".into()));
    assert!(proxy.status()["drainDeadline"].is_null());
    exchange(&mut stream, b"untouched");
    exchange(&mut connect(proxy.addr()), b"welcome");
    assert_eq!(undrain(&proxy).status, 409, "nothing to undo");
}

#[test]
fn an_undrain_lets_in_those_whose_handshake_was_dropped() {
    let args = ["--drain-delay", "0", "--reject", "drop"];
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let addr = proxy.addr();
    let mut stream = connect(addr);
    exchange(&mut stream, b"hello");
    proxy.post("/drain");
    proxy.until("dropping", |status| status["listeners"][0]["synFilter"] == "reuseport");
    // Its SYN is dropped now and sent again after a second.
    let late = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let late = late.expect("a socket");
    late.set_nonblocking(true).expect("it does not wait");
    late.connect(&addr.into()).expect_err("under way");
    let (status, out, _) = run(&["undrain", "--control", &control(&proxy)]);
    assert_eq!(status, Some(0));
    assert!(out.starts_with("Serving"), "{out}");
    proxy.says("SYN filter removed");
    late.set_nonblocking(false).expect("it waits");
    let mut late = TcpStream::from(late);
    late.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    until_connected(&late);
    exchange(&mut late, b"nothing was lost");
    exchange(&mut stream, b"untouched");
}

/// Waits for a handshake that is under way.
fn until_connected(stream: &TcpStream) {
    let until = Instant::now() + PATIENCE;
    while stream.peer_addr().is_err() {
        assert!(stream.take_error().expect("an answer").is_none(), "the handshake failed");
        assert!(Instant::now() < until, "no handshake");
        std::thread::yield_now();
    }
}

fn is_closed(status: &serde_json::Value) -> bool {
    let listener = &status["listeners"][0];
    (&listener["state"], &listener["synFilter"]) == (&"Refusing".into(), &"off".into())
}

#[test]
fn undrain_after_the_listener_closed_brings_it_back() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let addr = proxy.addr();
    let mut stream = connect(addr);
    exchange(&mut stream, b"hello");
    // Twice, because the second drain must find things as the first one did.
    for _ in 0..2 {
        proxy.post("/drain");
        proxy.until("closed", is_closed);
        expect_refused(addr);
        assert_eq!(undrain(&proxy).status, 200);
        proxy.until("accepting", |status| status["listeners"][0]["state"] == "Accepting");
        exchange(&mut connect(addr), b"welcome");
        exchange(&mut stream, b"untouched");
    }
    proxy.signal(Signal::TERM);
    proxy.until("refusing", |status| status["listeners"][0]["state"] == "Refusing");
    drop(stream);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
    assert_eq!(finished.lines("listener reopened").len(), 2);
}

#[test]
fn undrain_in_the_closing_phase_spares_who_was_not_told_to_leave() {
    let args = ["--drain-delay", "0", "--drain-timeout", "50s", "--close-spread", "50s"];
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    let addr = proxy.addr();
    let mut streams: Vec<TcpStream> = (0..20).map(|_| connect(addr)).collect();
    for stream in &mut streams {
        exchange(stream, b"hello");
    }
    proxy.post("/drain");
    proxy.until_phase("Closing");
    assert_eq!(undrain(&proxy).json()["phase"], "Serving");
    proxy.until("accepting", |status| status["listeners"][0]["state"] == "Accepting");
    exchange(&mut connect(addr), b"welcome");
    let list = http::request(proxy.control(), "GET", "/connections").expect("an answer").json();
    let mut spared = 0;
    for entry in list["connections"].as_array().expect("a list") {
        let peer = &entry["peer"];
        let of = |stream: &&mut TcpStream| *peer == *stream.local_addr().expect("its").to_string();
        let Some(stream) = streams.iter_mut().find(of) else { continue };
        if entry["leaving"] == true {
            expect_end(stream);
        } else {
            exchange(stream, b"spared");
            spared += 1;
        }
    }
    println!("{spared} of 20 spared");
    assert!(spared > 10, "{list:#}");
}

#[test]
fn a_drain_by_the_endpoint_stays_and_can_be_undone_when_it_is_over() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let addr = proxy.addr();
    let (status, out, _) = run(&["drain", "--wait", "--control", &control(&proxy)]);
    assert_eq!(status, Some(0));
    assert!(out.starts_with("Drained"), "{out}");
    expect_refused(addr);
    assert_eq!(proxy.get("/livez").status, 200, "it stays");
    assert_eq!(undrain(&proxy).json()["phase"], "Serving");
    proxy.until("accepting", |status| status["listeners"][0]["state"] == "Accepting");
    exchange(&mut connect(addr), b"welcome");
    // Over again, and this time SIGTERM finds nothing left to wait for.
    proxy.post("/drain");
    proxy.until_phase("Drained");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.finish().code(), Some(0));
}

#[test]
fn undrain_comes_too_late_when_the_process_is_leaving() {
    // A controller that never answers keeps the process where it is: Drained, and on its way out.
    let hung = application(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let url = format!("http://{hung}");
    let args = ["--controller", &url, "--final-report-timeout", "100s"];
    let proxy = Ebbtide::proxy(&echo().to_string(), &[&QUICK[..], &args].concat());
    proxy.addr();
    proxy.signal(Signal::TERM);
    proxy.until_phase("Drained");
    let refused = undrain(&proxy);
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("the process is leaving"), "{}", refused.body);
    let (status, _, error) = run(&["undrain", "--control", &control(&proxy)]);
    assert_eq!(status, Some(69));
    assert!(error.contains("the process is leaving"), "{error}");
    assert_eq!(proxy.status()["phase"], "Drained");
}

#[test]
fn an_application_that_is_killed_ends_its_connections_and_the_drain() {
    // An application that is a process of its own: another proxy, before the test's echo server.
    let application = Ebbtide::proxy(&echo().to_string(), &[]);
    let proxy = Ebbtide::proxy(&application.addr().to_string(), &QUICK);
    let mut streams = [0, 1].map(|_| connect(proxy.addr()));
    for stream in &mut streams {
        exchange(stream, b"hello");
    }
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    // SIGKILL: its kernel ends its connections.
    drop(application);
    for stream in &mut streams {
        expect_end(stream);
    }
    drop(streams);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
    assert!(finished.lines("connection force-closed by the drain").is_empty());
}

#[test]
fn a_port_that_is_taken_says_which_and_what_to_do() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let taken = holder.local_addr().expect("its address").to_string();
    let free = "127.0.0.1:0";
    for (flag, listen, admin, control) in [
        ("listen", taken.as_str(), free, free),
        ("--admin", free, taken.as_str(), free),
        ("--control", free, free, taken.as_str()),
    ] {
        let line = ["proxy", "--upstream", "127.0.0.1:9", "--listen", listen];
        let endpoints = ["--admin", admin, "--control", control];
        let (status, _, error) = run(&[&line[..], &endpoints].concat());
        assert_eq!(status, Some(69), "{error}");
        for part in [flag, &taken, "the port is taken", "choose another"] {
            assert!(error.contains(part), "no `{part}` in: {error}");
        }
    }
}

/// A drain with thousands of lines to log once stood still, past its deadline, because nobody read
/// them.
#[test]
fn a_log_that_nobody_reads_stops_no_drain() {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut command = Command::new(program());
    command.args(["--log", "trace", "--log-format", "json", "proxy"]);
    command.args(["--upstream", &echo().to_string(), "--listen", &listen.to_string()]);
    command.args(["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    command.args(["--termination-log", "/dev/null", "--drain-delay", "0", "--settled-for", "0"]);
    command.args(["--drain-timeout", "2s", "--close-spread", "1s"]);
    let _confined = Restrictions::of_a_pod().apply(&mut command);
    // The pipe is held, and nothing is taken out of it.
    let mut proxy = command.stderr(std::process::Stdio::piped()).spawn().expect("it starts");
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(listen).is_err() {
        assert!(Instant::now() < deadline, "nobody listens");
        std::thread::yield_now();
    }
    let streams = crowd(listen);
    let pid = Pid::from_child(&proxy);
    rustix::process::kill_process(pid, Signal::TERM).expect("it takes the signal");
    let status = loop {
        if let Some(status) = proxy.try_wait().expect("a child of ours") {
            break status;
        }
        assert!(Instant::now() < deadline, "it waits for somebody to read its log");
        std::thread::yield_now();
    };
    assert_eq!(status.code(), Some(75));
    drop(streams);
}
