//! What a new connection meets in each phase of a drain and in each reject mode.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::crowd::alone;
use crate::support::{Ebbtide, PATIENCE, echo};

const MODES: [&str; 5] = ["refuse", "http503", "reset", "drop", "accept"];
const LISTEN: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

/// A client whose SYN is dropped hears nothing; this is how long it listens. Its kernel sends the SYN
/// again after a second, which is too late to be let in by an undrain.
const SILENCE: Duration = Duration::from_millis(300);

/// What a client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Served,
    Refused,
    Fin,
    Reset,
    Silence,
}

/// What somebody new sees in a mode.
fn expected(mode: &str) -> Seen {
    match mode {
        "refuse" => Seen::Refused,
        "http503" => Seen::Fin,
        "reset" => Seen::Reset,
        "drop" => Seen::Silence,
        _ => Seen::Served,
    }
}

fn connect(source: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(&to.into(), SILENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

fn exchange(stream: &mut TcpStream) -> Seen {
    let mut back = [0; 4];
    // A client that was turned away may learn so from its write or from its read.
    let answered = stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut back));
    match answered.map_err(|error| error.kind()) {
        Ok(()) => Seen::Served,
        Err(ErrorKind::UnexpectedEof) => Seen::Fin,
        Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Seen::Reset,
        Err(other) => panic!("saw {other}"),
    }
}

fn see_from(source: Option<IpAddr>, to: SocketAddr) -> Seen {
    match connect(source, to).map_err(|error| error.kind()) {
        Ok(mut stream) => exchange(&mut stream),
        Err(ErrorKind::ConnectionRefused) => Seen::Refused,
        Err(ErrorKind::ConnectionReset) => Seen::Reset,
        Err(ErrorKind::TimedOut) => Seen::Silence,
        Err(other) => panic!("saw {other}"),
    }
}

fn see(to: SocketAddr) -> Seen {
    see_from(None, to)
}

fn proxy(args: &[&str]) -> Ebbtide {
    let mut line = vec!["--settled-for", "0", "--drain-timeout", "30m"];
    if !args.contains(&"--settle-period") {
        line.extend(["--settle-period", "100ms"]);
    }
    line.extend(args);
    Ebbtide::proxy(&echo().to_string(), &line)
}

/// Begins a drain and waits until its listener has done what its mode says.
fn drain(proxy: &Ebbtide, mode: &str) {
    assert_eq!(proxy.post("/drain").status, 200);
    proxy.until("settled", |status| {
        let settled = match (mode, status["listeners"][0]["state"].as_str()) {
            ("accept", state) => state == Some("Accepting"),
            (_, state) => matches!(state, Some("Refusing" | "Rejecting" | "Dropping")),
        };
        status["phase"] == "Draining" && settled
    });
}

#[test]
fn each_mode_rejects_in_its_own_way_and_serves_again_after_an_undrain() {
    for listen in LISTEN {
        for mode in MODES {
            let proxy = proxy(&["--listen", listen, "--reject", mode, "--drain-delay", "0"]);
            let addr = proxy.addr();
            let mut open = connect(None, addr).expect("a connection before the drain");
            assert_eq!(exchange(&mut open), Seen::Served);
            drain(&proxy, mode);
            assert_eq!(see(addr), expected(mode), "{mode} at {listen}");
            assert_eq!(exchange(&mut open), Seen::Served, "{mode}: the drain cut a stream");
            let rejected = u64::from(matches!(mode, "http503" | "reset"));
            assert_eq!(proxy.status()["rejected"], rejected, "{mode} at {listen}");

            assert_eq!(proxy.post("/undrain").status, 200);
            let serving = |status: &serde_json::Value| {
                status["phase"] == "Serving" && status["listeners"][0]["state"] == "Accepting"
            };
            proxy.until("serving again", serving);
            assert_eq!(see(addr), Seen::Served, "{mode} at {listen}: after the undrain");
            drain(&proxy, mode);
            assert_eq!(see(addr), expected(mode), "{mode} at {listen}: the second drain");
            assert_eq!(exchange(&mut open), Seen::Served, "{mode}: the second drain cut a stream");
        }
    }
}

