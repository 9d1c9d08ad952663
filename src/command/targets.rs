//! `ebbtide targets`: a controller's fleet in a terminal.

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use hyper::{StatusCode, Uri};
use serde::de::DeserializeOwned;

use super::duration::Span;
use super::{Exit, Failure};
use crate::api::client::{Bearer, Call, Client};
use crate::api::files;
use crate::api::report::{BalancerState, Directive};
use crate::controller::TargetView;

/// As much as a proxy reads of its own: a service account's token is about one kilobyte.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// Between two looks with --watch: a large fleet's list is megabytes.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// For a large fleet's list, over a slow line.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Fifty thousand targets, listed.
const MAX_LIST_BYTES: usize = 64 * 1024 * 1024;

/// Show the targets of a controller, those first that someone should look at
///
/// `drain` and `undrain` ask one of them.
#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_subcommand = true)]
pub struct Args {
    #[command(flatten)]
    target: Access,

    #[command(subcommand)]
    wish: Option<Wish>,

    /// Only this target (its id, its pod, or namespace/pod), or those of this service (or
    /// namespace/service)
    #[arg(value_name = "SERVICE|TARGET")]
    name: Option<String>,

    /// Look again every two seconds, also after the controller was away
    #[arg(long)]
    watch: bool,

    /// How it is printed; json is a line each time
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Wish {
    /// Ask a target to drain. It hears it with its next report, and may be let serve again
    Drain(Whom),
    /// Ask a target that drains to serve again, unless a signal told it to leave
    Undrain(Whom),
}

#[derive(Clone, Debug, clap::Args)]
struct Whom {
    /// Its id, its pod, or namespace/pod
    target: String,
}

/// Where the controller is, and what lets us in.
#[derive(Clone, Debug, clap::Args)]
struct Access {
    /// The controller's URL
    #[arg(
        long,
        global = true,
        env = "EBBTIDE_CONTROLLER",
        value_name = "URL",
        default_value = "http://127.0.0.1:17710"
    )]
    controller: Uri,

    /// File with the token that the controller asks operators for
    #[arg(long, visible_alias = "token-file", global = true, value_name = "FILE")]
    controller_token_file: Option<PathBuf>,

    /// PEM file with the certificates that may vouch for an https controller [default: the system's]
    #[arg(long, visible_alias = "ca", global = true, value_name = "FILE")]
    controller_ca: Option<PathBuf>,
}

/// A controller, as an operator asks it.
struct Remote {
    client: Client,
    bearer: Option<Bearer>,
}

impl Access {
    fn remote(&self) -> Result<Remote, Failure> {
        let client =
            Client::new(&self.controller, self.controller_ca.as_deref()).map_err(|error| {
                Failure::usage(error.naming("--controller-ca")).context("--controller")
            })?;
        let bearer = match &self.controller_token_file {
            None => None,
            Some(path) => {
                let context = || format!("--controller-token-file {}", path.display());
                let token = files::read_text(path, MAX_TOKEN_BYTES)
                    .map_err(|error| Failure::usage(error).context(context()))?;
                let bearer = Bearer::new(token.trim())
                    .ok_or_else(|| Failure::usage("holds no token").context(context()))?;
                Some(bearer)
            }
        };
        Ok(Remote { client, bearer })
    }
}

impl Remote {
    async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        let call = call.bearer(self.bearer.clone());
        let server = self.client.server();
        let reply = self.client.send(call.timeout(ANSWER_TIMEOUT)).await.map_err(|error| {
            let advice = if error.is_nobody_there() {
                "no controller there; is it running, and is --controller (EBBTIDE_CONTROLLER) its URL?"
            } else {
                "the controller does not answer"
            };
            Failure::unavailable(error).context(format!("{server}: {advice}"))
        })?;
        match reply.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let advice = "give --controller-token-file FILE with an operator's token";
                Err(Failure::unavailable(reply.excerpt()).context(format!("{server}: {advice}")))
            }
            status if !status.is_success() => {
                let said = match reply.excerpt() {
                    said if said.is_empty() => status.to_string(),
                    said => said,
                };
                Err(Failure::unavailable(said).context(server))
            }
            _ => reply.json().map_err(|error| {
                let what = "what answers there is no Ebbtide controller of this version";
                Failure::unavailable(error).context(format!("{server}: {what}"))
            }),
        }
    }

    async fn list(&self) -> Result<Vec<TargetView>, Failure> {
        let mut targets: Vec<TargetView> =
            self.ask(Call::get("/v1/targets").max_bytes(MAX_LIST_BYTES)).await?;
        targets.sort_by_cached_key(|it| (urgency(it), it.id.clone()));
        Ok(targets)
    }
}

