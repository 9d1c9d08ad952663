//! The proxy of the demo: this program once more, as a process of its own.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use super::event::{Event, Tell};
use crate::command::duration::Span;
use crate::command::exit::Failure;

/// From its start to its first connection a proxy takes milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A process that is killed is gone within milliseconds; looked at this often.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);
const KILL_INTERVAL: Duration = Duration::from_millis(2);

/// The proxy's drain times that the demo chooses.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
}

/// A proxy at work; killed when dropped.
pub struct Proxy {
    child: Child,
    pid: Pid,
    /// Where clients come in.
    pub listen: SocketAddr,
    /// Where its status and its page are.
    pub admin: SocketAddr,
}

impl Proxy {
    /// Starts `ebbtide proxy` on free ports and waits until it serves.
    pub async fn start(
        times: Times,
        upstream: SocketAddr,
        controller: SocketAddr,
        tell: Tell,
    ) -> Result<Self, Failure> {
        let mut child = command(times, upstream, controller)?.spawn().map_err(|error| {
            Failure::unavailable(error).context("the proxy can't be started as a process")
        })?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| Failure::bug("a process without an id"))?;
        let stderr = child.stderr.take().ok_or_else(|| Failure::bug("a process without a pipe"))?;
        let mut log = BufReader::new(stderr).lines();
        let addresses = timeout(START_TIMEOUT, addresses(&mut log)).await;
        let (listen, admin) =
            addresses.map_err(|_| Failure::unavailable("the proxy does not serve in time"))??;
        tokio::spawn(listen_to(log, tell));
        Ok(Proxy { child, pid, listen, admin })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends it SIGTERM, as a kubelet does.
    pub fn terminate(&self) -> std::io::Result<()> {
        Ok(kill_process(self.pid, Signal::TERM)?)
    }

    /// Waits for its end.
    pub async fn exited(&mut self) -> std::io::Result<Event> {
        let status = self.child.wait().await?;
        Ok(Event::Exited { status, at: Instant::now() })
    }
}

impl Drop for Proxy {
    /// However the demo ends, its proxy ends too, and is reaped.
    #[expect(clippy::disallowed_methods, reason = "nothing can be awaited in a drop")]
    fn drop(&mut self) {
        // Ended already, in a demo that was seen to its end.
        let _ = self.child.start_kill();
        let deadline = Instant::now() + KILL_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(KILL_INTERVAL);
        }
    }
}

fn command(times: Times, upstream: SocketAddr, controller: SocketAddr) -> Result<Command, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::unavailable(error).context("where is this program?"))?;
    let mut command = Command::new(program);
    // What is set for a proxy of the user's must not reach this one.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EBBTIDE_") {
            command.env_remove(name);
        }
    }
    command
        .arg("proxy")
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .args(["--upstream", &upstream.to_string()])
        .args(["--controller", &format!("http://{controller}")])
        .args(["--drain-delay", &Span(times.drain_delay).to_string()])
        .args(["--drain-timeout", &Span(times.drain_timeout).to_string()])
        // To show how soon after the last stream it can end.
        .args(["--settled-for", "0", "--termination-log", "/dev/null"])
        .args(["--log", "info", "--log-format", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A Ctrl-C at the terminal is for the demo, which then ends the proxy.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

/// Reads the log until the proxy serves: with port 0, only it knows where.
async fn addresses(
    log: &mut Lines<BufReader<ChildStderr>>,
) -> Result<(SocketAddr, SocketAddr), Failure> {
    let mut admin = None;
    let mut last = "nothing".to_owned();
    while let Some(line) = log.next_line().await.map_err(Failure::unavailable)? {
        let entry: Value = serde_json::from_str(&line).unwrap_or_default();
        let addr = |name: &str| entry[name].as_str().and_then(|text| text.parse().ok());
        match (entry["message"].as_str(), admin) {
            (Some("endpoints answer"), _) => admin = addr("admin"),
            (Some("serving"), Some(admin)) => {
                let listen = addr("listen").ok_or_else(|| Failure::bug(line.clone()))?;
                return Ok((listen, admin));
            }
            _ => {}
        }
        last = line;
    }
    Err(Failure::unavailable(format!("the proxy ended at once; its last words: {last}")))
}

/// Passes the log on, to its end: a full pipe would stop the proxy.
async fn listen_to(mut log: Lines<BufReader<ChildStderr>>, tell: Tell) {
    while let Ok(Some(line)) = log.next_line().await {
        let entry: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
        // Nobody is interested any more: the pipe is emptied all the same.
        let _ = tell.send(Event::Log(entry));
    }
}
