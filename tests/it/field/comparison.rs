//! The same keep-alive clients before nginx, whose drain many pods have today.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

use super::clients::{self, Field};
use super::reach;
use crate::support::PATIENCE;
use crate::support::h2::runtime;
use crate::support::nginx::Nginx;

/// nginx's master process; its worker ends with it.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a process id");
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let _ = self.0.wait();
    }
}

/// nginx closes what is between two requests at once, and says nothing before: that is what the field
/// test's (b) would see as lost requests of clients that do not look.
#[test]
fn nginx_closes_keep_alive_clients_without_a_word() {
    let nginx = Nginx::new(b"ok", 1_000_000, SocketAddr::from(([127, 0, 0, 1], 9)));
    let addr = SocketAddr::from(([127, 0, 0, 1], nginx.http_port));
    let [program, args @ ..] = nginx.command();
    let child = Command::new(program).args(args).stderr(Stdio::null()).spawn();
    let running = Running(child.expect("nginx starts"));
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(addr).is_err() {
        assert!(Instant::now() < deadline, "nginx does not listen");
        std::thread::yield_now();
    }
    let field = Arc::new(Field::default());
    runtime().block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..200 {
            tasks.spawn(clients::keep_alive(Arc::clone(&field), addr, "/file"));
        }
        reach(&field.keep_alive.done, 2_000).await;
        running.signal(Signal::QUIT);
        tokio::time::timeout(PATIENCE, tasks.join_all()).await.expect("an end of everything");
    });
    let tally = &field.keep_alive;
    let lost = tally.lost.lock().expect("the losses").len();
    let [done, untold] = [&tally.done, &tally.untold].map(|count| count.load(Relaxed));
    println!("nginx, SIGQUIT: {done} requests answered, {untold} of 200 untold, {lost} lost");
    assert!(untold > 0, "nginx has learnt to say Connection: close; tell the README");
}
