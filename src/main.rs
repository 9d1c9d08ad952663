//! The program: parses, runs, prints the error once, exits.

use std::process::ExitCode;

/// Idle connections are small things with an alignment of 128 bytes, between which the C library's
/// allocator leaves gaps: docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match ebbtide::command::main(std::env::args_os()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("ebbtide: {failure}");
            failure.exit.into()
        }
    }
}
