//! The program: parses, runs, prints the error once, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    match ebbtide::command::main(std::env::args_os()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("ebbtide: {failure}");
            failure.exit.into()
        }
    }
}