/// Shows the targets, once or again and again, or asks one.
///
/// # Errors
/// Exit 64 for a file or a URL that can't be used, 69 when the controller is not there, refuses, or knows
/// no such target.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let remote = args.target.remote()?;
    match &args.wish {
        Some(Wish::Drain(whom)) => return wish(&remote, whom, Directive::Drain).await,
        Some(Wish::Undrain(whom)) => return wish(&remote, whom, Directive::Undrain).await,
        None => {}
    }
    let mut first = true;
    loop {
        let looked = remote.list().await.and_then(|targets| chosen(targets, args.name.as_deref()));
        let targets = match looked {
            Ok(targets) => targets,
            // Whoever watches a fleet wants to see it come back.
            Err(failure) if args.watch && !first => {
                eprintln!("{failure}");
                tokio::time::sleep(WATCH_INTERVAL).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        first = false;
        let text = match args.output {
            Output::Json => serde_json::to_string(&targets).map_err(Failure::bug)?,
            Output::Table => {
                let clear = if args.watch && stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
                format!("{clear}{}\n{}", summary(&targets), table(&targets))
            }
        };
        if writeln!(stdout(), "{text}").is_err() || !args.watch {
            // A reader that has seen enough is no error.
            return Ok(Exit::Done);
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

async fn wish(remote: &Remote, whom: &Whom, directive: Directive) -> Result<Exit, Failure> {
    let mut found = remote.list().await?;
    found.retain(|it| is_target(it, &whom.target));
    let id = match found.as_slice() {
        [] => return Err(unknown("target", &whom.target)),
        [one] => &one.id,
        [one, ..] => {
            let count = found.len();
            return Err(Failure::usage(format!(
                "{count} targets are called `{}`; give the id of one, such as {}",
                whom.target, one.id
            )));
        }
    };
    let verb = if directive == Directive::Drain { "drain" } else { "undrain" };
    let asked: TargetView = remote.ask(Call::post(format!("/v1/targets/{id}/{verb}"))).await?;
    match asked.directive {
        Some(_) => println!("asked {} to {verb}; it hears it with its next report", name(&asked)),
        None => println!("nothing to ask: {} is {}", name(&asked), clean(&asked.report.phase)),
    }
    Ok(Exit::Done)
}

fn chosen(mut targets: Vec<TargetView>, name: Option<&str>) -> Result<Vec<TargetView>, Failure> {
    let Some(name) = name else { return Ok(targets) };
    targets.retain(|it| {
        is_target(it, name) || is_called(&it.report.identity.namespace, &it.service, name)
    });
    if targets.is_empty() { Err(unknown("target and no service", name)) } else { Ok(targets) }
}

fn unknown(what: &str, name: &str) -> Failure {
    Failure::unavailable(format!("no {what} is called `{name}`; `ebbtide targets` lists them"))
}

fn is_target(target: &TargetView, name: &str) -> bool {
    let identity = &target.report.identity;
    target.id == name || is_called(&identity.namespace, &identity.pod_name, name)
}

fn is_called(namespace: &str, own: &str, name: &str) -> bool {
    own == name || name.split_once('/') == Some((namespace, own))
}

/// What someone should look at first is least.
fn urgency(target: &TargetView) -> (u8, u8) {
    let report = &target.report;
    let attention = match () {
        () if target.lost || target.trouble.is_some() || report.forced_closes > 0 => 0,
        () if target.waiting || ["hold", "awaitsApplication"].contains(&&*target.goal) => 1,
        () => 2,
    };
    let phases = ["Closing", "Draining", "LameDuck", "Serving", "Drained"];
    let phase = phases.iter().position(|it| *it == report.phase).unwrap_or(phases.len());
    (attention, u8::try_from(phase).unwrap_or(u8::MAX))
}

/// Words of others, without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { '\u{fffd}' } else { it }).collect()
}

fn name(target: &TargetView) -> String {
    let identity = &target.report.identity;
    match identity.namespace.as_str() {
        "" => clean(&identity.pod_name),
        namespace => clean(&format!("{namespace}/{}", identity.pod_name)),
    }
}

fn summary(targets: &[TargetView]) -> String {
    let leaving = |it: &&TargetView| !["Serving", "Drained"].contains(&it.report.phase.as_str());
    let remaining: u64 =
        targets.iter().filter(leaving).map(|it| it.report.drain_blocking_connections).sum();
    let forced: u64 = targets.iter().map(|it| it.report.forced_closes).sum();
    let count = |is: &dyn Fn(&TargetView) -> bool| targets.iter().filter(|it| is(it)).count();
    format!(
        "{} targets, {} leaving with {remaining} connections, {forced} force-closed, {} lost, {} with \
         trouble at the balancer",
        targets.len(),
        targets.iter().filter(leaving).count(),
        count(&|it| it.lost),
        count(&|it| it.trouble.is_some()),
    )
}

fn table(targets: &[TargetView]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header([
        "target",
        "service",
        "phase",
        "remaining",
        "by class",
        "oldest s",
        "deadline",
        "balancer",
        "attention",
    ]);
    for target in targets {
        let report = &target.report;
        let classes: Vec<String> = report
            .by_class
            .iter()
            .filter(|(_, open)| **open > 0)
            .map(|(class, open)| format!("{open} {class}"))
            .collect();
        table.add_row([
            name(target),
            clean(&target.service),
            clean(&report.phase),
            report.drain_blocking_connections.to_string(),
            clean(&classes.join(", ")),
            report.oldest_connection_seconds.to_string(),
            deadline(target),
            balancer(target),
            attention(target),
        ]);
    }
    table
}

fn deadline(target: &TargetView) -> String {
    match target.deadline_in_seconds {
        None => String::new(),
        Some(left) if left <= 0.0 => "passed".to_owned(),
        Some(left) => {
            let left = Duration::try_from_secs_f64(left.ceil()).unwrap_or(Duration::MAX);
            format!("in {}", Span(left))
        }
    }
}

/// What the balancer has applied, and what it should.
fn balancer(target: &TargetView) -> String {
    let applied = match target.balancer {
        BalancerState::Pending => "pending",
        BalancerState::WeightZero => "weightZero",
        BalancerState::Deregistered => "deregistered",
    };
    match target.goal.as_str() {
        "registered" if target.balancer == BalancerState::Pending => "registered".to_owned(),
        goal if goal == applied => applied.to_owned(),
        goal => clean(&format!("{applied} -> {goal}")),
    }
}

fn attention(target: &TargetView) -> String {
    let mut marks = Vec::new();
    if target.lost {
        marks.push(format!("lost, silent for {:.0} s", target.age_seconds));
    }
    if let Some(trouble) = &target.trouble {
        let failures = trouble.failures;
        marks.push(clean(&format!("{} ({failures}): {}", trouble.kind, trouble.message)));
    }
    if target.report.forced_closes > 0 {
        marks.push(format!("{} force-closed", target.report.forced_closes));
    }
    if target.goal == "hold" {
        marks.push("left as it is: silent, and nobody can tell that it is gone".to_owned());
    }
    if target.goal == "awaitsApplication" {
        marks.push("its application takes no connections yet".to_owned());
    }
    if target.waiting {
        marks.push("waits: enough others of its service drain".to_owned());
    }
    match target.directive {
        Some(Directive::Drain) => marks.push("asked to drain".to_owned()),
        Some(Directive::Undrain) => marks.push("asked to serve again".to_owned()),
        _ => {}
    }
    marks.join("\n")
}
