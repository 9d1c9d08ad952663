//! `ebbtide status`: the proxy's state, for people and for scripts.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;

use super::client::Target;
use super::drain::deadline;
use super::{Exit, Failure};
use crate::api::report::Report;

/// Between two looks with --watch.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Show what a running proxy does
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,

    /// Look again every second, until the proxy is gone
    #[arg(long)]
    watch: bool,

    /// Print the report's JSON, a line each time
    #[arg(long)]
    json: bool,
}

/// Shows the status, once or again and again.
///
/// # Errors
/// Exit 69 when there is no proxy.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let remote = args.target.remote()?;
    let mut report = remote.status().await?;
    loop {
        let text = if args.json {
            serde_json::to_string(&report).map_err(Failure::bug)?
        } else {
            let clear = if args.watch && stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            format!("{clear}{}", table(&report))
        };
        if writeln!(stdout(), "{text}").is_err() || !args.watch {
            // A reader that has seen enough is no error.
            return Ok(Exit::Done);
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
        report = remote.status().await?;
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    let name = match report.identity.namespace.as_str() {
        "" => report.identity.pod_name.clone(),
        namespace => format!("{namespace}/{}", report.identity.pod_name),
    };
    let classes: Vec<String> = report
        .by_class
        .iter()
        .filter(|(_, open)| **open > 0)
        .map(|(class, open)| format!("{open} {class}"))
        .collect();
    let listeners: Vec<String> = report
        .listeners
        .iter()
        .map(|listener| format!("{}:{} {}", listener.address, listener.port, listener.state))
        .collect();
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("proxy", name);
    row(
        "phase",
        match &report.reason {
            Some(reason) => format!("{} (by {reason})", report.phase),
            None => report.phase.clone(),
        },
    );
    if report.drain_deadline.is_some() {
        row("deadline", deadline(report));
    }
    row(
        "connections",
        format!(
            "{} open, {} blocking",
            report.active_connections, report.drain_blocking_connections
        ),
    );
    if !classes.is_empty() {
        row("classes", classes.join(", "));
    }
    row("oldest", format!("{} s", report.oldest_connection_seconds));
    row("force-closed", report.forced_closes.to_string());
    row("rejected", report.rejected.to_string());
    row("listeners", listeners.join("\n"));
    table
}
