//! HAProxy as Debian ships it, as the balancer before some servers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use super::peers::Peer;
use super::{Directory, PATIENCE, free_port};

/// A running HAProxy, told by its runtime socket what becomes of each server.
pub struct Haproxy {
    pub addr: SocketAddr,
    socket: PathBuf,
    _process: Peer,
    _directory: Directory,
}

impl Haproxy {
    /// Balances HTTP over servers that have a name each; all of them are checked.
    pub fn new(servers: &[(&str, SocketAddr)]) -> Self {
        let directory = Directory::new();
        let socket = directory.path().join("runtime");
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut configuration = format!(
            "global
               stats socket {} mode 600 level admin
               maxconn 2000
             defaults
               mode http
               timeout connect 5s
               timeout client 60s
               timeout server 60s
               timeout tunnel 60s
               retries 3
               option redispatch
             frontend clients
               bind {addr}
               default_backend pods
             backend pods
               balance roundrobin
               default-server check inter 100ms rise 1 fall 2\n",
            socket.display()
        );
        for (name, server) in servers {
            configuration.extend(["server ", name, " ", &server.to_string(), "\n"]);
        }
        let file = directory.write("haproxy.cfg", configuration);
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f", &file]);
        let process = Peer::start(command);
        let haproxy = Haproxy { addr, socket, _process: process, _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&haproxy.socket).is_err() || TcpStream::connect(addr).is_err() {
            assert!(Instant::now() < deadline, "HAProxy does not listen");
            std::thread::yield_now();
        }
        haproxy
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

    /// What the table of servers says of one; its columns are named in the first line.
    fn status(&self, server: &str) -> String {
        let table = self.tell("show stat");
        let mut rows = table.trim_start_matches("# ").lines().map(|row| row.split(','));
        let column = rows.next().and_then(|mut names| names.position(|name| name == "status"));
        let row = rows.find(|row| row.clone().nth(1) == Some(server));
        let value = row.zip(column).and_then(|(mut row, column)| row.nth(column));
        value.unwrap_or_else(|| panic!("no {server} in {table}")).to_owned()
    }

    fn tell(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).expect("the runtime socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        writeln!(stream, "{line}").expect("told");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}
