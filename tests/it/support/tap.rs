//! A tap in a line: passes bytes on, and keeps a copy of them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::PATIENCE;
use super::frames::{Frame, frames};

/// What went through one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passed {
    pub from_client: Vec<u8>,
    pub from_upstream: Vec<u8>,
    /// The upstream's FIN has come.
    pub upstream_ended: bool,
    /// One side was reset.
    pub broke: bool,
}

impl Passed {
    pub fn to_client(&self) -> Vec<Frame> {
        frames(&self.from_upstream)
    }

    pub fn to_upstream(&self) -> Vec<Frame> {
        frames(&self.from_client)
    }
}

#[derive(Default)]
struct Kept {
    connections: Mutex<Vec<Passed>>,
    grown: Condvar,
}

/// A tap before an address.
#[derive(Clone)]
pub struct Tap {
    pub addr: SocketAddr,
    kept: Arc<Kept>,
}

impl Tap {
    /// Listens for as long as the test process runs.
    pub fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let tap = Tap { addr: listener.local_addr().expect("an address"), kept: Arc::default() };
        let kept = Arc::clone(&tap.kept);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                // Where nobody listens the client is to see that: it is dropped.
                let Ok(upstream) = TcpStream::connect(upstream) else { continue };
                pass(&kept, client, upstream);
            }
        });
        tap
    }

    /// The connections so far, in the order they came.
    pub fn connections(&self) -> Vec<Passed> {
        self.kept.connections.lock().expect("what passed").clone()
    }

    /// Waits until what passed is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&[Passed]) -> bool) -> Vec<Passed> {
        let deadline = Instant::now() + PATIENCE;
        let mut connections = self.kept.connections.lock().expect("what passed");
        loop {
            if wanted(&connections) {
                return connections.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen: Vec<_> = connections.iter().map(Passed::to_client).collect();
                panic!("never saw {what}; there is {seen:?}");
            }
            connections = self.kept.grown.wait_timeout(connections, left).expect("what passed").0;
        }
    }
}

fn pass(kept: &Arc<Kept>, client: TcpStream, upstream: TcpStream) {
    for stream in [&client, &upstream] {
        stream.set_nodelay(true).expect("no delay");
    }
    let index = {
        let mut connections = kept.connections.lock().expect("what passed");
        connections.push(Passed::default());
        connections.len() - 1
    };
    let back = (upstream.try_clone().expect("a handle"), client.try_clone().expect("a handle"));
    let keep = |of: fn(&mut Passed) -> &mut Vec<u8>, upstream_ends: bool| {
        let kept = Arc::clone(kept);
        move |(mut from, mut to): (TcpStream, TcpStream)| {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let read = from.read(&mut buffer);
                let mut connections = kept.connections.lock().expect("what passed");
                let passed = &mut connections[index];
                match read {
                    Ok(count) if count > 0 => of(passed).extend_from_slice(&buffer[..count]),
                    Ok(_) => passed.upstream_ended |= upstream_ends,
                    Err(_) => passed.broke = true,
                }
                drop(connections);
                kept.grown.notify_all();
                let count = read.unwrap_or(0);
                if count == 0 || to.write_all(&buffer[..count]).is_err() {
                    // The other side may have gone first.
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
            }
        }
    };
    let there = keep(|passed| &mut passed.from_client, false);
    let home = keep(|passed| &mut passed.from_upstream, true);
    std::thread::spawn(move || there((client, upstream)));
    std::thread::spawn(move || home(back));
}
