//! Bulk goes through kernel pipes: unchanged, no more pipes than were allowed, none kept for long.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::support::application::random_bytes;
use crate::support::{Directory, Ebbtide, PATIENCE, application, connect, open_to_all};

/// More than the kernel takes for a client that does not read.
const STREAM_BYTES: usize = 24 * 1024 * 1024;

/// What one worker lends at most and keeps at most, each with two ends: `relay/pipes.rs`.
const MOST_ENDS: usize = 2 * 16;
const KEPT_ENDS: usize = 2 * 4;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The ends of pipes that a process has open, its standard streams aside.
fn pipes(pid: i32) -> impl Iterator<Item = PathBuf> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process");
    let is_pipe = |fd: &PathBuf| {
        fs::read_link(fd).is_ok_and(|target| target.to_string_lossy().starts_with("pipe:"))
    };
    let others = fds.flatten().filter(|fd| !["0", "1", "2"].iter().any(|it| fd.file_name() == *it));
    others.map(|fd| fd.path()).filter(is_pipe)
}

/// How many they are.
fn pipe_ends(pid: i32) -> usize {
    pipes(pid).count()
}

/// Waits until the process has so many ends more than before.
fn until_pipe_ends(proxy: &Ebbtide, before: usize, wanted: impl Fn(usize) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ends = pipe_ends(proxy.pid()) - before;
        if wanted(ends) {
            return;
        }
        assert!(Instant::now() < deadline, "{ends} ends of pipes");
        std::thread::yield_now();
    }
}

/// Waits until the proxy sleeps although a pipe holds bytes: their receiver takes no more.
fn until_stuck(proxy: &Ebbtide) {
    let is_asleep = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", proxy.pid())).expect("a process");
        let stats =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        stats.into_iter().all(|stat| stat.contains(") S "))
    };
    // Whoever opens such an entry has the same pipe, and may ask what is in it.
    let holds_bytes = |end: PathBuf| {
        let pipe = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(end);
        pipe.is_ok_and(|pipe| rustix::io::ioctl_fionread(pipe).is_ok_and(|bytes| bytes > 0))
    };
    let deadline = Instant::now() + PATIENCE;
    while !(is_asleep() && pipes(proxy.pid()).any(holds_bytes) && is_asleep()) {
        assert!(Instant::now() < deadline, "no pipe stays full");
        std::thread::yield_now();
    }
}

/// Sends the same bytes to whoever comes, then ends.
fn sends(bytes: &Arc<Vec<u8>>) -> String {
    let bytes = Arc::clone(bytes);
    // The test may be over before all is sent.
    application(move |mut stream| drop(stream.write_all(&bytes))).to_string()
}

#[test]
fn more_streams_than_pipes_pass_unchanged() {
    const STREAMS: usize = 20;
    let bytes = Arc::new(random_bytes(8, STREAM_BYTES));
    let proxy = Ebbtide::proxy(&sends(&bytes), &["--protocol", "tcp", "--threads", "1"]);
    let before = pipe_ends(proxy.pid());
    let clients: Vec<TcpStream> = (0..STREAMS).map(|_| connect(proxy.addr())).collect();
    // Nobody reads, so each stream keeps what carries it.
    until_pipe_ends(&proxy, before, |ends| ends == MOST_ENDS);
    std::thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(|| {
                let mut read = Vec::with_capacity(STREAM_BYTES);
                client.read_to_end(&mut read).expect("an orderly end");
                assert!(read == **bytes, "other bytes");
                drop(client);
            });
        }
    });
    until_pipe_ends(&proxy, before, |ends| ends <= KEPT_ENDS);
}

#[test]
fn a_client_that_leaves_a_pipe_full_leaves_none_behind() {
    let bytes = Arc::new(random_bytes(9, STREAM_BYTES));
    let proxy = Ebbtide::proxy(&sends(&bytes), &["--protocol", "tcp"]);
    let before = pipe_ends(proxy.pid());
    let client = connect(proxy.addr());
    until_stuck(&proxy);
    drop(client);
    until_pipe_ends(&proxy, before, |ends| ends == 0);
}

