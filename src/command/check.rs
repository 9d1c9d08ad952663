//! Whether a command line of a manifest would be understood, without running it.

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

use super::{Cli, Command, Failure};

/// Parses a command line, the program's name first, with `environment` beside it, and looks for
/// contradictions as the command itself would. Starts nothing.
///
/// The process's own `EBBTIDE_…` variables stand behind both, as always.
///
/// # Errors
/// What the command would have failed with, and an `EBBTIDE_…` variable that the command never reads.
pub fn check(
    line: impl IntoIterator<Item = OsString>,
    environment: &[(String, String)],
) -> Result<(), Failure> {
    let line = with_environment(line.into_iter().collect(), environment)?;
    match Cli::try_parse_from(line).map_err(Failure::usage)?.command {
        Command::Proxy(args) => args.settings().map(drop),
        Command::Run(args) => args.settings().map(drop),
        _ => Ok(()),
    }
}

/// The line with each variable as the flag that reads it; what was typed counts more.
fn with_environment(
    mut line: Vec<OsString>,
    environment: &[(String, String)],
) -> Result<Vec<OsString>, Failure> {
    let mut cli = Cli::command();
    cli.build();
    let name = line.get(1).and_then(|name| name.to_str()).unwrap_or_default();
    let Some(command) = cli.find_subcommand(name) else { return Ok(line) };
    let mut flags = Vec::new();
    for (variable, value) in environment.iter().filter(|(name, _)| name.starts_with("EBBTIDE_")) {
        let read = |arg: &&clap::Arg| arg.get_env().is_some_and(|env| env == variable.as_str());
        let flag = command.get_arguments().find(read).and_then(clap::Arg::get_long);
        let Some(flag) = flag else {
            if crate::report::IDENTITY_VARIABLES.contains(&variable.as_str()) {
                continue;
            }
            return Err(Failure::usage(format!("`ebbtide {name}` reads no {variable}")));
        };
        let typed = |arg: &OsString| {
            let text = arg.to_string_lossy();
            text.strip_prefix("--").is_some_and(|text| text.split('=').next() == Some(flag))
        };
        if !line.iter().take_while(|arg| *arg != "--").any(typed) {
            flags.push(OsString::from(format!("--{flag}={value}")));
        }
    }
    line.splice(2..2, flags);
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(line: &str, environment: &[(&str, &str)]) -> Result<(), String> {
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        check(line.split(' ').map(OsString::from), &environment).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    const PROXY: &str = "ebbtide proxy --listen 0.0.0.0:8080 --upstream 127.0.0.1:3000";

    #[test]
    fn a_line_is_read_with_its_environment() {
        assert_eq!(checked(PROXY, &[("EBBTIDE_GRACE_PERIOD", "30")]), Ok(()));
        let error = checked(PROXY, &[("EBBTIDE_GRACE_PERIOD", "15")]).expect_err("no time left");
        assert!(error.contains("leaves no time to drain"), "{error}");
        let run = "ebbtide run --listen 0.0.0.0:8080 --upstream 127.0.0.1:3000 -- app --listen x";
        assert_eq!(checked(run, &[("EBBTIDE_LISTEN", "0.0.0.0:1")]), Ok(()));
    }

    #[test]
    fn what_was_typed_counts_more() {
        assert_eq!(checked(PROXY, &[("EBBTIDE_LISTEN", "0.0.0.0:17701")]), Ok(()));
        let line = "ebbtide proxy --upstream=127.0.0.1:3000";
        let error = checked(line, &[("EBBTIDE_LISTEN", "0.0.0.0:17701")]).expect_err("overlap");
        assert!(error.contains("overlap"), "{error}");
    }

    #[test]
    fn a_variable_that_nothing_reads_is_a_mistake() {
        assert_eq!(checked(PROXY, &[("EBBTIDE_POD_NAME", "a"), ("LANG", "C")]), Ok(()));
        let error = checked(PROXY, &[("EBBTIDE_DRAIN_TIME", "1m")]).expect_err("misspelt");
        assert!(error.contains("EBBTIDE_DRAIN_TIME"), "{error}");
        let error = checked("ebbtide drain --forever", &[]).expect_err("no such flag");
        assert!(error.contains("--forever"), "{error}");
    }
}
