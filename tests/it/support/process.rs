//! The program as a process of its own, with its log read as it is written.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::confine::{self, Confined, Restrictions};
use super::{PATIENCE, Reply, http};

/// The program under test: what `EBBTIDE_BIN` names (the optimised static build), or cargo's.
pub fn program() -> String {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    let built = || env!("CARGO_BIN_EXE_ebbtide").to_owned();
    let found = || confine::reachable(std::env::var("EBBTIDE_BIN").unwrap_or_else(|_| built()));
    PROGRAM.get_or_init(found).clone()
}

/// Why a program is started without the restrictions of a pod.
#[derive(Clone, Copy, Debug)]
pub enum Exception {
    /// The command line enters namespaces or a root of its own, which takes root, before the program starts.
    EntersFirst,
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<Value>, bool)>,
    grown: Condvar,
}

/// The last so many log lines are what a failed test shows.
const SHOWN_LINES: usize = 400;

/// A running `ebbtide`, killed when dropped. A test that fails shows what it knew and wrote.
pub struct Ebbtide {
    child: Child,
    log: Arc<Log>,
    /// After the child: its control groups end with it.
    _confined: Option<Confined>,
}

/// One that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub log: Vec<Value>,
    /// When that was seen; the process was looked at every few milliseconds.
    pub at: SystemTime,
}

impl Ebbtide {
    /// Starts `ebbtide ARGS…` with a JSON log, as in a pod.
    pub fn start(args: &[&str]) -> Self {
        Self::start_under(&Restrictions::of_a_pod(), args)
    }

    /// The same under other restrictions, for example with more descriptors.
    pub fn start_under(restrictions: &Restrictions, args: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.args(args);
        Self::spawn_under(restrictions, command)
    }

    /// Starts a proxy on free ports before `upstream`, with `args` behind.
    pub fn proxy(upstream: &str, args: &[&str]) -> Self {
        Self::proxy_under(&Restrictions::of_a_pod(), upstream, args)
    }

    /// The same under other restrictions, for example with more descriptors.
    pub fn proxy_under(restrictions: &Restrictions, upstream: &str, args: &[&str]) -> Self {
        let mut line = vec!["proxy", "--upstream", upstream, "--admin", "127.0.0.1:0"];
        line.extend(["--control", "127.0.0.1:0", "--termination-log", "/dev/null"]);
        if !args.contains(&"--listen") && !args.contains(&"--config") {
            line.extend(["--listen", "127.0.0.1:0"]);
        }
        line.extend(args);
        Self::start_under(restrictions, &line)
    }

    /// Starts a controller.
    pub fn controller(listen: &str) -> Self {
        Self::start(&["controller", "--listen", listen])
    }

    /// The address of a controller.
    pub fn takes_reports(&self) -> SocketAddr {
        parse(&self.says("controller takes reports")["listen"])
    }

    /// Starts any command line that ends in the program, for example under `env`, as in a pod.
    pub fn spawn(command: Command) -> Self {
        Self::spawn_under(&Restrictions::of_a_pod(), command)
    }

    /// The same under other restrictions.
    pub fn spawn_under(restrictions: &Restrictions, mut command: Command) -> Self {
        let confined = restrictions.apply(&mut command);
        Self::spawn_as_is(command, Some(confined))
    }

    /// Starts a command line with all that the test may do, for the reason that is given.
    pub fn spawn_with_privileges(_reason: Exception, command: Command) -> Self {
        Self::spawn_as_is(command, None)
    }

