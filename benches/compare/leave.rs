//! How each peer is told to drain.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use super::process::Process;

/// Between two looks of what stands in for Envoy's shutdown manager.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What begins the drain that a peer does best.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    Signal(Signal),
    /// As Contour's and Envoy Gateway's shutdown managers do: by its admin address, and the end of the
    /// process when no connection is left.
    Envoy,
    /// It has none.
    Never,
}

impl Leave {
    /// Begins it. What there is to do later is done by a thread.
    pub(super) fn begin(self, process: &Process, admin: u16) -> io::Result<()> {
        match self {
            Leave::Signal(signal) => process.signal(signal),
            Leave::Never => Ok(()),
            Leave::Envoy => {
                ask(admin, "POST", "/healthcheck/fail")?;
                ask(admin, "POST", "/drain_listeners?graceful")?;
                std::thread::spawn(move || manage(admin));
                Ok(())
            }
        }
    }
}

fn manage(admin: u16) -> io::Result<()> {
    loop {
        // `listener.127.0.0.1_8080.downstream_cx_active: 5`, and one of the admin address, which we use.
        let stats = ask(admin, "GET", "/stats?filter=downstream_cx_active")?;
        let mut gauges = stats.lines().filter(|line| line.starts_with("listener.127"));
        if gauges.all(|line| line.ends_with(": 0")) {
            return ask(admin, "POST", "/quitquitquit").map(drop);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn ask(admin: u16, method: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, admin))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
