//! The commands: one file each, its flags and its `run`.

mod access;
mod check;
mod client;
mod connections;
mod controller;
mod demo;
mod drain;
mod duration;
mod exit;
mod file;
mod generate;
mod options;
mod port;
mod proxy;
mod reach;
mod run;
mod settings;
mod sidecar;
mod standing;
mod status;
mod targets;
mod undelivered;
mod unset;
mod upstream;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use check::check;
pub use exit::{Exit, Failure};

use crate::telemetry::{self, LogFormat};

/// The sidecar proxy that lets a pod's connections ebb away instead of breaking.
#[derive(Debug, Parser)]
#[command(name = "ebbtide", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// How log lines are written
    #[arg(long, value_enum, global = true, env = "EBBTIDE_LOG_FORMAT", default_value = "auto")]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug, or for example ebbtide::drain=debug,warn
    /// [default: info; for the demo, whose screen it shares: error]
    #[arg(long, global = true, env = "EBBTIDE_LOG", value_name = "FILTER")]
    log: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Proxy(Box<proxy::Args>),
    Run(Box<run::Args>),
    Drain(drain::Args),
    Undrain(drain::UndrainArgs),
    Status(status::Args),
    Connections(connections::Args),
    Controller(Box<controller::Args>),
    Targets(targets::Args),
    Demo(demo::Args),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
}

impl Command {
    fn default_log(&self) -> &'static str {
        match self {
            Command::Demo(_) => "error",
            _ => "info",
        }
    }
}

/// Parses and runs a command line, the program's name first.
///
/// # Errors
/// Whatever the command failed with; the caller prints it once.
pub fn main(line: impl IntoIterator<Item = OsString>) -> Result<Exit, Failure> {
    crate::net::options::give_memory_back();
    let parsed = unset::without_empty_variables(Cli::command())
        .try_get_matches_from(line)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // To standard output for --help, to standard error for a mistake; nobody to tell if not.
            let _ = error.print();
            return Ok(if error.use_stderr() { Exit::Usage } else { Exit::Done });
        }
    };
    let filter = cli.log.as_deref().unwrap_or(cli.command.default_log());
    let log = telemetry::init(cli.log_format, filter).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // For as long as the process: a look-up in one of its threads must not hold up the exit, and a
    // worker's timer must not find itself without it.
    let runtime = Box::leak(Box::new(runtime.map_err(Failure::unavailable)?));
    let exit = runtime.block_on(async {
        match cli.command {
            Command::Proxy(args) => proxy::run(*args).await,
            Command::Run(args) => run::run(*args).await,
            Command::Drain(args) => drain::run(args).await,
            Command::Undrain(args) => drain::undrain(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Connections(args) => connections::run(args).await,
            Command::Controller(args) => controller::run(*args).await,
            Command::Targets(args) => targets::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Completions(args) => generate::completions(&args),
            Command::Man(args) => generate::man(&args),
        }
    });
    drop(log);
    exit
}
