//! `ebbtide run` and the application: its last bytes, its process group, its port, its terminal.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::process::program;
use crate::support::{Directory, Ebbtide, PATIENCE, connect, echo, exchange, expect_end};

const QUIET: [&str; 10] = [
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
];

/// Serves one connection and no more: answers with so many bytes, closes, and exits with status 3.
const ONE_SHOT: &str = r#"
import socket, sys
where, count = sys.argv[1], int(sys.argv[2])
if where.startswith("/"):
    server = socket.socket(socket.AF_UNIX)
    server.bind(where)
else:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", int(where)))
server.listen()
connection, _ = server.accept()
server.close()
request = connection.recv(65536)
assert request.startswith(b"GET "), request
head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count
connection.sendall(head + b"x" * count)
connection.close()
sys.exit(3)
"#;

/// A free port that nobody else is given meanwhile: the kernel hands out others.
fn port() -> u16 {
    crate::support::free_port()
}

fn run_one_shot(upstream: &str, place: &str, bytes: usize, args: &[&str]) -> Ebbtide {
    let bytes = bytes.to_string();
    let mut line = vec!["run", "--listen", "127.0.0.1:0", "--upstream", upstream];
    line.extend(QUIET);
    line.extend(args);
    line.extend(["--", "python3", "-c", ONE_SHOT, place, &bytes]);
    Ebbtide::start(&line)
}

/// A client whose kernel takes little: most of an answer stays on its way.
fn narrow(addr: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(&addr.into()).expect("connected");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("taken");
}

/// The application serves one connection, so that a look at its port by a connection would be its last.
#[test]
fn an_answer_outlives_the_application_that_gave_it() {
    const BYTES: usize = 500_000;
    let directory = Directory::new();
    let path = directory.path().join("app.sock").display().to_string();
    let port = port().to_string();
    for (upstream, place) in [(format!("127.0.0.1:{port}"), &port), (format!("unix:{path}"), &path)]
    {
        for protocol in ["auto", "tcp", "http1"] {
            let _ = std::fs::remove_file(&path);
            let ebbtide = run_one_shot(&upstream, place, BYTES, &["--protocol", protocol]);
            let mut client = narrow(ebbtide.addr());
            ask(&mut client);
            let ended =
                ebbtide.says("the application has ended: what it has sent is still delivered");
            assert_eq!(ended["status"], 3);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).expect("a FIN, no reset");
            let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
            assert_eq!(answer.len() - head, BYTES, "{upstream} {protocol}");
            drop(client);
            let finished = ebbtide.finish();
            assert_eq!(finished.code(), Some(3));
            assert!(finished.lines("connection force-closed by the drain").is_empty());
            assert_eq!(finished.lines("drained")[0]["forced"], 0);
        }
    }
}

#[test]
fn a_client_that_takes_nothing_holds_the_end_up_for_a_bounded_time() {
    // More than the buffers on the way hold.
    const BYTES: usize = 64 * 1024 * 1024;
    let port = port().to_string();
    let upstream = format!("127.0.0.1:{port}");
    // The application ends only when all is sent, so this one is killed amid it.
    let ebbtide = run_one_shot(&upstream, &port, BYTES, &["--stop-timeout", "300ms"]);
    let child = ebbtide.says("application started")["pid"].as_i64().expect("a process id");
    let mut client = narrow(ebbtide.addr());
    ask(&mut client);
    let mut some = [0; 1024];
    client.read_exact(&mut some).expect("it has begun");
    let child = rustix::process::Pid::from_raw(child.try_into().expect("small")).expect("one");
    rustix::process::kill_process(child, Signal::KILL).expect("killed");
    let finished = ebbtide.finish();
    assert_eq!(finished.code(), Some(128 + 9));
    let forced = finished.lines("connection force-closed by the drain");
    assert_eq!(forced.len(), 1, "who lost something is counted");
    assert_eq!(forced[0]["forced"], "reset");
}

/// A client that has all it is owed, and keeps its connection, was not cut.
#[test]
fn a_client_that_stays_after_the_end_is_not_counted_as_forced() {
    let port = port().to_string();
    let upstream = format!("127.0.0.1:{port}");
    let ebbtide =
        run_one_shot(&upstream, &port, 100, &["--stop-timeout", "200ms", "--protocol", "tcp"]);
    let mut client = connect(ebbtide.addr());
    ask(&mut client);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("a FIN, no reset");
    assert!(answer.ends_with(b"xxx"));
    let finished = ebbtide.finish();
    assert_eq!(finished.code(), Some(3));
    assert_eq!(finished.lines("drained")[0]["forced"], 0);
    drop(client);
}

