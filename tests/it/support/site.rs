//! An HTTP/1 application that counts: the connections it accepted, and how often it served what.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockFilter, SockRef};

use super::http1::Wire;
use super::{PATIENCE, application};

/// An application on a port of its own, for as long as the test process runs.
#[derive(Clone)]
pub struct Site {
    addr: SocketAddr,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Tally {
    accepted: AtomicUsize,
    ended: AtomicUsize,
    served: Mutex<HashMap<String, u32>>,
}

/// A request as the application sees it, and the connection it came on.
pub struct Visit<'a> {
    pub path: String,
    pub head: String,
    /// Which of the application's connections, from 0 on.
    pub connection: usize,
    pub wire: &'a mut Wire,
}

impl Site {
    /// `serve` answers one request and says whether the connection goes on.
    pub fn new(serve: impl Fn(Visit<'_>) -> io::Result<bool> + Send + Sync + 'static) -> Site {
        let tally = Arc::<Tally>::default();
        let own = Arc::clone(&tally);
        let addr = application(move |stream| {
            let connection = own.accepted.fetch_add(1, Ordering::SeqCst);
            let mut wire = Wire::new(stream);
            while let Ok(head) = wire.head() {
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                *own.served.lock().expect("the tally").entry(path.clone()).or_default() += 1;
                let visit = Visit { path, head, connection, wire: &mut wire };
                if !serve(visit).is_ok_and(|goes_on| goes_on) {
                    break;
                }
            }
            drop(wire);
            own.ended.fetch_add(1, Ordering::SeqCst);
        });
        Site { addr, tally }
    }

    /// One that says which path it was asked for.
    pub fn telling() -> Site {
        Site::new(|visit| {
            visit.wire.try_send(answer(&visit.path))?;
            Ok(true)
        })
    }

    pub fn upstream(&self) -> String {
        self.addr.to_string()
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.tally.accepted.load(Ordering::SeqCst)
    }

    /// How many of them it has left.
    pub fn until_ended(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.tally.ended.load(Ordering::SeqCst) < count {
            assert!(Instant::now() < deadline, "fewer than {count} connections have ended");
            std::thread::yield_now();
        }
    }

    /// How often it was asked for this.
    pub fn served(&self, path: &str) -> u32 {
        self.tally.served.lock().expect("the tally").get(path).copied().unwrap_or(0)
    }
}

/// A response with this body.
pub fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Whether something comes within this time.
pub fn is_readable(stream: &TcpStream, within: Duration) -> bool {
    let timeout = Timespec::try_from(within).expect("a time");
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).expect("polled") > 0
}

/// Makes the kernel drop what still comes in on a connection, so that one may look a last time and
/// then close without anything unread. `false` when something was there.
pub fn shut_off(stream: &TcpStream) -> bool {
    // linux/filter.h: keep segments that are no longer than their TCP header.
    let filter = [
        SockFilter::new(0x30, 0, 0, 12), // A = byte 12: the header's length in its upper half
        SockFilter::new(0x54, 0, 0, 0xf0), // A &= 0xf0
        SockFilter::new(0x74, 0, 0, 2),  // A >>= 2
        SockFilter::new(0x07, 0, 0, 0),  // X = A
        SockFilter::new(0x80, 0, 0, 0),  // A = length
        SockFilter::new(0x1d, 0, 1, 0),  // A == X ?
        SockFilter::new(0x06, 0, 0, u32::MAX),
        SockFilter::new(0x06, 0, 0, 0),
    ];
    let socket = SockRef::from(stream);
    socket.attach_filter(&filter).expect("a filter");
    let is_quiet = !is_readable(stream, Duration::ZERO);
    if !is_quiet {
        socket.detach_filter().expect("removed");
    }
    is_quiet
}
