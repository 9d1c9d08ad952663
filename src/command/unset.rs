//! An empty variable is an unset one.
//!
//! A manifest that fills a variable from an optional key leaves it empty, and so does `VARIABLE=` before a
//! command. Neither means an empty address, an empty list or a pattern that matches everything.

use clap::Command;
use clap::builder::Resettable;

/// The command line whose options ignore their environment variable where that is empty.
pub(super) fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|option| {
        let is_empty = option
            .get_env()
            .and_then(std::env::var_os)
            .is_some_and(|value| value.as_encoded_bytes().trim_ascii().is_empty());
        if is_empty { option.env(Resettable::Reset) } else { option }
    });
    command.mut_subcommands(without_empty_variables)
}
