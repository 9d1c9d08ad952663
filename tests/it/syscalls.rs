//! Chaos by system-call faults: each line of a table is a call that the kernel makes fail, and what must
//! become of the connection. Nothing may hang, spin or leak, and the error is named as what it is.
//!
//! `strace` makes a call of one thread fail, without executing it. The program's data path is one thread,
//! its endpoints another one, so that what is asked meanwhile is not touched. Ebbtide makes no timer calls:
//! its time-outs are those of epoll_wait(2). Of close(2) no failure is played: a call that is not executed
//! would be a leak of the test's own making.

mod drain;
mod endpoints;
mod relay;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Directory, Ebbtide, PATIENCE};

/// Far more calls than a few megabytes take, and far fewer than a spin makes in a moment.
const MOST_CALLS: usize = 5_000;

/// A call that fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    call: &'static str,
    errno: &'static str,
    when: When,
}

/// Which of the calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Once,
    /// The nth one.
    Nth(u32),
    Always,
    /// The first, the third and so on.
    EveryOther,
}

/// A thread under faults, until it is dropped.
struct Faulty {
    strace: Child,
    directory: Directory,
}

impl Faulty {
    /// Lets a fault happen to a thread, or to a process with all its threads.
    fn attach(fault: Fault, scope: Scope) -> Self {
        let directory = Directory::new();
        let when = match fault.when {
            When::Once => "1".to_owned(),
            When::Nth(nth) => nth.to_string(),
            When::Always => "1+".to_owned(),
            When::EveryOther => "1+2".to_owned(),
        };
        let (flag, id) = match scope {
            Scope::Thread(id) => ("-p", id),
            Scope::Process(id) => ("-fp", id),
        };
        let mut strace = Command::new("strace")
            .args([flag, &id.to_string(), "-o", &calls(&directory)])
            .args(["-e", &format!("trace={},epoll_wait,epoll_pwait", fault.call)])
            .args(["-e", &format!("inject={}:error={}:when={when}", fault.call, fault.errno)])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace: tests/install.sh installs it");
        let mut said = BufReader::new(strace.stderr.take().expect("a pipe")).lines();
        let first = said.next().expect("a line").expect("text");
        assert!(first.contains("attached"), "strace takes the thread: {first}");
        // It says more when it lets go, to somebody who reads.
        std::thread::spawn(move || said.for_each(drop));
        Faulty { strace, directory }
    }

    /// How many calls failed so far.
    fn failed(&self) -> usize {
        self.calls().lines().filter(|line| line.contains("(INJECTED)")).count()
    }

    fn calls(&self) -> String {
        std::fs::read_to_string(calls(&self.directory)).unwrap_or_default()
    }

    /// Waits until a call has failed.
    fn until_failed(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.failed() == 0 {
            assert!(Instant::now() < deadline, "{what}: the call is never made: {}", self.calls());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// No more faults; the number of calls says whether somebody has spun.
    fn detach(mut self, what: &str) {
        self.let_go();
        let calls = self.calls();
        let count = calls.lines().count();
        let last = calls.lines().rev().take(10).collect::<Vec<_>>();
        assert!(count < MOST_CALLS, "{what}: {count} calls, at last {last:#?}");
        assert!(self.failed() > 0, "{what}: no call has failed: {last:#?}");
    }

    fn let_go(&mut self) {
        let pid = Pid::from_child(&self.strace);
        // Gone already, if the process has ended.
        let _ = kill_process(pid, Signal::INT);
        let _ = self.strace.wait();
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// To whom faults happen.
#[derive(Clone, Copy)]
enum Scope {
    Thread(i32),
    Process(i32),
}

fn calls(directory: &Directory) -> String {
    directory.path().join("calls").to_str().expect("text").to_owned()
}

/// The thread of a proxy that relays.
fn worker(proxy: &Ebbtide) -> Scope {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", proxy.pid())).expect("it runs");
    let worker = tasks.flatten().find_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        name.starts_with("worker").then(|| task.file_name().to_str()?.parse().ok())?
    });
    Scope::Thread(worker.expect("a worker"))
}

/// Whether a line of the log names an error: as the kernel does, or by its number.
fn is_named(line: &Value, errno: &str) -> bool {
    let text = line.to_string();
    text.contains(errno) || text.contains(&format!("(os error {})", number(errno)))
}

fn number(errno: &str) -> i32 {
    match errno {
        "EPERM" => libc::EPERM,
        "EINTR" => libc::EINTR,
        "EAGAIN" => libc::EAGAIN,
        "ENOMEM" => libc::ENOMEM,
        "EACCES" => libc::EACCES,
        "EINVAL" => libc::EINVAL,
        "ENFILE" => libc::ENFILE,
        "EMFILE" => libc::EMFILE,
        "ENOSPC" => libc::ENOSPC,
        "EPIPE" => libc::EPIPE,
        "EIO" => libc::EIO,
        "EADDRNOTAVAIL" => libc::EADDRNOTAVAIL,
        "ENETUNREACH" => libc::ENETUNREACH,
        "ECONNRESET" => libc::ECONNRESET,
        "ENOBUFS" => libc::ENOBUFS,
        "ECONNREFUSED" => libc::ECONNREFUSED,
        other => panic!("no number of {other}"),
    }
}

/// Descriptors that a process has open: pipes, of which it keeps a few for the next who needs one, and
/// all others.
fn descriptors(pid: i32) -> (usize, usize) {
    let list = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten();
    let is_pipe = |path: PathBuf| path.to_string_lossy().starts_with("pipe:");
    let (pipes, others): (Vec<_>, Vec<_>) = list
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .partition(|path| is_pipe(path.clone()));
    (pipes.len(), others.len())
}

/// Both ends of the pipes that a worker keeps at most, and the standard streams.
const MOST_PIPE_ENDS: usize = 2 * 4 + 3;

/// Whether no more is open than before.
fn leaks(pid: i32, others_before: usize) -> bool {
    let (pipes, others) = descriptors(pid);
    others > others_before || pipes > MOST_PIPE_ENDS
}
