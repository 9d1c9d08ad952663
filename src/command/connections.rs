//! `ebbtide connections`: what is open, and closing one.

use std::io::{Write, stdout};

use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;

use super::client::Target;
use super::{Exit, Failure};
use crate::api::client::Call;
use crate::api::connections::{ConnectionView, Connections};

/// A hundred thousand connections, listed.
const MAX_LIST_BYTES: usize = 64 * 1024 * 1024;

/// List the open connections of a running proxy, oldest first, or close one
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,

    /// Close this connection: FIN to both sides, a reset after two seconds
    #[arg(long, value_name = "ID")]
    close: Option<u64>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists the connections, or closes one.
///
/// # Errors
/// Exit 69 when there is no proxy, or no such connection.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let remote = args.target.remote()?;
    if let Some(id) = args.close {
        let closed: ConnectionView = remote.ask(Call::delete(format!("/connections/{id}"))).await?;
        println!("closing {} from {}", closed.id, closed.peer);
        return Ok(Exit::Done);
    }
    let list: Connections = remote.ask(Call::get("/connections").max_bytes(MAX_LIST_BYTES)).await?;
    let text = if args.json {
        serde_json::to_string(&list).map_err(Failure::bug)?
    } else {
        table(&list).to_string()
    };
    // A reader that has seen enough (`| head`) is no error.
    let _ = writeln!(stdout(), "{text}");
    Ok(Exit::Done)
}

fn table(list: &Connections) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header([
        "id",
        "peer",
        "listener",
        "class",
        "age s",
        "from client",
        "from app",
        "blocks the drain",
    ]);
    for connection in &list.connections {
        let blocks = match (&connection.excluded, connection.leaving) {
            (Some(reason), _) => format!("no: {reason}"),
            (None, _) if let Some(unfinished) = &connection.unfinished => {
                format!("until its client finishes a {unfinished}, or is given up")
            }
            (None, true) => "yes, told to leave".to_owned(),
            (None, false) => "yes".to_owned(),
        };
        table.add_row([
            connection.id.to_string(),
            connection.peer.clone(),
            connection.listener.clone(),
            connection.class.clone(),
            format!("{:.1}", connection.age_seconds),
            connection.from_client_bytes.to_string(),
            connection.from_upstream_bytes.to_string(),
            blocks,
        ]);
    }
    table
}
