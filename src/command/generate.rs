//! `ebbtide completions` and `ebbtide man`: made from the command line's own definition.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Exit, Failure};

/// Print a shell's completions: ebbtide completions bash > /etc/bash_completion.d/ebbtide
#[derive(Clone, Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the man page, or write one for each command: ebbtide man --dir /usr/local/share/man/man1
#[derive(Clone, Debug, clap::Args)]
pub struct ManArgs {
    /// Write ebbtide.1, ebbtide-proxy.1, … into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints completions.
///
/// # Errors
/// When standard output takes no more.
pub fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ebbtide", &mut text);
    print(&text)
}

/// Prints the man page, or writes all of them.
///
/// # Errors
/// When there is nowhere to write.
pub fn man(args: &ManArgs) -> Result<Exit, Failure> {
    if let Some(dir) = &args.dir {
        clap_mangen::generate_to(Cli::command(), dir)
            .map_err(|error| Failure::usage(error).context(dir.display().to_string()))?;
        return Ok(Exit::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Failure::bug)?;
    print(&page)
}

/// A reader that has seen enough (`| head`) is no error.
fn print(text: &[u8]) -> Result<Exit, Failure> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::unavailable(error)),
        _ => Ok(Exit::Done),
    }
}