/// The body is not looked at; what comes behind it is.
#[test]
fn an_http_body_goes_through_a_pipe_and_the_next_exchange_is_seen() {
    let body = Arc::new(random_bytes(10, STREAM_BYTES));
    let sent = Arc::clone(&body);
    let upstream = application(move |mut stream| {
        let mut request = [0; REQUEST.len()];
        while stream.read_exact(&mut request).is_ok() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {STREAM_BYTES}\r\n\r\n");
            if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&sent)).is_err() {
                return;
            }
        }
    });
    let proxy = Ebbtide::proxy(&upstream.to_string(), &["--protocol", "http1"]);
    let before = pipe_ends(proxy.pid());
    let mut client = connect(proxy.addr());
    for _ in 0..2 {
        client.write_all(REQUEST).expect("sent");
        until_pipe_ends(&proxy, before, |ends| ends > 0);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {STREAM_BYTES}\r\n\r\n");
        let mut read = vec![0; head.len() + STREAM_BYTES];
        client.read_exact(&mut read).expect("answered");
        let (read_head, read_body) = read.split_at(head.len());
        assert_eq!(read_head, head.as_bytes());
        assert!(*read_body == **body, "another body");
    }
    proxy.until_metric("ebbtide_responses_total{status=\"2xx\"} 2");
    proxy.until("idle", |status| status["byClass"]["idle"] == 1);
}

/// A proxy before an application on a Unix socket, with one connection that reaches it.
struct ToUnix {
    proxy: Ebbtide,
    client: TcpStream,
    application: UnixStream,
    /// Ends of pipes that it had before.
    pipe_ends: usize,
    _directory: Directory,
}

impl ToUnix {
    fn start() -> Self {
        let directory = Directory::new();
        let path = directory.path().join("application.sock");
        let listener = UnixListener::bind(&path).expect("a listener");
        open_to_all(&path);
        let upstream = format!("unix:{}", path.display());
        let proxy = Ebbtide::proxy(&upstream, &["--protocol", "tcp", "--threads", "1"]);
        let addr = proxy.addr();
        let pipe_ends = pipe_ends(proxy.pid());
        let client = connect(addr);
        let (application, _) = listener.accept().expect("the proxy's connection");
        application.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        application.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        ToUnix { proxy, client, application, pipe_ends, _directory: directory }
    }
}

/// What comes until the other side ends.
fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut read = Vec::with_capacity(2 * STREAM_BYTES);
    stream.read_to_end(&mut read).expect("an orderly end");
    read
}

/// Nobody reads before a pipe is full each way. The client ends first, and is sent more.
#[test]
fn bulk_to_a_unix_socket_and_back_passes_unchanged_beyond_a_half_close() {
    let [up, down, more] = [11, 12, 13].map(|seed| random_bytes(seed, STREAM_BYTES));
    let ToUnix { proxy, client, application, pipe_ends: before, _directory } = ToUnix::start();
    std::thread::scope(|scope| {
        let sent_up = scope.spawn(|| {
            (&client).write_all(&up).expect("sent");
            client.shutdown(Shutdown::Write).expect("half-closed");
        });
        let sent_down = scope.spawn(|| (&application).write_all(&down).expect("sent"));
        until_pipe_ends(&proxy, before, |ends| ends == 4);
        let come_down = scope.spawn(|| read_to_end(&client));
        assert!(read_to_end(&application) == up, "other bytes for the application");
        sent_up.join().expect("all was sent");
        sent_down.join().expect("all was sent");
        (&application).write_all(&more).expect("sent behind the client's end");
        application.shutdown(Shutdown::Write).expect("ended");
        let come_down = come_down.join().expect("all was read");
        assert!(come_down == [&down[..], &more].concat(), "other bytes for the client");
    });
    proxy.until("empty", |status| status["activeConnections"] == 0);
    until_pipe_ends(&proxy, before, |ends| ends <= KEPT_ENDS);
}

/// The application ends first, and is sent bulk all the same.
#[test]
fn bulk_reaches_a_unix_socket_that_has_half_closed() {
    let [up, down] = [14, 15].map(|seed| random_bytes(seed, STREAM_BYTES));
    let ToUnix { proxy, client, application, pipe_ends: before, _directory } = ToUnix::start();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&application).write_all(&down).expect("sent");
            application.shutdown(Shutdown::Write).expect("half-closed");
        });
        until_pipe_ends(&proxy, before, |ends| ends == 2);
        assert!(read_to_end(&client) == down, "other bytes for the client");
        scope.spawn(|| {
            (&client).write_all(&up).expect("sent behind the application's end");
            client.shutdown(Shutdown::Write).expect("ended");
        });
        assert!(read_to_end(&application) == up, "other bytes for the application");
    });
    proxy.until("empty", |status| status["activeConnections"] == 0);
}
