//! The program that is measured.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use super::measure;

/// Counts what runs outside the kernel, and says it at the end.
const COUNTER: [&str; 4] =
    ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"];

pub(super) struct Proxy {
    pub(super) addr: SocketAddr,
    child: Child,
    /// Reads its log to the end; what was counted, if anything was.
    log: Option<JoinHandle<Option<u64>>>,
}

/// Whether instructions can be counted here.
pub(super) fn can_count() -> bool {
    Command::new(COUNTER[0]).arg("--version").output().is_ok()
}

impl Proxy {
    pub(super) fn start(app: SocketAddr, protocol: &str) -> Self {
        Proxy::spawn(Command::new(measure::ebbtide()), app, protocol)
    }

    pub(super) fn start_counted(app: SocketAddr, protocol: &str) -> Self {
        let [counter, options @ ..] = COUNTER;
        let mut command = Command::new(counter);
        command.args(options).arg(measure::ebbtide());
        Proxy::spawn(command, app, protocol)
    }

    fn spawn(mut command: Command, app: SocketAddr, protocol: &str) -> Self {
        command
            .args(["--log-format", "json", "proxy", "--listen", "127.0.0.1:0"])
            .args(["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .args(["--drain-delay", "0", "--settled-for", "0"])
            .args(["--upstream", &app.to_string(), "--protocol", protocol])
            .stderr(Stdio::piped());
        let mut child =
            measure::on_core(measure::cores()[0], || command.spawn().expect("the proxy starts"));
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let addr = loop {
            let line = log.next().expect("a line").expect("text");
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            if line["message"] == "serving" {
                break line["listen"].as_str().expect("an address").parse().expect("an address");
            }
        };
        let log = std::thread::spawn(move || {
            log.map_while(Result::ok).filter_map(|line| counted(&line)).last()
        });
        Proxy { addr, child, log: Some(log) }
    }

    /// Time that the proxy's threads were on a processor.
    pub(super) fn cpu_seconds(&self) -> f64 {
        measure::cpu_seconds(self.child.id())
    }

    /// Ends it in order, and reads what was counted.
    pub(super) fn instructions(mut self) -> Option<u64> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)?;
        kill_process(pid, Signal::TERM).expect("a child of ours");
        self.child.wait().expect("a child of ours");
        self.log.take()?.join().expect("the log is read")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.log.is_some() && !measure::ended_with_profile(&mut self.child) {
            self.child.kill().expect("a child of ours");
            self.child.wait().expect("a child of ours");
        }
    }
}

/// From valgrind's last words: `==123== I   refs:      40,100,471`.
fn counted(line: &str) -> Option<u64> {
    let (_, count) = line.split_once("refs:").filter(|_| line.starts_with("=="))?;
    count.replace(',', "").trim().parse().ok()
}
