//! Thousands of idle connections, and tests that want the machine for themselves.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

static HEAVY: Mutex<()> = Mutex::new(());

/// One heavy test at a time; each may open as many descriptors as the system allows.
pub fn alone() -> MutexGuard<'static, ()> {
    let guard = HEAVY.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("the soft limit may be as high as the hard one");
    guard
}

/// What each connection of a crowd has sent, and got back.
pub const HELLO: &[u8] = b"hello";

/// Connections that have said hello and wait.
pub struct Crowd(pub Vec<TcpStream>);

/// How one of them ended.
pub struct Leaver {
    pub addr: SocketAddr,
    /// When its FIN, or its reset, was there to be read.
    pub told: SystemTime,
}

impl Crowd {
    /// Connects one after the other; each exchanges a few bytes, so that it is more than a probe.
    pub async fn gather(addr: SocketAddr, count: usize) -> Self {
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            let mut stream = TcpStream::connect(addr).await.expect("a connection");
            let mut back = [0; HELLO.len()];
            stream.write_all(HELLO).await.expect("sent");
            stream.read_exact(&mut back).await.expect("echoed");
            assert_eq!(back, HELLO);
            streams.push(stream);
        }
        Crowd(streams)
    }

    /// Waits until every one is told to leave, and lets each close as soon as it is.
    pub async fn leave_when_told(self) -> Vec<Leaver> {
        let mut waiting = JoinSet::new();
        for mut stream in self.0 {
            waiting.spawn(async move {
                let addr = stream.local_addr().expect("its address");
                let told = stream.read(&mut [0; 16]).await;
                let now = SystemTime::now();
                assert_eq!(told.expect("a FIN, not a reset"), 0, "{addr} heard something else");
                Leaver { addr, told: now }
            });
        }
        waiting.join_all().await
    }
}
