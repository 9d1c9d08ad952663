//! Reaching the application: addresses that do not answer, a queue that is full, ports that are used
//! up, clients that do not wait, and connections that come back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::support::application::{listen, send_back};
use crate::support::namespace::inside;
use crate::support::process::{Exception, program};
use crate::support::{Directory, Ebbtide, connect, exchange, expect_reset, free_port, open_to_all};

/// Longer than any test waits: whoever ends sooner does so for another reason.
const PATIENT: [&str; 2] = ["--upstream-wait", "10m"];

fn failures(proxy: &Ebbtide, reason: &str) -> u64 {
    let name = format!("ebbtide_upstream_failures_total{{reason=\"{reason}\"}} ");
    let metrics = proxy.get("/metrics").body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {metrics}"))
}

/// A listener that accepts nobody and whose queue is full: what is sent to it is dropped.
fn full(addr: SocketAddr) -> (TcpListener, Vec<Socket>) {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a socket");
    socket.bind(&addr.into()).expect("bound");
    socket.listen(0).expect("it listens");
    let addr = socket.local_addr().expect("its address");
    let mut queued = Vec::new();
    loop {
        let client = Socket::new(addr.domain(), Type::STREAM, None).expect("a socket");
        if client.connect_timeout(&addr, Duration::from_millis(300)).is_err() {
            return (socket.into(), queued);
        }
        queued.push(client);
    }
}

/// Nothing has come, and nothing has ended, while the client looked for so long.
fn expect_silence(client: &mut TcpStream, period: Duration) {
    client.set_read_timeout(Some(period)).expect("a time-out");
    let error = client.read(&mut [0]).expect_err("no byte and no end");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    client.set_read_timeout(Some(crate::support::PATIENCE)).expect("a time-out");
}

fn expect_back(client: &mut TcpStream, bytes: &[u8]) {
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).expect("served");
    assert_eq!(back, bytes);
}

#[test]
fn the_next_address_of_a_name_is_tried_while_the_ones_before_are_silent() {
    let (silent, _queued) = full("127.0.0.2:0".parse().expect("an address"));
    let port = silent.local_addr().expect("its address").port();
    let (_silent, _queued_too) = full(SocketAddr::from(([127, 0, 0, 3], port)));
    listen(TcpListener::bind(("127.0.0.4", port)).expect("the port is free there"), send_back);
    let directory = Directory::new();
    let hosts = "127.0.0.2 app.test\n127.0.0.3 app.test\n127.0.0.4 app.test\n";
    let hosts = directory.write("hosts", hosts);
    // In a mount namespace of its own it reads another /etc/hosts. Needs root.
    let script = format!(
        "mount --bind {hosts} /etc/hosts && exec {} proxy --upstream app.test:{port} \
         --listen 127.0.0.1:0 --admin 127.0.0.1:0 --control 127.0.0.1:0 --connect-timeout 40s",
        program()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    let proxy = Ebbtide::spawn_with_privileges(Exception::EntersFirst, command);
    let mut client = connect(proxy.addr());
    client.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    exchange(&mut client, b"reached");
}

#[test]
fn a_full_queue_is_waited_for_as_long_as_an_absent_application() {
    let (busy, _queued) = full("127.0.0.1:0".parse().expect("an address"));
    let addr = busy.local_addr().expect("its address");
    let args = ["--connect-timeout", "300ms", "--upstream-wait", "60s"];
    let proxy = Ebbtide::proxy(&addr.to_string(), &args);
    let mut clients: Vec<_> = (0..8).map(|_| connect(proxy.addr())).collect();
    for client in &mut clients {
        client.write_all(b"patient").expect("sent");
    }
    // Three tries have ended meanwhile.
    expect_silence(&mut clients[0], Duration::from_secs(1));
    listen(busy, send_back);
    for client in &mut clients {
        expect_back(client, b"patient");
    }
    assert_eq!(failures(&proxy, "timeout"), 0);
}

#[test]
fn a_full_queue_that_stays_full_is_told_as_a_time_out() {
    let (busy, _queued) = full("127.0.0.1:0".parse().expect("an address"));
    let addr = busy.local_addr().expect("its address");
    let args = ["--connect-timeout", "100ms", "--upstream-wait", "300ms"];
    let proxy = Ebbtide::proxy(&addr.to_string(), &args);
    expect_reset(&mut connect(proxy.addr()));
    let line = proxy.says("connection reset: the application can't be reached");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("did not accept")), "{line}");
    assert_eq!(failures(&proxy, "timeout"), 1);
}

