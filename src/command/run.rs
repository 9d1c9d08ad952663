//! `ebbtide run -- CMD`: the proxy, and the application as its child.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::duration::Span;
use super::exit::{Exit, Failure};
use super::proxy;
use super::sidecar::Sidecar;
use crate::child::{Child, Forwarded, StopSignal};
use crate::net::Upstream;
use crate::signal::Signals;

/// Between looks at the application's port.
const PORT_INTERVAL: Duration = Duration::from_millis(50);
/// How often somebody who waits is told what for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Start an application and stand before its port: one container, a VM or a laptop needs no more
///
/// Connections are accepted when the application's port is open. On SIGTERM the proxy drains first,
/// and only then sends the application its stop signal. Exits with the application's status.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    proxy: proxy::Args,

    /// What the application is sent when the drain is over
    #[arg(long, value_name = "SIGNAL", env = "EBBTIDE_STOP_SIGNAL", default_value = "TERM")]
    stop_signal: StopSignal,

    /// How long it may take to stop before it is killed
    #[arg(long, value_name = "DURATION", env = "EBBTIDE_STOP_TIMEOUT", default_value = "10s")]
    stop_timeout: Span,

    /// The application and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Args {
    /// The proxy's part, as [`proxy::Args::settings`].
    ///
    /// # Errors
    /// As there.
    pub fn settings(&self) -> Result<super::settings::Settings, Failure> {
        self.proxy.settings()
    }
}

/// Runs the application behind the proxy to the end of both.
///
/// # Errors
/// When either can't start.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let settings = args.settings()?;
    if args.proxy.is_check() {
        println!("the configuration is good");
        return Ok(Exit::Done);
    }
    let mut signals = Signals::new().map_err(Failure::unavailable)?;
    let forwarded = Forwarded::new().map_err(Failure::unavailable)?;
    let upstreams: Vec<_> =
        settings.listeners.iter().map(|(.., listener)| listener.upstream.clone()).collect();
    let sidecar = Sidecar::bind(settings)?;
    let drain = sidecar.drain().clone();
    let child = Child::spawn(&args.command).map_err(Failure::unavailable)?;
    info!(pid = child.id(), "application started");
    let mut application = Application { child, forwarded };
    let ports = async {
        for upstream in &upstreams {
            until_open(upstream).await;
        }
    };
    // Until the application listens there is nothing to drain: a signal goes straight to it.
    let proxy = tokio::select! {
        proxy = sidecar.serve(ports) => proxy,
        status = application.wait() => return Ok(Exit::Child(status)),
        () = proxy::interrupted_once(&mut signals) => {
            return Ok(Exit::Child(application.stop(&args).await));
        }
    };
    let mut proxy = match proxy {
        Ok(proxy) => proxy,
        Err(failure) => {
            application.stop(&args).await;
            return Err(failure);
        }
    };
    let died = tokio::select! {
        _ = proxy.to_the_end() => None,
        () = proxy::interrupted(&mut signals, &drain) => {
            proxy.abandon().await;
            return Ok(Exit::Child(application.kill().await));
        }
        status = application.wait() => Some(status),
    };
    let status = match died {
        // The drain is over: a SIGINT now is a wish for the end.
        None => tokio::select! {
            status = application.stop(&args) => Some(status),
            () = proxy::until_interrupt(&mut signals) => None,
        },
        Some(status) => {
            warn!(status, "the application has ended: its connections are reset");
            proxy.end_with_the_application().await;
            Some(status)
        }
    };
    let status = match status {
        Some(status) => status,
        None => application.kill().await,
    };
    info!(status, "application ended");
    Ok(Exit::Child(status))
}

/// Resolves when the application takes connections.
async fn until_open(upstream: &Upstream) {
    let mut patience = Instant::now() + PATIENCE;
    while !timeout(PATIENCE, is_open(upstream)).await.unwrap_or(false) {
        if Instant::now() >= patience {
            info!(%upstream, "waiting for the application to listen");
            patience += PATIENCE;
        }
        sleep(PORT_INTERVAL).await;
    }
}

async fn is_open(upstream: &Upstream) -> bool {
    match upstream {
        Upstream::Address(addr) => is_another(TcpStream::connect(addr).await),
        Upstream::Name(name, port) => is_another(TcpStream::connect((name.as_str(), *port)).await),
        Upstream::Unix(path) => UnixStream::connect(path).await.is_ok(),
    }
}

/// Whether a connection has somebody at its other end: where nobody listens, and the kernel chose the
/// very port as ours, a connection may have met itself.
fn is_another(connected: io::Result<TcpStream>) -> bool {
    connected.is_ok_and(|stream| {
        matches!((stream.local_addr(), stream.peer_addr()), (Ok(ours), Ok(theirs)) if ours != theirs)
    })
}

/// The child, and the signals that are passed on to it.
struct Application {
    child: Child,
    forwarded: Forwarded,
}

impl Application {
    /// Waits for its end, and passes signals on meanwhile.
    async fn wait(&mut self) -> u8 {
        loop {
            tokio::select! {
                status = self.child.wait() => return status,
                signal = self.forwarded.next() => self.child.signal(signal),
            }
        }
    }

    /// Sends the stop signal, and kills what does not stop in time.
    async fn stop(&mut self, args: &Args) -> u8 {
        self.child.signal(args.stop_signal.0);
        if let Ok(status) = timeout(args.stop_timeout.0, self.wait()).await {
            return status;
        }
        warn!("the application did not stop within --stop-timeout: killing it");
        self.kill().await
    }

    /// Ends it at once.
    async fn kill(&mut self) -> u8 {
        self.child.signal(Signal::KILL);
        self.wait().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9293 §3.5: a socket that connects to its own address opens to itself.
    #[tokio::test]
    async fn a_connection_to_itself_is_no_application() {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let addr = socket.local_addr().expect("its address");
        let connected = socket.connect(addr).await;
        assert!(connected.is_ok());
        assert!(!is_another(connected));
    }
}
