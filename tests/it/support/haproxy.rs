//! HAProxy as Debian ships it, as the balancer before some servers.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::peers::Peer;
use super::{Directory, PATIENCE, free_port};

/// A running HAProxy, told by its runtime socket what becomes of each server.
pub struct Haproxy {
    pub addr: SocketAddr,
    socket: PathBuf,
    process: Peer,
    /// Kept for as long as it runs, unless the test has it.
    directory: Option<Directory>,
}

impl Haproxy {
    /// Balances HTTP over servers that have a name each; all of them are checked.
    pub fn new(servers: &[(&str, SocketAddr)]) -> Self {
        let mut sections = String::from(
            "backend pods
               balance roundrobin
               default-server check inter 100ms rise 1 fall 2\n",
        );
        for (name, server) in servers {
            sections.extend(["server ", name, " ", &server.to_string(), "\n"]);
        }
        let directory = Directory::new();
        let mut haproxy = Self::start(&directory, "http", &sections);
        haproxy.directory = Some(directory);
        haproxy
    }

    /// Runs in a directory of the test's, with the backends of `sections`, of which `pods` is the
    /// frontend's. Besides `runtime`, it has a socket `operator`, whose level is not enough to command.
    pub fn start(directory: &Directory, mode: &str, sections: &str) -> Self {
        let at = directory.path().display();
        let socket = directory.path().join("runtime");
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let configuration = format!(
            "global
               stats socket {at}/runtime mode 666 level admin
               stats socket {at}/operator mode 666 level operator
               maxconn 2000
             defaults
               mode {mode}
               timeout connect 5s
               timeout client 60s
               timeout server 60s
               timeout tunnel 60s
               retries 3
               option redispatch
             frontend clients
               bind {addr}
               default_backend pods
             {sections}\n"
        );
        let file = directory.write("haproxy.cfg", configuration);
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f", &file]);
        let process = Peer::start(command);
        let haproxy = Haproxy { addr, socket, process, directory: None };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&haproxy.socket).is_err() {
            assert!(Instant::now() < deadline, "HAProxy does not listen");
            std::thread::yield_now();
        }
        // Once it answers, it listens on all its ports; a connection to see that would be a session.
        haproxy.tell("show version");
        haproxy
    }

    /// Stops or continues the process.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.pid()).expect("a process id");
        kill_process(Pid::from_raw(pid).expect("a process id"), signal)
            .expect("it takes the signal");
    }

    /// Stops the process, and waits until each of its threads stands still: on a busy machine one may
    /// still answer after the signal was sent.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.process.pid());
        let is_still = || {
            std::fs::read_dir(&tasks).expect("its threads").flatten().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('T'))
            })
        };
        while !is_still() {
            std::thread::yield_now();
        }
    }

    /// A server gets no new connection and no new request; those that it has go on.
    pub fn drain(&self, server: &str) {
        self.set(server, "drain");
    }

    /// The server is as welcome as any, and this waits until its check says so too.
    pub fn ready(&self, server: &str) {
        self.set(server, "ready");
        let deadline = Instant::now() + PATIENCE;
        while self.status(server) != "UP" {
            assert!(Instant::now() < deadline, "{server} is {}", self.status(server));
            std::thread::yield_now();
        }
    }

    fn set(&self, server: &str, state: &str) {
        let answer = self.tell(&format!("set server pods/{server} state {state}"));
        assert_eq!(answer.trim(), "", "{server} {state}");
    }

    fn status(&self, server: &str) -> String {
        self.stat("pods", server, "status")
    }

    /// What the table of statistics says of a server.
    pub fn stat(&self, backend: &str, server: &str, column: &str) -> String {
        let [value] = self.looker().stats(backend, server, [column]);
        value
    }

    /// Whether it has a server.
    pub fn has(&self, backend: &str, server: &str) -> bool {
        let table = self.tell("show stat");
        table.lines().any(|row| row.split(',').take(2).eq([backend, server]))
    }

    /// Waits until the checks of all of them succeed.
    pub fn until_up(&self, servers: &[String]) {
        let deadline = Instant::now() + PATIENCE;
        while servers.iter().any(|server| self.status(server) != "UP") {
            assert!(Instant::now() < deadline, "{}", self.tell("show stat"));
            std::thread::yield_now();
        }
    }

    /// The socket that it takes commands on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Takes that socket away, as a host that is restarted does.
    pub fn hide_socket(&self) {
        std::fs::rename(&self.socket, self.socket.with_extension("away")).expect("renamed");
    }

    /// Gives it back.
    pub fn show_socket(&self) {
        std::fs::rename(self.socket.with_extension("away"), &self.socket).expect("renamed");
    }

    /// Reads its statistics, also from another thread.
    pub fn looker(&self) -> Looker {
        Looker(self.socket.with_file_name("operator"))
    }

    /// Gives a command and reads all of the reply.
    pub fn tell(&self, line: &str) -> String {
        tell(&self.socket, line)
    }
}

/// Reads the statistics, by a socket that nobody takes away.
#[derive(Clone)]
pub struct Looker(PathBuf);

impl Looker {
    /// What the table says of a server at one moment; its columns are named in the first line.
    pub fn stats<const N: usize>(
        &self,
        backend: &str,
        server: &str,
        columns: [&str; N],
    ) -> [String; N] {
        let table = tell(&self.0, "show stat");
        let mut rows = table.trim_start_matches("# ").lines().map(|row| row.split(','));
        let names: Vec<&str> = rows.next().into_iter().flatten().collect();
        let row = rows.find(|row| row.clone().take(2).eq([backend, server]));
        let values: Vec<&str> = row.into_iter().flatten().collect();
        columns.map(|column| {
            let at = names.iter().position(|name| *name == column);
            let value = at.and_then(|at| values.get(at));
            (*value.unwrap_or_else(|| panic!("no {backend}/{server} in {table}"))).to_owned()
        })
    }
}

fn tell(socket: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("the runtime socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    writeln!(stream, "{line}").expect("told");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