/// A Unix socket whose queue is full answers EAGAIN at once.
#[test]
fn the_full_queue_of_a_unix_socket_is_waited_for_and_named() {
    let directory = Directory::new();
    let path = directory.path().join("app.sock");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    socket.bind(&SockAddr::unix(&path).expect("a path")).expect("bound");
    open_to_all(&path);
    socket.listen(0).expect("it listens");
    let mut queued = Vec::new();
    loop {
        let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).expect("a socket");
        if client.connect(&SockAddr::unix(&path).expect("a path")).is_err() {
            break;
        }
        queued.push(client);
    }
    let upstream = format!("unix:{}", path.display());
    let impatient = Ebbtide::proxy(&upstream, &["--upstream-wait", "100ms"]);
    expect_reset(&mut connect(impatient.addr()));
    impatient.until_metric("ebbtide_upstream_failures_total{reason=\"queue_full\"} 1");
    assert_eq!(failures(&impatient, "not_there"), 0);
    let patient = Ebbtide::proxy(&upstream, &PATIENT);
    let mut clients: Vec<_> = (0..8).map(|_| connect(patient.addr())).collect();
    for client in &mut clients {
        client.write_all(b"patient").expect("sent");
    }
    let listener = UnixListener::from(socket);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || echo_unix(stream));
        }
    });
    for client in &mut clients {
        expect_back(client, b"patient");
    }
}

fn echo_unix(mut stream: UnixStream) {
    let mut reader = stream.try_clone().expect("a second handle");
    let _ended = std::io::copy(&mut reader, &mut stream);
}

/// Connects to a proxy that listens on all addresses, each time by another one: to each, every one of
/// the few ports can be used once more.
fn client_by(number: u8, proxy: &Ebbtide) -> TcpStream {
    connect(SocketAddr::from(([127, 0, 1, number], proxy.addr().port())))
}

#[test]
fn used_up_ports_are_named_and_more_addresses_to_connect_from_give_more() {
    const ALL: [&str; 4] = ["--listen", "0.0.0.0:0", "--upstream-wait", "100ms"];
    inside("echo 50000 50023 > /proc/sys/net/ipv4/ip_local_port_range", || {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 3000));
        listen(TcpListener::bind(addr).expect("a listener"), send_back);
        let proxy = Ebbtide::proxy("127.0.0.1:3000", &ALL);
        let mut served = Vec::new();
        for number in 1..=40 {
            let mut client = client_by(number, &proxy);
            client.write_all(b"a").expect("sent");
            match client.read(&mut [0]) {
                Ok(1) => served.push(client),
                end => {
                    assert_eq!(end.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
                }
            }
        }
        assert!(served.len() <= 24, "the ports are few");
        let refused = 40 - served.len();
        let metric = "ebbtide_upstream_failures_total{reason=\"ports\"}";
        proxy.until_metric(&format!("{metric} {refused}"));
        assert_eq!(failures(&proxy, "not_there"), 0);
        let line = proxy.says("connection reset: the application can't be reached");
        assert!(line["error"].as_str().is_some_and(|error| error.contains("--upstream-bind")));
        // Three more addresses, beside the one that the others have used up.
        let bind = ["--upstream-bind", "127.0.0.2,127.0.0.3,127.0.0.4"];
        let own = ["proxy", "--admin=127.0.0.1:3001", "--control=127.0.0.1:3002"];
        let ways = ["--listen=0.0.0.0:3003", "--upstream=127.0.0.1:3000", "--upstream-wait=100ms"];
        let proxy = Ebbtide::start(&[&own[..], &ways, &bind].concat());
        let mut clients: Vec<_> = (1..=40).map(|number| client_by(number, &proxy)).collect();
        for client in &mut clients {
            exchange(client, b"served");
        }
    });
}

/// A connect to a port that the kernel may choose as ours meets itself, now and then.
#[test]
fn a_connection_to_itself_is_not_taken_for_the_application() {
    inside("echo 50048 50055 > /proc/sys/net/ipv4/ip_local_port_range", || {
        let proxy = Ebbtide::start(&[
            "proxy",
            "--listen=127.0.0.1:4000",
            "--admin=127.0.0.1:4001",
            "--control=127.0.0.1:4002",
            "--upstream=127.0.0.1:50052",
            "--upstream-wait=60s",
        ]);
        proxy.says("serving");
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 4000));
        // From ports beside the few, or one of them would have the application's.
        let mut clients = [4101, 4102, 4103, 4104].map(|port| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let own = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            socket.bind(&own.into()).expect("a free port");
            socket.set_read_timeout(Some(crate::support::PATIENCE)).expect("a time-out");
            socket.connect(&to.into()).expect("a connection");
            TcpStream::from(socket)
        });
        for client in &mut clients {
            client.write_all(b"request").expect("sent");
        }
        // Some twenty tries, of which each meets itself with one chance in eight.
        expect_silence(&mut clients[0], Duration::from_secs(4));
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        let listener = loop {
            // One that has just met itself has the port for as long as it takes to see that.
            match TcpListener::bind("127.0.0.1:50052") {
                Ok(listener) => break listener,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
        };
        listen(listener, |mut stream| {
            let mut request = [0; 7];
            if stream.read_exact(&mut request).is_ok() {
                let _sent = stream.write_all(b"answer!");
            }
        });
        for client in &mut clients {
            expect_back(client, b"answer!");
        }
    });
}