#[test]
fn admitted_networks_are_served_in_every_mode() {
    let admitted: IpAddr = [127, 0, 0, 9].into();
    for mode in MODES {
        let admit = ["--reject", mode, "--admit", "127.0.0.9/32,fd00::/8", "--drain-delay", "0"];
        let proxy = proxy(&admit);
        let addr = proxy.addr();
        let _open = connect(None, addr).expect("a connection");
        proxy.until("busy", |status| status["drainBlockingConnections"] == 1);
        drain(&proxy, mode);
        assert_eq!(see_from(Some(admitted), addr), Seen::Served, "{mode}: who is admitted");
        // A listener that must stay for some can't refuse the others: it does not hear them.
        let others = if mode == "refuse" { Seen::Silence } else { expected(mode) };
        assert_eq!(see(addr), others, "{mode}: who is not admitted");
    }
    for (network, seen) in [("::1/128", Seen::Served), ("fd00::/8", Seen::Silence)] {
        let proxy = proxy(&["--listen", "[::1]:0", "--admit", network, "--drain-delay", "0"]);
        let addr = proxy.addr();
        let _open = connect(None, addr).expect("a connection");
        proxy.until("busy", |status| status["drainBlockingConnections"] == 1);
        drain(&proxy, "refuse");
        assert_eq!(see(addr), seen, "{network} admitted");
    }
}

/// As many as may be open are open, so the others wait in the kernel's queue when the drain begins.
#[test]
fn who_was_queued_at_the_switch_is_served() {
    for mode in MODES {
        let proxy = proxy(&["--reject", mode, "--drain-delay", "0", "--max-connections", "1"]);
        let addr = proxy.addr();
        let mut first = connect(None, addr).expect("a connection");
        assert_eq!(exchange(&mut first), Seen::Served);
        let queued: Vec<_> =
            (0..20).map(|_| connect(None, addr).expect("a place in the queue")).collect();
        assert_eq!(proxy.post("/drain").status, 200);
        proxy.until_phase("Draining");
        drop(first);
        for mut stream in queued {
            assert_eq!(exchange(&mut stream), Seen::Served, "{mode}: who was queued");
        }
        proxy.until_phase("Drained");
        assert_eq!(see(addr), expected(mode), "{mode}: who came later");
    }
}

/// Guards: with as many connections open as may be, a listener waited for one of them to end
/// before it closed, and new clients heard nothing instead of a refusal.
#[test]
fn a_full_proxy_rejects_too() {
    for mode in ["refuse", "http503", "reset", "drop"] {
        let proxy = proxy(&["--reject", mode, "--drain-delay", "0", "--max-connections", "1"]);
        let addr = proxy.addr();
        let mut only = connect(None, addr).expect("a connection");
        assert_eq!(exchange(&mut only), Seen::Served);
        drain(&proxy, mode);
        assert_eq!(see(addr), expected(mode), "{mode}");
        assert_eq!(exchange(&mut only), Seen::Served);
    }
}

fn listener(status: &serde_json::Value) -> (&str, &str) {
    let listener = &status["listeners"][0];
    let text = |key: &str| listener[key].as_str().expect("a name");
    (text("state"), text("synFilter"))
}

/// Guards: silent newcomers took every place, and a client that asked got a bare FIN instead of its 503.
#[test]
fn silent_newcomers_keep_no_client_from_its_503() {
    let _alone = alone();
    let proxy = proxy(&["--reject", "http503", "--drain-delay", "0"]);
    let mut held = connect(None, proxy.addr()).expect("a connection");
    assert_eq!(exchange(&mut held), Seen::Served);
    drain(&proxy, "http503");
    let silent = |_| connect(None, proxy.addr()).expect("a silent connection");
    let _silent: Vec<_> = (0..1500).map(silent).collect();
    for _ in 0..20 {
        let mut client = connect(None, proxy.addr()).expect("a connection");
        client.write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n").expect("asked");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer and a FIN");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
    }
    assert_eq!(exchange(&mut held), Seen::Served);
}

/// While the queue is emptied the kernel refuses newcomers already. An undrain then serves on a second
/// socket, and nothing that waits at the first one is lost.
#[test]
fn an_undrain_while_the_queue_is_emptied_serves_newcomers_and_those_queued() {
    for listen in LISTEN {
        let args = ["--listen", listen, "--drain-delay", "0", "--settle-period", "20m"];
        let proxy = proxy(&[&args[..], &["--max-connections", "2"]].concat());
        let addr = proxy.addr();
        for round in 0..3 {
            let mut first: Vec<_> =
                (0..2).map(|_| connect(None, addr).expect("a connection")).collect();
            for stream in &mut first {
                assert_eq!(exchange(stream), Seen::Served);
            }
            // As many as may be open are open: this one waits in the queue.
            let mut queued = connect(None, addr).expect("a place in the queue");
            proxy.post("/drain");
            proxy.until("refusing", |status| listener(status) == ("Refusing", "device"));
            assert_eq!(see(addr), Seen::Refused, "{listen}: round {round}");
            assert_eq!(proxy.post("/undrain").status, 200);
            proxy.until("serving", |status| listener(status) == ("Accepting", "off"));
            let mut newcomer = connect(None, addr).expect("a connection after the undrain");
            drop(first);
            assert_eq!(exchange(&mut queued), Seen::Served, "{listen}: round {round}");
            assert_eq!(exchange(&mut newcomer), Seen::Served, "{listen}: round {round}");
        }
        assert!(proxy.log().iter().all(|line| line["message"] != "listener reopened"));
    }
}

