//! The life of a drain on real connections.

use rustix::process::Signal;

use crate::support::{Ebbtide, QUICK, connect, echo, exchange, expect_refused};

#[test]
fn a_stream_goes_on_through_a_drain_and_its_end_is_the_end() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let addr = proxy.addr();
    let mut stream = connect(addr);
    exchange(&mut stream, b"before");
    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    exchange(&mut stream, b"while draining");
    expect_refused(addr);
    drop(stream);
    let finished = proxy.finish();
    assert_eq!(finished.code(), Some(0));
}
