//! gRPC through a drain, with grpcio on both sides.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::Ebbtide;

/// A Python process that speaks gRPC, killed when dropped.
struct Peer {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Peer {
    fn start(args: &[String]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/grpc_peer.py");
        let mut command = Command::new("python3");
        command.arg(script).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3, with tests/requirements.txt installed");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        Peer { child, said }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a line");
        assert!(!line.is_empty(), "the peer ended; is tests/requirements.txt installed?");
        line.trim_end().to_owned()
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().expect("a pipe"), "{line}").expect("told");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Gone already, if it was a client.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Twenty streams and four callers, while the first of two proxies leaves.
fn no_call_fails(protocol: &str, drain_delay: &str) {
    let mut server = Peer::start(&["server".to_owned()]);
    let port = server.line().parse().expect("a port");
    let application = SocketAddr::from(([127, 0, 0, 1], port)).to_string();
    let start = || {
        let mut args = vec!["--drain-delay", drain_delay, "--quiet-period", "0"];
        args.extend(["--settled-for", "0", "--settle-period", "100ms", "--protocol", protocol]);
        Ebbtide::proxy(&application, &args)
    };
    let [leaving, staying] = [start(), start()];
    let addrs = [leaving.addr().to_string(), staying.addr().to_string()];
    let mut client = Peer::start(&["client".to_owned(), addrs[0].clone(), addrs[1].clone()]);
    assert_eq!(client.line(), "ready");
    let status = leaving.until("all of it", |status| status["byClass"]["http2"] == 8);
    assert!(status["activeStreams"].as_u64() >= Some(20), "{status}");

    leaving.signal(Signal::TERM);
    leaving.says("listener closed");
    staying.until("the callers", |status| status["byClass"]["http2"] == 4);
    let status = leaving.until("the streams alone", |status| {
        status["drainBlockingConnections"] == 4 && status["activeStreams"] == 20
    });
    assert_eq!(status["phase"], "Draining", "{status}");
    client.tell("that is enough");
    let report: Value = serde_json::from_str(&client.line()).expect("a report");
    println!("{protocol}, drain delay {drain_delay}: {report}");
    assert_eq!(report["failures"], Value::Array(Vec::new()), "{report}");
    assert_eq!(report["streamsEnded"], 20, "{report}");

    let finished = leaving.finish();
    assert_eq!(finished.code(), Some(0), "nothing was force-closed");
    assert!(finished.lines("connection ended").len() >= 8);
    for line in finished.lines("connection ended") {
        // grpcio may reset a connection of which it wants nothing any more; the application does not.
        assert_ne!(line["end"], "upstream_broke", "{line}");
    }
}

#[test]
fn no_call_fails_when_a_pod_leaves_at_once() {
    no_call_fails("http2", "0");
}

#[test]
fn no_call_fails_when_a_pod_leaves_after_a_lame_duck() {
    no_call_fails("auto", "1s");
}
