//! What the command line says.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Compares Ebbtide with other proxies, on the same work, side by side.
///
/// Each peer has a core of its own; the application and the load have another one. The peers take turns
/// on each work, round by round (A B C, B C A, …), so that what else happens on the machine falls on all
/// alike. The primary figure is the CPU time of the proxy's processes per unit of work, as a ratio within
/// each round.
///
/// Quiet machine, nothing else on it: a whole run takes about half an hour. A round during which others
/// used much of the machine is measured again, at most twice, and says so in the results.
#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "they are flags")]
#[command(name = "cargo bench --bench compare --", bin_name = "cargo bench --bench compare --")]
pub(super) struct Options {
    /// One short turn of everything, to see that all of it works; its figures mean nothing. Fails if
    /// anything that is there did not do its work
    #[arg(long)]
    pub(super) brief: bool,

    /// How often each peer has its turn on each work
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) rounds: usize,

    /// How often each peer is drained in each way, which takes most of a run [default: as --rounds]
    #[arg(long, value_name = "N")]
    pub(super) drains: Option<usize>,

    /// How long a turn is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(super) seconds: f64,

    /// Only these works; --list tells their names
    #[arg(long, value_name = "WORK", value_delimiter = ',')]
    pub(super) only: Vec<String>,

    /// Only these peers; --list tells their names
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub(super) peers: Vec<String>,

    /// Ebbtide a second time, as `ebbtide-with`, with this argument; may be given several times
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub(super) with: Vec<String>,

    /// Another build of Ebbtide beside it, as `ebbtide-other`
    #[arg(long, value_name = "PROGRAM")]
    pub(super) other: Option<PathBuf>,

    /// The core of the proxy, and that of the application and the load [default: the first two]
    #[arg(long, value_name = "CORE", num_args = 2, value_delimiter = ',')]
    pub(super) cores: Vec<usize>,

    /// Where results.json, results.md and the charts go [default: target/compare]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,

    /// Write them to docs/performance.md and docs/performance/ too
    #[arg(long)]
    pub(super) publish: bool,

    /// Only say which peers and works there are
    #[arg(long)]
    pub(super) list: bool,

    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,

    #[command(subcommand)]
    pub(super) part: Option<Part>,
}

/// What this program is when it starts itself.
#[derive(Subcommand)]
#[command(hide = true)]
pub(super) enum Part {
    /// The application
    #[command(hide = true)]
    Application,
    /// The smallest relay
    #[command(hide = true)]
    Floor {
        listen: std::net::SocketAddr,
        upstream: std::net::SocketAddr,
        #[arg(long)]
        splice: bool,
    },
}