fn run_script(args: &[&str], script: &str) -> Ebbtide {
    let upstream = echo().to_string();
    let mut line = vec!["run", "--listen", "127.0.0.1:0", "--upstream", &upstream];
    line.extend(QUIET);
    line.extend(args);
    line.extend(["--", "sh", "-c", script]);
    Ebbtide::start(&line)
}

fn hears(ebbtide: &Ebbtide, text: &str) {
    ebbtide.line(text, |line| line == &Value::from(text));
}

/// A shell that starts something and waits for it passes no signal on.
#[test]
fn the_stop_signal_reaches_what_a_shell_has_started() {
    let inner = "(trap 'echo told >&2; sleep 0.2; echo done >&2; exit 0' TERM; echo up >&2; \
                 while :; do sleep 0.02; done); echo never >&2";
    let ebbtide = run_script(&[], inner);
    hears(&ebbtide, "up");
    let mut client = connect(ebbtide.addr());
    exchange(&mut client, b"served");
    ebbtide.signal(Signal::TERM);
    // Not before the drain is over.
    exchange(&mut client, b"still served");
    drop(client);
    let finished = ebbtide.finish();
    // It was waited for although the shell had ended: it finished what it does on the signal.
    for text in ["told", "done"] {
        assert!(finished.log.contains(&Value::from(text)), "no {text}");
    }
    assert!(!finished.log.contains(&Value::from("never")));
    assert_eq!(finished.code(), Some(128 + 15), "the shell's own status");
}

#[test]
fn what_a_shell_has_started_and_does_not_stop_is_killed() {
    for script in [
        // The shell waits for it.
        "(trap '' TERM; echo $$ >&2; echo up >&2; while :; do sleep 0.02; done); echo never >&2",
        // The shell leaves it behind.
        "(trap '' TERM; echo up >&2; while :; do sleep 0.02; done) & trap 'exit 0' TERM; wait",
    ] {
        let ebbtide = run_script(&["--stop-timeout", "300ms"], script);
        hears(&ebbtide, "up");
        let group = ebbtide.says("application started")["pid"].as_i64().expect("a process id");
        ebbtide.addr();
        ebbtide.signal(Signal::TERM);
        ebbtide.says("the application did not stop within --stop-timeout: killing it");
        ebbtide.finish();
        let group = rustix::process::Pid::from_raw(group.try_into().expect("small")).expect("one");
        assert!(rustix::process::test_kill_process_group(group).is_err(), "somebody is left");
    }
}

/// Opens a terminal, runs a command line on it as a shell without job control would, types, and tells
/// whether the terminal was given back.
const ON_A_TERMINAL: &str = r#"
import os, pty, sys
pid, master = pty.fork()
if pid == 0:
    # The session's leader: it must find itself in the foreground again.
    import subprocess
    code = subprocess.call(sys.argv[1:])
    back = os.tcgetpgrp(0) == os.getpgrp()
    print("code", code, "back", back, flush=True)
    os._exit(0)
seen = b""
typed = False
while True:
    try:
        read = os.read(master, 4096)
    except OSError:
        break
    if not read:
        break
    seen += read
    if b"ready" in seen and not typed:
        typed = True
        os.write(master, b"hello\n")
os.waitpid(pid, 0)
sys.stdout.write(seen.decode())
"#;

#[test]
fn an_application_that_reads_the_terminal_gets_it_and_gives_it_back() {
    let upstream = echo().to_string();
    let mut command = Command::new("python3");
    command.args(["-c", ON_A_TERMINAL]).arg(program());
    command.args(["run", "--listen", "127.0.0.1:0", "--upstream", &upstream]).args(QUIET);
    // `stty` sets the terminal's modes, which stops a background process too (SIGTTOU).
    command.args(["--", "sh", "-c", "stty sane; echo ready; read line; echo got $line; exit 4"]);
    let output = command.stdin(Stdio::null()).output().expect("python3 starts");
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(seen.contains("got hello"), "{seen}");
    assert!(seen.contains("code 4 back True"), "{seen}");
}

/// Somebody at a terminal still begins a drain by Ctrl-C, where the application does not ask for it.
#[test]
fn an_interrupt_is_for_the_proxy_while_the_application_has_no_terminal() {
    let ebbtide = run_script(&[], "trap 'exit 5' TERM; echo up >&2; while :; do sleep 0.02; done");
    hears(&ebbtide, "up");
    let mut client = connect(ebbtide.addr());
    exchange(&mut client, b"served");
    ebbtide.signal(Signal::INT);
    ebbtide.says("listener closed");
    exchange(&mut client, b"still served");
    client.shutdown(std::net::Shutdown::Write).expect("a FIN");
    expect_end(&mut client);
    drop(client);
    assert_eq!(ebbtide.finish().code(), Some(5));
}
