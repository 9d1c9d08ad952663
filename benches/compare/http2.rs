//! HTTP/2 with prior knowledge: nghttp2's server as the application, its h2load as the load.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::load::Tally;
use super::peers::{Out, find, free_port, not_installed};
use super::process::Process;

/// It starts at once.
const PATIENCE: Duration = Duration::from_secs(10);

const CONNECTIONS: usize = 16;
const STREAMS: usize = 32;

/// Requests under way at the same time.
pub(super) const AT_ONCE: usize = CONNECTIONS * STREAMS;

/// What is asked for.
pub(super) const SMALL_FILE: &str = "small";

/// What a drain asks for in pieces; more than it takes.
pub(super) const LONG_FILE: &str = "long";
const LONG_BYTES: usize = 256 * 1024;

pub(super) struct Server {
    pub(super) process: Process,
    pub(super) port: u16,
}

impl Server {
    /// Serves one small file and a large one.
    pub(super) fn start(core: usize, directory: &Path) -> Result<Self, Out> {
        let program = find("nghttpd").ok_or_else(|| not_installed("nghttpd"))?;
        let text = |error: io::Error| format!("nghttpd: {error}");
        let port = free_port();
        fs::write(directory.join(SMALL_FILE), "Hello, world!").map_err(text)?;
        fs::write(directory.join(LONG_FILE), vec![b'x'; LONG_BYTES]).map_err(text)?;
        let mut command = Command::new(program);
        command.args(["--no-tls", "--address=127.0.0.1", "--max-concurrent-streams=1024", "-d"]);
        command.arg(directory).arg(port.to_string());
        let process =
            Process::start(command, core, &directory.join("nghttpd.log")).map_err(text)?;
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if began.elapsed() > PATIENCE {
                return Err("nghttpd does not listen".to_owned().into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Server { process, port })
    }
}

/// So many requests, as fast as they are answered. A number and no time, because what is cut off at the
/// end of a time is reset, and servers, nghttpd too, hang up on a peer that resets a lot (CVE-2023-44487).
pub(super) fn load(addr: SocketAddr, requests: usize) -> Result<Tally, Out> {
    let program = find("h2load").ok_or_else(|| not_installed("h2load"))?;
    let mut command = Command::new(program);
    if requests >= AT_ONCE {
        command.args(["-c", &CONNECTIONS.to_string(), "-m", &STREAMS.to_string()]);
    }
    command.args(["-n", &requests.to_string()]).arg(format!("http://{addr}/{SMALL_FILE}"));
    let began = Instant::now();
    let output = command.output().map_err(|error| format!("h2load: {error}"))?;
    let seconds = began.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    let tally = read(&text, seconds);
    Ok(tally.ok_or_else(|| format!("h2load says nothing of requests: {text}"))?)
}

/// How many such requests take so many seconds, all streams alike, after what others took.
pub(super) fn requests(tally: &Tally, seconds: f64) -> usize {
    let laps = tally.units as f64 / tally.seconds * seconds / AT_ONCE as f64;
    AT_ONCE * (laps.ceil() as usize).max(1)
}

/// One answer.
pub(super) fn once(addr: SocketAddr) -> io::Result<()> {
    let tally = load(addr, 1).map_err(|out| io::Error::other(out.to_string()))?;
    if tally.units == 1 && tally.errors == 0 { Ok(()) } else { Err(io::Error::other("no answer")) }
}

/// From `requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout`, and
/// `status codes: 10 2xx, 0 3xx, 0 4xx, 0 5xx`.
fn read(text: &str, seconds: f64) -> Option<Tally> {
    let number = |start: &str, what: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(start))?;
        let part = line.split(',').find(|part| part.trim().ends_with(what))?;
        part.trim().split(' ').next()?.parse::<u64>().ok()
    };
    let units = number("status codes: ", "2xx")?;
    let requests = "requests: ";
    let refused = number(requests, "succeeded")?.saturating_sub(units);
    let errors = number(requests, "failed")? + refused;
    let error = (errors > 0).then(|| format!("{errors} requests failed, as h2load says"));
    Some(Tally { units, errors, error, seconds, ..Tally::default() })
}
