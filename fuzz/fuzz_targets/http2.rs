//! The HTTP/2 tracker under a relay without sockets; the acts are told in `protocol::http2::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ebbtide::protocol::http2::fuzz::run(data));