/// A client whose SYN is dropped hears nothing, and is let in when its kernel asks again after an
/// undrain: nobody was sent away.
#[test]
fn an_undrain_lets_those_in_whose_syn_was_dropped() {
    for listen in LISTEN {
        let proxy = proxy(&["--listen", listen, "--drain-delay", "0", "--reject", "drop"]);
        let addr = proxy.addr();
        proxy.post("/drain");
        proxy.until("dropping", |status| listener(status) == ("Dropping", "reuseport"));
        assert_eq!(see(addr), Seen::Silence);
        let patient = std::thread::spawn(move || TcpStream::connect_timeout(&addr, PATIENCE));
        // Nobody sees a SYN that is dropped but who sends it: the kernel's table of sockets.
        while !syn_sent(addr) {
            std::thread::yield_now();
        }
        assert_eq!(proxy.post("/undrain").status, 200);
        proxy.says("SYN filter removed");
        let mut stream = patient.join().expect("a client").expect("let in");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        assert_eq!(exchange(&mut stream), Seen::Served);
        assert!(proxy.log().iter().all(|line| line["message"] != "listener closed"));
    }
}

/// Whether somebody on this host waits for an answer to its SYN from this address.
fn syn_sent(to: SocketAddr) -> bool {
    const SYN_SENT: &str = "02";
    let table = if to.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let port = format!(":{:04X}", to.port());
    std::fs::read_to_string(table).expect("the kernel's table").lines().any(|line| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next().is_some_and(|remote| remote.ends_with(&port))
            && fields.next() == Some(SYN_SENT)
    })
}

#[test]
fn a_lame_duck_serves_until_its_delay_is_over() {
    let proxy = proxy(&["--drain-delay", "29m", "--quiet-period", "0", "--close-spread", "0"]);
    proxy.post("/drain");
    assert_eq!(proxy.status()["phase"], "LameDuck");
    for _ in 0..20 {
        assert_eq!(see(proxy.addr()), Seen::Served);
    }
    assert_eq!(proxy.status()["phase"], "LameDuck");
    drop(proxy);
    let short = self::proxy(&["--drain-delay", "200ms", "--quiet-period", "0"]);
    short.post("/drain");
    short.until_phase("Drained");
}

#[test]
fn a_lame_duck_ends_when_it_is_quiet() {
    let proxy = proxy(&["--drain-delay", "20m", "--quiet-period", "200ms"]);
    proxy.post("/drain");
    proxy.until_phase("Drained");
}

#[test]
fn a_lame_duck_ends_when_the_controller_knows_the_balancer_has_heard() {
    let controller = Ebbtide::start(&[
        "controller",
        "--listen",
        "127.0.0.1:0",
        "--assume-weight-zero-after",
        "0",
    ]);
    let listen = controller.says("controller takes reports")["listen"].clone();
    let url = format!("http://{}", listen.as_str().expect("an address"));
    let proxy = proxy(&["--drain-delay", "20m", "--quiet-period", "0", "--controller", &url]);
    let _open = connect(None, proxy.addr()).expect("a connection");
    proxy.until("busy", |status| status["drainBlockingConnections"] == 1);
    proxy.post("/drain");
    proxy.until_phase("Draining");
    controller.line("weight zero", |line| line["action"] == "weight-zero");
}

/// Guards: in mode `accept` a drain can be over and connections still come; the signal that then
/// ends the process cut them at once.
#[test]
fn who_came_after_the_drain_was_over_has_until_the_deadline() {
    let proxy = proxy(&["--reject", "accept", "--drain-delay", "0"]);
    proxy.post("/drain");
    proxy.until_phase("Drained");
    let mut late = connect(None, proxy.addr()).expect("a connection");
    assert_eq!(exchange(&mut late), Seen::Served);
    proxy.signal(rustix::process::Signal::TERM);
    proxy.says("signal");
    for _ in 0..100 {
        assert_eq!(exchange(&mut late), Seen::Served);
    }
    drop(late);
    assert_eq!(proxy.finish().code(), Some(0));
}
