//! HTTP/2 through the proxy, and what a drain tells it: real clients and servers, and frames by hand.

mod application;
mod farewell;
mod late;
mod load;
mod nghttpx;
mod upgrade;

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{Ebbtide, Finished, QUICK};

/// A proxy that drains quickly.
fn proxy(upstream: SocketAddr, protocol: &str, more: &[&str]) -> Ebbtide {
    let mut args = QUICK.to_vec();
    args.extend(["--protocol", protocol]);
    args.extend(more);
    Ebbtide::proxy(&upstream.to_string(), &args)
}

fn blocking(proxy: &Ebbtide, count: u64) -> Value {
    proxy.until(&format!("{count} blocking"), |status| status["drainBlockingConnections"] == count)
}

/// No connection was made to leave, and each one ended as it should.
fn nothing_was_forced(finished: &Finished) {
    assert_eq!(finished.code(), Some(0), "{:#?}", finished.log);
    for line in finished.lines("connection ended") {
        assert!(line["error"].is_null() && line["forced"].is_null(), "{line}");
        assert!(line["class"] == "http2" || line["class"] == "healthCheck", "{line}");
    }
}
