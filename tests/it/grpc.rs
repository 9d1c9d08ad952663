//! gRPC through a drain, with grpcio on both sides.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::peers::Peer;
use crate::support::{Ebbtide, free_port};

/// Twenty streams and four callers, while the first of two proxies leaves.
fn no_call_fails(protocol: &str, drain_delay: &str) {
    let server = Peer::grpc_server();
    // Dropped after the proxies: a test that fails shows these with their clients.
    let mut client;
    let proxy = |listen: &str| {
        let mut args = vec!["--listen", listen, "--drain-delay", drain_delay];
        args.extend(["--quiet-period", "0", "--settled-for", "0", "--settle-period", "100ms"]);
        args.extend(["--protocol", protocol]);
        Ebbtide::proxy(&server.upstream, &args)
    };
    let leaving = proxy("127.0.0.1:0");
    let elsewhere = format!("127.0.0.1:{}", free_port());
    client = Peer::grpc_clients(&[leaving.addr().to_string(), elsewhere.clone()]);
    assert_eq!(client.line(), "ready");
    let status = leaving.until("all of it", |status| status["byClass"]["http2"] == 8);
    assert!(status["activeStreams"].as_u64() >= Some(20), "{status}");
    // Only now: a client that waits for one address for 250 ms tries the other as well (RFC 8305).
    let staying = proxy(&elsewhere);
    staying.addr();

    leaving.signal(Signal::TERM);
    leaving.says("listener closed");
    staying.until("the callers", |status| status["byClass"]["http2"] == 4);
    let status = leaving.until("the streams alone", |status| {
        status["drainBlockingConnections"] == 4 && status["activeStreams"] == 20
    });
    assert_eq!(status["phase"], "Draining", "{status}");
    client.say("that is enough");
    let report = client.json();
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
