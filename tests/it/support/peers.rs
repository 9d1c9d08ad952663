//! Real servers and clients of other makes, as processes that end with the test.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::Value;

use super::PATIENCE;

/// A process that is spoken to line by line, killed when dropped.
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Where it serves, as `--upstream` wants it.
    pub upstream: String,
    directory: Option<PathBuf>,
}

impl Peer {
    /// Node with a script that is given here.
    pub fn node(script: &str) -> Self {
        let mut command = Command::new("node");
        command.args(["--max-http-header-size=131072", "-e", script]);
        Self::server(command)
    }

    /// Python with a script that is given here.
    pub fn python(script: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-u", "-c", script]);
        Self::server(command)
    }

    /// Python with a script that serves nothing.
    pub fn python_client(script: &str, args: &[&str]) -> Self {
        let mut command = Command::new("python3");
        command.args(["-u", "-c", script]).args(args);
        Self::start(command)
    }

    /// nginx on a socket of its own, with what is inside its `server` block.
    pub fn nginx(server: &str) -> Self {
        let directory = directory("nginx");
        let at = directory.display();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr warn;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {at}; proxy_temp_path {at};\n\
             fastcgi_temp_path {at}; uwsgi_temp_path {at}; scgi_temp_path {at};\n\
             keepalive_requests 1000000; root {at};\n\
             server {{ listen unix:{at}/http; {server} }} }}\n"
        );
        let file = directory.join("nginx.conf");
        std::fs::write(&file, config).expect("a file");
        let mut command = Command::new("nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(&file);
        let mut peer = Self::start(command);
        let socket = directory.join("http");
        peer.upstream = format!("unix:{}", socket.display());
        peer.directory = Some(directory);
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::yield_now();
        }
        peer
    }

    /// Where nginx finds its files.
    pub fn directory(&self) -> &Path {
        self.directory.as_deref().expect("only nginx has one")
    }

    /// One whose first line is its port.
    fn server(command: Command) -> Self {
        let mut peer = Self::start(command);
        peer.upstream = format!("127.0.0.1:{}", peer.line());
        peer
    }

    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take();
        Peer { child, stdin, lines, upstream: String::new(), directory: None }
    }

    /// What it says next.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the peer says something")
    }

    /// What it says next, as JSON.
    pub fn json(&self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Tells it something.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").expect("the peer listens");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Gone already, in some tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// A new directory for one test's files, in a place whose path fits a socket's name.
pub fn directory(what: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ebbtide-{what}-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    directory
}
