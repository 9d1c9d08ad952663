//! When one side of a connection breaks, the other side still gets every byte that has arrived.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::Command;

use rustix::process::Signal;

use crate::support::application::{random_bytes, reset};
use crate::support::{Directory, Ebbtide, PATIENCE, QUICK, application, connect, open_to_all};

/// As many turns as show a fault that is a race.
const TURNS: usize = 20;
const REFUSAL: &[u8] =
    b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large";

/// Reads the head of a request, refuses it, and closes with the body unread: the kernel sends a reset.
fn refuse(mut stream: impl Read + Write) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    // The client may be gone.
    let _ = stream.write_all(REFUSAL);
}

fn refusing_unix(directory: &Directory) -> String {
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("a listener");
    open_to_all(&path);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            std::thread::spawn(move || refuse(stream));
        }
    });
    format!("unix:{}", path.display())
}

/// Uploads 3 MB with curl and returns what it says of the status, `TURNS` times.
fn uploads(proxy: &Ebbtide, body: &str) -> Vec<String> {
    let url = format!("http://{}/", proxy.addr());
    let upload = |_| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--header", "Expect:", "--output", "/dev/null"]);
        curl.args(["--write-out", "%{http_code}", "--data-binary", body, &url]);
        let output = curl.output().expect("curl");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        String::from_utf8_lossy(&output.stdout).into_owned() + &errors
    };
    (0..TURNS).map(upload).collect()
}

/// Guards: the application's reset overtook its answer, and half of the clients saw a reset.
#[test]
fn a_client_gets_the_early_answer_to_its_upload() {
    let directory = Directory::new();
    let body = format!("@{}", directory.write("body", vec![0; 3_000_000]));
    let over_tcp = application(refuse).to_string();
    for upstream in [over_tcp, refusing_unix(&directory)] {
        for args in [
            &["--protocol", "tcp"][..],
            &["--protocol", "auto"],
            &["--protocol", "http1"],
            &["--protocol", "http1", "--upstream-reuse"],
        ] {
            // A Unix socket's connections are never reused.
            if upstream.starts_with("unix:") && args.contains(&"--upstream-reuse") {
                continue;
            }
            let proxy = Ebbtide::proxy(&upstream, args);
            let seen = uploads(&proxy, &body);
            assert!(seen.iter().all(|seen| seen == "413"), "{upstream} {args:?}: {seen:?}");
        }
    }
}

#[test]
fn a_client_gets_the_early_answer_to_its_upload_in_a_lame_duck_too() {
    let directory = Directory::new();
    let body = format!("@{}", directory.write("body", vec![0; 3_000_000]));
    let upstream = application(refuse).to_string();
    let proxy = Ebbtide::proxy(
        &upstream,
        &["--drain-delay", "20m", "--quiet-period", "0", "--drain-timeout", "30m"],
    );
    assert_eq!(proxy.post("/drain").status, 200);
    let seen = uploads(&proxy, &body);
    assert!(seen.iter().all(|seen| seen == "413"), "{seen:?}");
}

/// A client whose upload is refused while a drain goes on keeps the drain until it has its answer.
#[test]
fn a_drain_waits_for_the_early_answer_to_an_upload() {
    let (proxy, mut client, server) = pair(&QUICK);
    let _ = client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n");
    client.write_all(&[0; 1000]).expect("sent");
    proxy.until("busy", |status| status["drainBlockingConnections"] == 1);
    proxy.signal(Signal::TERM);
    proxy.until_phase("Draining");
    refuse(server);
    let upload = io::copy(&mut io::repeat(0).take(899_000), &mut client);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("the answer and its end");
    assert!(answer.ends_with(b"too large"), "{:?} {upload:?}", String::from_utf8_lossy(&answer));
    drop(client);
    assert_eq!(proxy.finish().code(), Some(0));
}

fn pair(args: &[&str]) -> (Ebbtide, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let upstream = listener.local_addr().expect("its address").to_string();
    let proxy = Ebbtide::proxy(&upstream, args);
    let client = connect(proxy.addr());
    let (server, _) = listener.accept().expect("a connection");
    server.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    (proxy, client, server)
}

/// The client's last bytes reach the application although the client has reset the connection.
#[test]
fn an_application_gets_what_its_client_sent_before_a_reset() {
    for protocol in ["tcp", "auto"] {
        let (_proxy, mut client, mut server) = pair(&["--protocol", protocol]);
        let bytes = random_bytes(3, 200_000);
        let sent = bytes.clone();
        client.write_all(&sent).expect("sent");
        let mut first = [0; 1000];
        server.read_exact(&mut first).expect("the beginning");
        // The client's kernel has had all of it acknowledged: what it resets is the connection alone.
        while unacknowledged(&client) {
            std::thread::yield_now();
        }
        reset(client);
        let mut rest = Vec::new();
        let end = server.read_to_end(&mut rest);
        assert!(rest == bytes[1000..], "{protocol}: {} of {}", rest.len() + 1000, bytes.len());
        assert_eq!(end.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    }
}

/// The application sends, and resets when its kernel has handed everything over.
#[test]
fn a_slow_client_gets_what_its_application_sent_before_a_reset() {
    let (proxy, mut client, mut server) = pair(&["--protocol", "tcp"]);
    let bytes = random_bytes(4, 300_000);
    server.write_all(&bytes).expect("sent");
    while unacknowledged(&server) {
        std::thread::yield_now();
    }
    reset(server);
    proxy.until("seen", |status| status["activeConnections"] == 1);
    let mut all = Vec::new();
    let end = client.read_to_end(&mut all);
    assert!(all == bytes, "{} of {} bytes", all.len(), bytes.len());
    assert_eq!(end.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
}

fn unacknowledged(stream: &TcpStream) -> bool {
    outstanding(stream) > 0
}

/// Bytes that the kernel still has to deliver, as `/proc/net/tcp` shows them.
fn outstanding(stream: &TcpStream) -> u64 {
    let port = |addr: std::net::SocketAddr| format!(":{:04X}", addr.port());
    let local = port(stream.local_addr().expect("an address"));
    let peer = port(stream.peer_addr().expect("an address"));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = lines.find(|line| line[1].ends_with(&local) && line[2].ends_with(&peer));
    let queues = found.expect("an open connection")[4].to_owned();
    u64::from_str_radix(queues.split(':').next().expect("a number"), 16).expect("a number")
}

/// Guards: urgent data vanished, because recv(2) does not show it.
#[test]
fn urgent_data_arrives_in_its_place_both_ways() {
    let (_proxy, mut client, mut server) = pair(&["--protocol", "tcp"]);
    for turn in 0..TURNS {
        send_with_urgent(&client);
        let mut got = [0; 7];
        server.read_exact(&mut got).expect("all of it");
        assert_eq!(&got, b"abcXdef", "turn {turn}: to the application");
        send_with_urgent(&server);
        client.read_exact(&mut got).expect("all of it");
        assert_eq!(&got, b"abcXdef", "turn {turn}: to the client");
    }
}

fn send_with_urgent(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    assert_eq!(socket.send(b"abc").expect("sent"), 3);
    assert_eq!(socket.send_out_of_band(b"X").expect("sent"), 1);
    assert_eq!(socket.send(b"def").expect("sent"), 3);
}
