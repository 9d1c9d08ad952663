//! How does Ebbtide compare with other proxies, side by side on the same work?
//!
//! `--help` says how to ask, benches/README.md what the answers mean.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bench counts to billions, not to 2^53"
)]
#![expect(clippy::format_push_string, reason = "a page is written once")]
#![expect(
    clippy::disallowed_methods,
    reason = "a bench is a program of its own, with a real clock"
)]

mod application;
mod bench;
mod chart;
#[path = "../../tests/it/support/confine.rs"]
mod confine;
mod drain;
mod floor;
mod http;
mod http2;
mod leave;
mod list;
mod load;
mod machine;
#[path = "../measure/mod.rs"]
mod measure;
mod options;
mod peers;
mod poll;
mod process;
mod publish;
mod results;
mod rounds;
#[path = "../../tests/it/support/seccomp.rs"]
mod seccomp;
mod table;
mod works;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use bench::Bench;
use options::{Options, Part};
use peers::{PEERS, Peer, Role};
use results::Results;
use works::{Task, Work};

/// What `--brief` gives a turn: enough for some units of everything.
const BRIEF_SECONDS: f64 = 0.05;
const BRIEF_CONNECTIONS: usize = 50;

fn main() -> Result<ExitCode, String> {
    let options = Options::parse();
    if options.publish && options.brief {
        return Err("--brief measures nothing that could be published".to_owned());
    }
    let text = |error: std::io::Error| error.to_string();
    match options.part {
        Some(Part::Application) => {
            return application::run().map(|()| ExitCode::SUCCESS).map_err(text);
        }
        Some(Part::Floor { listen, upstream, splice }) => {
            return floor::run(listen, upstream, splice).map(|()| ExitCode::SUCCESS).map_err(text);
        }
        None => {}
    }
    let works = chosen(list::all(), &options.only, |work| work.name)?;
    let mut peers = chosen(PEERS.iter().collect(), &options.peers, |peer: &&Peer| peer.name)?;
    let with = (!options.with.is_empty()).then(|| peers::with(&options.with));
    let other = options.other.clone().map(peers::other);
    for variant in with.into_iter().chain(other) {
        // Beside Ebbtide, for as long as this program runs.
        peers.insert(peers.len().min(1), Box::leak(Box::new(variant)));
    }
    if options.list {
        let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
        println!("peers: {}\n\nworks:", names.join(", "));
        for work in works {
            println!("  {:18} {}", work.name, work.title);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let is_debug = cfg!(debug_assertions) && std::env::var_os("EBBTIDE_BIN").is_none();
    if is_debug && !options.brief {
        return Err("this would measure a debug build: name another one in EBBTIDE_BIN".to_owned());
    }
    let results = run(&options, works, &peers)?;
    let out = options.out.unwrap_or_else(|| root().join("target/compare"));
    publish::write(&results, &out).map_err(text)?;
    if options.publish {
        publish::publish(&results, &root()).map_err(text)?;
    }
    println!("{}", table::markdown(&results));
    println!("All of it: {}", out.display());
    let failures = results.failures();
    for failure in &failures {
        eprintln!("{failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(options: &Options, works: Vec<Work>, peers: &[&'static Peer]) -> Result<Results, String> {
    let descriptors = all_descriptors();
    let (rounds, seconds, most_open, repeats) = if options.brief {
        (1, BRIEF_SECONDS, BRIEF_CONNECTIONS, 0)
    } else {
        // In thousands, as one says it, and some left for other things than connections.
        let most_open = descriptors.saturating_sub(1000) / 2000 * 1000;
        (options.rounds, options.seconds, most_open, rounds::REPEATS)
    };
    let drains = options.drains.filter(|_| !options.brief).unwrap_or(rounds);
    let directory = std::env::temp_dir().join(format!("ebbtide-compare-{}", std::process::id()));
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let cores = cores(options)?;
    let mut results = Results {
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        machine: machine::Machine::this(),
        rounds,
        seconds,
        peers: peers.iter().map(|peer| (*peer, peer.version())).collect(),
        works: Vec::new(),
    };
    measure::on_core(cores[1], || {
        let bench = Bench::new(cores, seconds, most_open, directory.clone());
        for work in works {
            eprintln!("{}", work.title);
            let (rounds, repeats) = match work.task {
                // One start says of memory what the next ones say, whoever else is busy meanwhile.
                Task::Idle(_) => (rounds.min(2), 0),
                Task::Drain(_) => (drains, 0),
                _ => (rounds, repeats),
            };
            let takes_part = |peer: &&Peer| peer.role != Role::Reuse || work.with_reuse.is_some();
            let peers: Vec<&'static Peer> = peers.iter().copied().filter(takes_part).collect();
            results.works.push(rounds::measure(&bench, work, &peers, rounds, repeats));
        }
    });
    fs::remove_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(results)
}

/// Takes as many descriptors as we may have, for us and what we start; how many that are.
fn all_descriptors() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
    limit.maximum.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

/// That of the proxy, and that of the rest.
fn cores(options: &Options) -> Result<[usize; 2], String> {
    let ours = measure::cores();
    match (options.cores.as_slice(), ours.as_slice()) {
        (&[proxy, load], _) if ours.contains(&proxy) && ours.contains(&load) => Ok([proxy, load]),
        (&[_, ..], _) => Err(format!("--cores: this process may use {ours:?}")),
        ([], &[proxy, load, ..]) => Ok([proxy, load]),
        ([], &[only]) if options.brief => Ok([only, only]),
        _ => Err("this takes two cores: the proxy has one of its own".to_owned()),
    }
}

/// Those that were named; all, where none was.
fn chosen<T>(all: Vec<T>, names: &[String], name: impl Fn(&T) -> &str) -> Result<Vec<T>, String> {
    let known = |wanted: &&String| !all.iter().any(|one| name(one) == wanted.as_str());
    if let Some(unknown) = names.iter().find(known) {
        return Err(format!("{unknown} is not known: --list tells the names"));
    }
    let is_chosen = |one: &T| names.is_empty() || names.iter().any(|wanted| wanted == name(one));
    Ok(all.into_iter().filter(is_chosen).collect())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
