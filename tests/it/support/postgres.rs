//! A PostgreSQL cluster of the test's own, and `psql` sessions on it.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Directory, free_port};

/// A running cluster; its Unix socket is in its directory.
pub struct Postgres {
    server: Child,
    directory: Directory,
    port: u16,
}

impl Postgres {
    /// Makes a cluster and starts its server.
    pub fn start() -> Self {
        let directory = Directory::new();
        let data = directory.path().join("data");
        if let Some((uid, gid)) = unprivileged() {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid)).expect("given away");
        }
        let made = program("initdb")
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--no-locale", "-D"])
            .arg(&data)
            .output()
            .expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let mut server = program("postgres")
            .args(["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"])
            .args(["-p", &port.to_string(), "-k"])
            .arg(directory.path())
            .arg("-D")
            .arg(&data)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut log = BufReader::new(server.stderr.take().expect("a pipe")).lines();
        let ready = log.any(|line| line.is_ok_and(|line| line.contains("ready to accept")));
        assert!(ready, "the server did not start");
        // Read on, so that the server never waits for its log.
        std::thread::spawn(move || log.for_each(drop));
        Postgres { server, directory, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join(format!(".s.PGSQL.{}", self.port))
    }

    /// One query past the proxy, to see what is really there.
    pub fn ask(&self, query: &str) -> String {
        let host = self.directory.path().to_str().expect("text");
        let output = psql(host, self.port).args(["-c", query]).output().expect("psql");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // QUIT is PostgreSQL's immediate shutdown, which takes its children along.
        if let Some(pid) = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let _ = self.server.wait();
    }
}

/// `psql` on a port, or on the socket in a directory, printing bare values.
pub fn psql(host: &str, port: u16) -> Command {
    let mut command = Command::new("psql");
    let target = format!("host={host} port={port} user=postgres dbname=postgres sslmode=disable");
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &target]);
    command
}

/// A `psql` that is kept open and told what to do line by line.
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Session {
    pub fn open(port: u16) -> Self {
        let mut child = psql("127.0.0.1", port)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql starts");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Session { child, input, output }
    }

    /// Sends statements of which the last one answers one row.
    pub fn ask(&mut self, statements: &str) -> String {
        writeln!(self.input, "{statements}").expect("psql listens");
        self.output.next().expect("psql answers").expect("text")
    }

    /// Ends the session as a user does.
    pub fn quit(self) {
        let Session { mut child, input, .. } = self;
        drop(input);
        assert!(child.wait().expect("a child").success());
    }
}

/// A `psql` under way with one query.
pub fn query(port: u16, query: &str) -> Child {
    psql("127.0.0.1", port)
        .args(["-c", query])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql starts")
}

/// What came out of it.
pub fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A server program of the newest version that is installed.
fn program(name: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .max_by_key(|path| version(path))
        .expect("a version");
    let mut command = Command::new(newest.join("bin").join(name));
    command.env("LC_ALL", "C").current_dir("/");
    if let Some((uid, gid)) = unprivileged() {
        command.uid(uid).gid(gid);
    }
    command
}

fn version(path: &Path) -> u32 {
    path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}

/// PostgreSQL does not run as root: then the user that Debian made for it.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let id = |flag| {
        let output = Command::new("id").args([flag, "postgres"]).output().expect("id");
        let text = String::from_utf8(output.stdout).expect("text");
        text.trim().parse::<u32>().expect("the user postgres")
    };
    Some((id("-u"), id("-g")))
}