/// What can be known at the start is refused there; this is an address that only a look-up tells.
#[test]
fn a_connection_that_comes_back_is_made_once() {
    let port = free_port();
    let listen = format!("--listen=127.0.0.1:{port}");
    let upstream = format!("--upstream=127.1:{port}");
    let args = ["proxy", &listen, &upstream, "--admin=127.0.0.1:0", "--control=127.0.0.1:0"];
    let proxy = Ebbtide::start(&args);
    for round in 1..=5 {
        // The reset may be there before connect(2) has returned.
        match TcpStream::connect_timeout(&proxy.addr(), crate::support::PATIENCE) {
            Ok(mut client) => {
                let _sent = client.write_all(b"round and round");
                expect_reset(&mut client);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        proxy.until("none left", |status| status["activeConnections"] == 0);
        assert_eq!(failures(&proxy, "loop"), round);
    }
    // Each client's, and the one that came back: without a byte it counts as a probe.
    let metrics = proxy.get("/metrics").body;
    let count = |result| {
        let name = format!("ebbtide_connections_total{{result=\"{result}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
        value.and_then(|value| value.parse::<u64>().ok()).expect("a counter")
    };
    assert_eq!(count("accepted") + count("excluded"), 10, "{metrics}");
}

#[test]
fn clients_that_left_while_the_application_was_not_there_are_not_served() {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let proxy = Ebbtide::proxy(&addr.to_string(), &PATIENT);
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let mut patient = connect(proxy.addr());
    patient.write_all(b"patient").expect("sent");
    let gone: Vec<_> = (0..6).map(|_| connect(proxy.addr())).collect();
    proxy.until("seven that wait", |status| status["activeConnections"] == 7);
    for (number, mut client) in gone.into_iter().enumerate() {
        client.write_all(post).expect("sent");
        if number % 2 == 0 {
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("it lingers not");
        }
    }
    proxy.until("one that waits", |status| status["activeConnections"] == 1);
    let (seen, sees) = std::sync::mpsc::channel();
    listen(TcpListener::bind(addr).expect("still free"), move |mut stream| {
        let mut first = [0; 7];
        let read = stream.read(&mut first).unwrap_or(0);
        seen.send(first[..read].to_vec()).expect("the test waits");
        let _sent = stream.write_all(&first[..read]);
    });
    expect_back(&mut patient, b"patient");
    let _ended = patient.shutdown(Shutdown::Both);
    proxy.until("none left", |status| status["activeConnections"] == 0);
    assert_eq!(sees.recv().expect("one was seen"), b"patient");
    assert!(sees.try_recv().is_err(), "somebody else was served too");
    assert_eq!(failures(&proxy, "not_there"), 0);
}

#[test]
fn a_client_that_has_only_ended_its_side_is_served_if_that_is_asked_for() {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let args = [&PATIENT[..], &["--upstream-wait-half-closed"]].concat();
    let proxy = Ebbtide::proxy(&addr.to_string(), &args);
    let mut half_closed = connect(proxy.addr());
    let reset = connect(proxy.addr());
    half_closed.write_all(b"all said").expect("sent");
    half_closed.shutdown(Shutdown::Write).expect("half-closed");
    proxy.until("two that wait", |status| status["activeConnections"] == 2);
    SockRef::from(&reset).set_linger(Some(Duration::ZERO)).expect("it lingers not");
    drop(reset);
    proxy.until("one that waits", |status| status["activeConnections"] == 1);
    listen(TcpListener::bind(addr).expect("still free"), send_back);
    expect_back(&mut half_closed, b"all said");
}

#[test]
fn many_who_wait_share_one_look_up_and_one_probe() {
    const CLIENTS: usize = 400;
    let port = free_port();
    let proxy = Ebbtide::proxy(&format!("localhost:{port}"), &PATIENT);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(proxy.addr())).collect();
    for client in &mut clients {
        client.write_all(b"waits").expect("sent");
    }
    proxy.until("all of them", |status| status["activeConnections"] == CLIENTS);
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).expect("it lives");
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).expect("threads");
    let threads: usize = threads.trim().parse().expect("a number");
    assert!(threads < 10, "{threads} threads for {CLIENTS} who wait");
    listen(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("still free"), send_back);
    for client in &mut clients {
        expect_back(client, b"waits");
    }
}

#[test]
fn a_client_of_shared_connections_that_left_is_not_served_either() {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let args = [&PATIENT[..], &["--protocol=http1", "--upstream-reuse"]].concat();
    let proxy = Ebbtide::proxy(&addr.to_string(), &args);
    let mut client = connect(proxy.addr());
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    proxy.until_listed(client.local_addr().expect("its address"), |one| one["class"] == "http");
    drop(client);
    proxy.until("none left", |status| status["activeConnections"] == 0);
}