    fn spawn_as_is(mut command: Command, confined: Option<Confined>) -> Self {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("EBBTIDE_")) {
            command.env_remove(name);
        }
        command.env("EBBTIDE_LOG_FORMAT", "json").env("EBBTIDE_LOG", "ebbtide=debug,info");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("a pipe");
        let log = Arc::new(Log::default());
        let writer = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                writer.lines.lock().expect("the log").0.push(value);
                writer.grown.notify_all();
            }
            writer.lines.lock().expect("the log").1 = true;
            writer.grown.notify_all();
        });
        Ebbtide { child, log, _confined: confined }
    }

    /// Waits for a log line that `wanted` likes; the log is searched from its beginning.
    pub fn line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().expect("the log");
        loop {
            if let Some(line) = lines.0.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let over = lines.1 || left.is_zero();
            assert!(!over, "no log line {what}");
            lines = self.log.grown.wait_timeout(lines, left).expect("the log").0;
        }
    }

    /// Waits for a log line with this message.
    pub fn says(&self, message: &str) -> Value {
        self.line(message, |line| line["message"] == message)
    }

    /// Everything logged so far.
    pub fn log(&self) -> Vec<Value> {
        self.log.lines.lock().expect("the log").0.clone()
    }

    /// The address of the first listener that serves.
    pub fn addr(&self) -> SocketAddr {
        parse(&self.says("serving")["listen"])
    }

    /// The addresses of the first `count` listeners that serve.
    pub fn addrs(&self, count: usize) -> Vec<SocketAddr> {
        let serving = |line: &Value| line["message"] == "serving";
        let of = |log: Vec<Value>| -> Vec<SocketAddr> {
            log.iter().filter(|line| serving(line)).map(|line| parse(&line["listen"])).collect()
        };
        let deadline = Instant::now() + PATIENCE;
        while of(self.log()).len() < count {
            assert!(Instant::now() < deadline, "fewer than {count} listeners serve");
            std::thread::yield_now();
        }
        of(self.log())
    }

    pub fn admin(&self) -> SocketAddr {
        parse(&self.says("endpoints answer")["admin"])
    }

    pub fn control(&self) -> SocketAddr {
        parse(&self.says("endpoints answer")["control"])
    }

    pub fn get(&self, path: &str) -> Reply {
        http::request(self.admin(), "GET", path).expect("an answer from the admin address")
    }

    pub fn post(&self, path: &str) -> Reply {
        http::request(self.control(), "POST", path).expect("an answer from the control address")
    }

    /// The report of this moment.
    pub fn status(&self) -> Value {
        self.get("/status").json()
    }

    /// Waits until the status is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "the status never became {what}: {status:#}");
            std::thread::yield_now();
        }
    }

    /// Waits until `/metrics` has this line: a name with its labels, and a value.
    pub fn until_metric(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metrics = self.get("/metrics").body;
            if metrics.lines().any(|shown| shown == line) {
                return;
            }
            assert!(Instant::now() < deadline, "never {line}: {metrics}");
            std::thread::yield_now();
        }
    }

    /// The open connections as the control address lists them.
    pub fn connections(&self) -> Vec<Value> {
        let list = http::request(self.control(), "GET", "/connections").expect("a list").json();
        list["connections"].as_array().expect("an array").clone()
    }

    /// Waits until the connection of this client is listed as wanted.
    pub fn until_listed(&self, peer: SocketAddr, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let listed = self.connections();
            let ours = listed.iter().find(|connection| connection["peer"] == peer.to_string());
            match ours {
                Some(connection) if wanted(connection) => return connection.clone(),
                _ => assert!(Instant::now() < deadline, "never listed so: {listed:#?}"),
            }
            std::thread::yield_now();
        }
    }

    /// Waits for a phase.
    pub fn until_phase(&self, phase: &str) -> Value {
        self.until(phase, |status| status["phase"] == phase)
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).expect("a process id"), signal)
            .expect("the process takes the signal");
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            assert!(Instant::now() < deadline, "did not end");
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        let at = SystemTime::now();
        let mut lines = self.log.lines.lock().expect("the log");
        while !lines.1 {
            lines = self.log.grown.wait(lines).expect("the log");
        }
        Finished { status, log: lines.0.clone(), at }
    }
}

impl Drop for Ebbtide {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
        }
        // Gone already, in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ebbtide {
    /// Shows a failed test's reader what it carried and wrote, as far as that can still be had.
    fn show(&self) {
        let lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        eprintln!("ebbtide, process {}:", self.pid());
        let endpoints = lines.iter().find(|line| line["message"] == "endpoints answer");
        let control = endpoints.and_then(|line| line["control"].as_str()?.parse().ok());
        for path in ["/status", "/connections"] {
            let answer = control.map(|control| http::request(control, "GET", path));
            match answer {
                Some(Ok(reply)) => eprintln!("{path}: {}", reply.body),
                other => eprintln!("{path}: {other:?}"),
            }
        }
        for line in lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES)) {
            eprintln!("{line}");
        }
    }
}

impl Finished {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The lines with this message.
    pub fn lines(&self, message: &str) -> Vec<&Value> {
        self.log.iter().filter(|line| line["message"] == message).collect()
    }
}

/// Runs `ebbtide ARGS…` to its end, as in a pod: exit status, standard output, standard error.
pub fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("EBBTIDE_")) {
        command.env_remove(name);
    }
    command.args(args);
    let _confined = Restrictions::of_a_pod().apply(&mut command);
    let output = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn parse(value: &Value) -> SocketAddr {
    let text = value.as_str().unwrap_or_else(|| panic!("no address: {value}"));
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
