//! `ebbtide run`: the proxy with the application as its child.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::support::application::{listen, random_bytes, send_back, try_exchange};
use crate::support::nginx::Nginx;
use crate::support::process::{Exception, program, run};
use crate::support::{
    Directory, Ebbtide, PATIENCE, connect, echo, exchange, expect_refused, expect_reset, free_port,
    usage,
};

/// A shell that lives as long as `ebbtide run` does, behind what the test lets it do on signals.
const WAIT: &str = "echo up >&2; while kill -0 $PPID 2>/dev/null; do sleep 0.02; done";

/// More than the kernel's buffers between nginx and a client hold.
const FILE_BYTES: usize = 24 * 1024 * 1024;
const BYTES_PER_SECOND: usize = 8 * 1024 * 1024;
const STREAMS: usize = 200;

/// `ebbtide run` before a shell; the port that it forwards to is the test's own affair.
struct Running {
    ebbtide: Ebbtide,
    child: Application,
}

/// Kills what is left of the application: a test that failed must not leave it behind.
struct Application(Pid);

impl Drop for Application {
    fn drop(&mut self) {
        // Gone already, in most tests.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

impl Running {
    fn start(upstream: SocketAddr, args: &[&str], script: &str) -> Self {
        let upstream = upstream.to_string();
        let mut line = vec!["run", "--listen", "127.0.0.1:0", "--upstream", &upstream];
        line.extend(QUIET);
        line.extend(args);
        let script = format!("{script}\n{WAIT}");
        line.extend(["--", "sh", "-c", &script]);
        Self::of(Ebbtide::start(&line))
    }

    fn of(ebbtide: Ebbtide) -> Self {
        let started = ebbtide.says("application started");
        let child = started["pid"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        Running { ebbtide, child: Application(child.expect("a process id")) }
    }

    /// Waits for a line that the application writes.
    fn hears(&self, text: &str) {
        self.ebbtide.line(text, |line| line == &Value::from(text));
    }

    fn finish(self) -> Option<i32> {
        let Running { ebbtide, child } = self;
        let code = ebbtide.finish().code();
        drop(child);
        code
    }
}

/// Nothing on fixed ports, and drains without delay.
const QUIET: [&str; 12] = [
    "--admin",
    "127.0.0.1:0",
    "--control",
    "127.0.0.1:0",
    "--termination-log",
    "/dev/null",
    "--drain-delay",
    "0",
    "--settled-for",
    "0",
    "--settle-period",
    "100ms",
];

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A download of which the first bytes have been read.
struct Download {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Download {
    fn begin(addr: SocketAddr) -> Self {
        let mut stream = connect(addr);
        write!(stream, "GET /file HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")
            .expect("asked");
        let mut received = vec![0; 64 * 1024];
        stream.read_exact(&mut received).expect("the first bytes");
        Download { stream, received }
    }

    /// The body as far as it came; how the connection ended is not asked.
    fn rest(mut self) -> Vec<u8> {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = self.stream.read(&mut buffer) {
            self.received.extend_from_slice(&buffer[..read]);
        }
        let head = self.received.windows(4).position(|four| four == b"\r\n\r\n");
        self.received.split_off(head.expect("a head") + 4)
    }
}

fn streams(addr: SocketAddr) -> Vec<TcpStream> {
    let mut streams: Vec<TcpStream> = (0..STREAMS).map(|_| connect(addr)).collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        exchange(stream, format!("stream {index}").as_bytes());
    }
    streams
}

/// How many streams still bring back what they are sent.
fn alive(streams: &mut [TcpStream]) -> usize {
    let text = random_bytes(2, 10_000);
    streams.iter_mut().filter_map(|stream| try_exchange(stream, &text).ok()).count()
}

#[test]
fn nginx_loses_not_one_byte_under_ebbtide() {
    let file = random_bytes(1, FILE_BYTES);
    let nginx = Nginx::new(&file, BYTES_PER_SECOND, echo());
    let directory = Directory::new();
    let configuration = directory.write(
        "ebbtide.yaml",
        format!(
            "listeners:\n- listen: 127.0.0.1:0\n  upstream: 127.0.0.1:{}\n- listen: 127.0.0.1:0\n  upstream: 127.0.0.1:{}\n",
            nginx.http_port, nginx.stream_port
        ),
    );
    let command = nginx.command();
    let mut line = vec!["run", "--config", &configuration];
    line.extend(QUIET);
    line.push("--");
    line.extend(command.iter().map(String::as_str));
    let running = Running::of(Ebbtide::start(&line));
    let ebbtide = &running.ebbtide;
    let [http, tcp] = ebbtide.addrs(2)[..] else { panic!("two listeners") };

    let download = Download::begin(http);
    let mut streams = streams(tcp);
    ebbtide.signal(Signal::TERM);
    ebbtide.until("two listeners closed", |status| {
        let listeners = status["listeners"].as_array().expect("a list");
        listeners.iter().all(|listener| listener["state"] == "Refusing")
    });
    expect_refused(http);
    expect_refused(tcp);
    assert_eq!(ebbtide.status()["drainBlockingConnections"], STREAMS + 1);
    assert_eq!(alive(&mut streams), STREAMS);
    let received = download.rest();
    assert_eq!(received.len(), FILE_BYTES);
    assert!(received == file, "the bytes have changed");
    assert_eq!(alive(&mut streams), STREAMS);
    drop(streams);
    assert_eq!(running.finish(), Some(0), "nginx's own status");
}

#[test]
fn the_same_nginx_alone_loses_what_is_under_way() {
    let file = random_bytes(1, FILE_BYTES);
    let nginx = Nginx::new(&file, BYTES_PER_SECOND, echo());
    let [program, args @ ..] = nginx.command();
    let mut alone =
        Command::new(program).args(args).stderr(Stdio::null()).spawn().expect("nginx starts");
    for port in [nginx.http_port, nginx.stream_port] {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(loopback(port)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::yield_now();
        }
    }
    let download = Download::begin(loopback(nginx.http_port));
    let mut streams = streams(loopback(nginx.stream_port));
    let pid = i32::try_from(alone.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::TERM).expect("nginx takes the signal");
    alone.wait().expect("a child");
    let received = download.rest().len();
    let alive = alive(&mut streams);
    println!("nginx alone: {received} of {FILE_BYTES} bytes, {alive} of {STREAMS} streams");
    assert!(received < FILE_BYTES, "nginx is said to lose these");
    assert_eq!(alive, 0, "nginx is said to lose these");
}

#[test]
fn the_exit_status_is_the_childs() {
    let running = Running::start(echo(), &[], "trap 'exit 7' TERM");
    running.hears("up");
    let mut stream = connect(running.ebbtide.addr());
    exchange(&mut stream, b"served");
    running.ebbtide.signal(Signal::TERM);
    running.ebbtide.says("listener closed");
    // The application has heard nothing of it yet.
    exchange(&mut stream, b"still served");
    drop(stream);
    assert_eq!(running.finish(), Some(7));
}

#[test]
fn a_child_that_dies_first_takes_its_connections_and_its_status_with_it() {
    for (death, status) in [("exit 9", 9), ("kill -KILL $$", 128 + 9), ("kill -SEGV $$", 128 + 11)]
    {
        // Its upstream is the test's own and lives on, so that nothing but the bound ends the connection.
        let bound = ["--stop-timeout", "100ms"];
        let running = Running::start(echo(), &bound, &format!("trap '{death}' USR1"));
        running.hears("up");
        let mut stream = connect(running.ebbtide.addr());
        exchange(&mut stream, b"served");
        running.ebbtide.signal(Signal::USR1);
        expect_reset(&mut stream);
        assert_eq!(running.finish(), Some(status), "{death}");
    }
}

/// Guards against an end that waits for a drain's times although there is nothing left to serve:
/// they are longer than the test's patience.
#[test]
fn a_child_that_dies_first_is_deregistered_at_once() {
    let controller = Ebbtide::controller("127.0.0.1:0");
    let url = format!("http://{}", controller.takes_reports());
    let upstream = echo().to_string();
    let script = format!("trap 'exit 9' USR1\n{WAIT}");
    let mut line = vec!["run", "--listen", "127.0.0.1:0", "--upstream", &upstream];
    line.extend(&QUIET[..6]);
    line.extend(["--drain-delay", "200s", "--settled-for", "200s", "--settle-period", "200s"]);
    line.extend(["--stop-timeout", "100ms"]);
    line.extend([
        "--controller",
        &url,
        "--final-report-timeout",
        "200s",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    let running = Running::of(Ebbtide::start(&line));
    running.hears("up");
    let mut stream = connect(running.ebbtide.addr());
    exchange(&mut stream, b"served");
    running.ebbtide.signal(Signal::USR1);
    expect_reset(&mut stream);
    assert_eq!(running.finish(), Some(9));
    controller.line("deregister", |line| line["action"] == "deregister");
}

#[test]
fn the_stop_signal_is_the_one_that_was_asked_for() {
    let script = "trap 'exit 3' QUIT; trap 'exit 4' TERM";
    for (args, status) in [(&["--stop-signal", "QUIT"][..], 3), (&[], 4)] {
        let running = Running::start(echo(), args, script);
        running.hears("up");
        running.ebbtide.addr();
        running.ebbtide.signal(Signal::TERM);
        assert_eq!(running.finish(), Some(status), "{args:?}");
    }
}

#[test]
fn a_child_that_does_not_stop_is_killed_after_the_stop_timeout() {
    let running = Running::start(echo(), &["--stop-timeout", "300ms"], "trap '' TERM");
    running.hears("up");
    running.ebbtide.addr();
    running.ebbtide.signal(Signal::TERM);
    running.ebbtide.says("the application did not stop within --stop-timeout: killing it");
    assert_eq!(running.finish(), Some(128 + 9));
}

#[test]
fn a_second_interrupt_ends_the_application_at_once() {
    // With the default --stop-timeout in a test of its own, a stop would be waited for: this one
    // never ends by itself, and its status tells who ended it.
    let running = Running::start(echo(), &["--stop-timeout", "20m"], "trap '' INT TERM");
    running.hears("up");
    let mut stream = connect(running.ebbtide.addr());
    exchange(&mut stream, b"begun");
    running.ebbtide.signal(Signal::INT);
    running.ebbtide.says("phase");
    running.ebbtide.signal(Signal::INT);
    expect_reset(&mut stream);
    assert_eq!(running.finish(), Some(128 + 9));
}

#[test]
fn signals_for_the_application_reach_it() {
    let script = "trap 'echo HUP >&2' HUP; trap 'echo USR1 >&2' USR1; trap 'echo USR2 >&2' USR2; \
                  trap 'echo WINCH >&2' WINCH; trap 'exit 0' TERM";
    let running = Running::start(echo(), &[], script);
    running.hears("up");
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        running.ebbtide.signal(signal);
        running.hears(name);
    }
    // None of them touches the drain.
    assert_eq!(running.ebbtide.until_phase("Serving")["phase"], "Serving");
    running.ebbtide.signal(Signal::TERM);
    assert_eq!(running.finish(), Some(0));
}

/// A port that is bound and refuses: nobody else can take it before the application listens.
fn reserved_port() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.bind(&loopback(0).into()).expect("a free port");
    let addr = socket.local_addr().expect("its address").as_socket().expect("an address");
    (socket, addr)
}

#[test]
fn connections_are_refused_until_the_application_listens() {
    let (socket, upstream) = reserved_port();
    let port = free_port();
    let listen_addr = loopback(port);
    let text = [listen_addr.to_string(), upstream.to_string()];
    let mut line = vec!["run", "--listen", &text[0], "--upstream", &text[1]];
    line.extend(QUIET);
    let script = format!("trap 'exit 0' TERM\n{WAIT}");
    line.extend(["--", "sh", "-c", &script]);
    let running = Running::of(Ebbtide::start(&line));
    running.hears("up");
    let ebbtide = &running.ebbtide;
    assert_eq!(ebbtide.get("/livez").status, 200);
    assert_eq!(ebbtide.get("/readyz").status, 503);
    assert_eq!(ebbtide.status()["listeners"][0]["state"], "Waiting");
    expect_refused(listen_addr);

    socket.listen(16).expect("it listens");
    listen(TcpListener::from(socket), send_back);
    assert_eq!(ebbtide.addr(), listen_addr);
    exchange(&mut connect(listen_addr), b"served");
    ebbtide.until("accepting", |status| status["listeners"][0]["state"] == "Accepting");
    assert_eq!(ebbtide.get("/readyz").status, 200);
    ebbtide.signal(Signal::TERM);
    assert_eq!(running.finish(), Some(0));
}

#[test]
fn a_sigterm_before_the_application_listens_goes_straight_to_it() {
    let (_socket, upstream) = reserved_port();
    let running = Running::start(upstream, &[], "trap 'exit 5' TERM");
    running.hears("up");
    running.ebbtide.signal(Signal::TERM);
    assert_eq!(running.finish(), Some(5));
}

#[test]
fn a_command_that_does_not_exist_says_so() {
    let mut line = vec!["run", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:9"];
    line.extend(QUIET);
    line.extend(["--", "/no/such/application", "argument"]);
    let (status, _, error) = run(&line);
    assert_eq!(status, Some(69));
    assert!(error.contains("can't start `/no/such/application`"), "{error}");
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn orphans_are_reaped_as_process_one() {
    let upstream = echo().to_string();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(program());
    command.args(["run", "--listen", "127.0.0.1:0", "--upstream", &upstream]).args(QUIET);
    // The inner shell leaves a child behind, whose end is then process one's affair.
    let script = format!("trap 'exit 6' TERM; sh -c 'true & sleep 0.05 &'\n{WAIT}");
    command.args(["--", "sh", "-c", &script]);
    let ebbtide = Ebbtide::spawn_with_privileges(Exception::EntersFirst, command);
    ebbtide.says("orphan reaped");
    ebbtide.addr();
    let [inner] = usage::children(ebbtide.pid())[..] else { panic!("unshare starts one process") };
    let is_zombie = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
    };
    ebbtide.until("without zombies", |_| !usage::children(inner).into_iter().any(is_zombie));
    kill_process(Pid::from_raw(inner).expect("a process id"), Signal::TERM).expect("signalled");
    assert_eq!(ebbtide.finish().code(), Some(6));
}
