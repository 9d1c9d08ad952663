//! Real servers and clients of other makes, as processes that end with the test.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::Value;

use super::{Directory, PATIENCE};

/// A process that is spoken to line by line, killed when dropped.
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Where it serves, as `--upstream` wants it.
    pub upstream: String,
    directory: Option<Directory>,
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
        let directory = Directory::new();
        let at = directory.path().display();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr warn;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {at}; proxy_temp_path {at};\n\
             fastcgi_temp_path {at}; uwsgi_temp_path {at}; scgi_temp_path {at};\n\
             keepalive_requests 1000000; root {at};\n\
             server {{ listen unix:{at}/http; {server} }} }}\n"
        );
        let file = directory.write("nginx.conf", config);
        let mut command = Command::new("nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(&file);
        let mut peer = Self::start(command);
        let socket = directory.path().join("http");
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
        self.directory.as_ref().expect("only nginx has one").path()
    }

    /// One whose first line is its port.
    fn server(command: Command) -> Self {
        let mut peer = Self::start(command);
        peer.upstream = format!("127.0.0.1:{}", peer.line());
        peer
    }

    /// Any program.
    pub fn start(mut command: Command) -> Self {
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

    pub fn pid(&self) -> u32 {
        self.child.id()
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

    /// What it has said since.
    pub fn said(&self) -> Vec<String> {
        self.lines.try_iter().collect()
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
    }
}
