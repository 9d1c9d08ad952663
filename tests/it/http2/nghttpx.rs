//! nghttpx before us: it answers a GOAWAY with RST_STREAM for streams that it had only planned.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::late::lame_duck;
use crate::support::Directory;
use crate::support::frames::{DATA, END_STREAM, Frame, GOAWAY, HIGHEST_STREAM, RST_STREAM, Raw};
use crate::support::free_port;
use crate::support::h2::{Nghttpd, Server};

/// nghttpx as Debian ships it, without TLS: HTTP/2 behind it, before it HTTP/1 and both ways into HTTP/2.
pub struct Nghttpx {
    child: Child,
    pub addr: SocketAddr,
}

impl Nghttpx {
    pub fn before(upstream: SocketAddr) -> Self {
        loop {
            // It can't choose a port itself; one that was taken meanwhile ends it.
            let addr: SocketAddr = ([127, 0, 0, 1], free_port()).into();
            let mut command = Command::new("nghttpx");
            command.args(["--conf=/dev/null", "--log-level=NOTICE", "--workers=1"]);
            command.arg(format!("--frontend=127.0.0.1,{};no-tls", addr.port()));
            command.arg(format!("--backend=127.0.0.1,{};;proto=h2", upstream.port()));
            command.stderr(Stdio::piped()).stdin(Stdio::null());
            let mut child = command.spawn().expect("nghttpx, of Debian's nghttp2-proxy");
            let log = BufReader::new(child.stderr.take().expect("its log"));
            let mut lines = log.lines();
            let listens = |line: &String| line.contains("istening on");
            if lines.by_ref().map_while(Result::ok).any(|line| listens(&line)) {
                // Read on, so that it never waits for room.
                std::thread::spawn(move || lines.for_each(drop));
                return Nghttpx { child, addr };
            }
            child.wait().expect("a child of ours");
        }
    }
}

impl Drop for Nghttpx {
    fn drop(&mut self) {
        // Its master ends its worker when it is told so.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// As many drains as `EBBTIDE_NGHTTPX_DRAINS` says, and undrains, while clients go on asking.
#[test]
fn no_request_is_lost_behind_nghttpx_in_drains_that_are_undone() {
    let drains =
        std::env::var("EBBTIDE_NGHTTPX_DRAINS").map_or(5, |n| n.parse().expect("a number"));
    let root = Directory::new();
    std::fs::write(root.path().join("file"), vec![b'x'; 2_000]).expect("a file");
    let nghttpd = Nghttpd::start(root.path());
    let proxy = lame_duck(nghttpd.addr, "auto");
    let nghttpx = Nghttpx::before(proxy.addr());
    for _ in 0..drains {
        let mut load = Command::new("h2load");
        load.args(["-c8", "-m16", "-n20000"]).arg(format!("http://{}/file", nghttpx.addr));
        let load = load.stdout(Stdio::piped()).spawn().expect("h2load, of Debian's nghttp2-client");
        proxy.until("load", |status| status["activeStreams"].as_u64() > Some(4));
        assert_eq!(proxy.post("/drain").status, 200);
        let output = load.wait_with_output().expect("h2load");
        let said = String::from_utf8_lossy(&output.stdout);
        let all = "20000 total, 20000 started, 20000 done, 20000 succeeded, 0 failed, 0 errored";
        assert!(said.contains(all) && said.contains("20000 2xx"), "{said}");
        assert_eq!(proxy.post("/undrain").status, 200);
        proxy.until_phase("Serving");
    }
    assert!(!proxy.get("/metrics").body.contains("ebbtide_opaque_total{"), "nothing was opaque");
}

/// What nghttpx does, by hand, before an application that ends the connection for it.
#[test]
fn a_reset_of_a_planned_stream_does_not_reach_the_application() {
    let server = Server::start();
    let proxy = lame_duck(server.addr, "auto");
    let mut client = Raw::client(proxy.addr());
    client.send(&Frame::request(1, "/echo", 0));
    server.until_seen(1);
    assert_eq!(proxy.post("/drain").status, 200);
    let ping = client.until_ping();
    assert_eq!(client.last_streams(), [HIGHEST_STREAM]);
    for stream in [3, 5, 7] {
        client.send(&Frame::new(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    client.answer_ping(&ping);
    client.send(&Frame::new(DATA, END_STREAM, 1, b"the rest"));
    assert_eq!(client.until_end_of(1), None, "the stream ends in order");
    client.until_end();
    assert_eq!(client.last_streams(), [HIGHEST_STREAM, 1]);
    assert!(
        !client.heard.iter().any(|frame| frame.kind == GOAWAY && frame.payload[4..8] != [0; 4])
    );
}
