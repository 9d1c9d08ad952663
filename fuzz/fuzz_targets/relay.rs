//! `cargo +nightly fuzz run relay`.
#![no_main]

#[path = "../relay/mod.rs"]
mod relay;

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay::run(data));
