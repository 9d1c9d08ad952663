//! `ebbtide run -- CMD`: the proxy, and the application as its child.

use std::ffi::OsString;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::timeout;
use tracing::{info, warn};

use super::duration::Span;
use super::exit::{Exit, Failure};
use super::sidecar::Sidecar;
use super::{port, proxy};
use crate::child::{Child, Forwarded, StopSignal};
use crate::net::options;
use crate::signal::Signals;

/// How long those who are killed may take to be gone: only a process that the kernel itself holds up takes longer.
const KILL_PERIOD: Duration = Duration::from_secs(2);

/// Start an application and stand before its port: one container, a VM or a laptop needs no more
///
/// Connections are accepted when the application's port is open. On SIGTERM the proxy drains first,
/// and only then sends the application, and all that it has started in its process group, its stop signal. Exits
/// with the application's status. One that ends by itself has what it sent delivered first.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    proxy: proxy::Args,

    /// What the application is sent when the drain is over
    #[arg(long, value_name = "SIGNAL", env = "EBBTIDE_STOP_SIGNAL", default_value = "TERM")]
    stop_signal: StopSignal,

    /// How long it may take to stop before it is killed; and how long a client may take nothing of what an
    /// application that has ended left for it
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
        println!("configuration is valid");
        return Ok(Exit::Done);
    }
    let mut signals = Signals::new().map_err(Failure::unavailable)?;
    let forwarded = Forwarded::new().map_err(Failure::unavailable)?;
    let upstreams: Vec<_> =
        settings.listeners.iter().map(|(.., listener)| listener.upstream.clone()).collect();
    let sidecar = Sidecar::bind(settings)?;
    let drain = sidecar.drain().clone();
    let child = Child::spawn(&args.command).map_err(Failure::unavailable)?;
    // Only now, because the application would inherit it.
    options::ignore_terminal_stop();
    info!(pid = child.id(), "application started");
    let mut application = Application { child, forwarded };
    let ports = async {
        for upstream in &upstreams {
            port::until_open(upstream).await;
        }
    };
    // Until the application listens there is nothing to drain: a signal goes straight to it.
    let proxy = tokio::select! {
        proxy = sidecar.serve(ports) => proxy,
        status = application.wait() => {
            application.stop(&args).await;
            return Ok(Exit::Child(status));
        }
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
            warn!(status, "the application has ended: what it has sent is still delivered");
            let mut is_given_up = false;
            tokio::select! {
                () = proxy.end_with_the_application(args.stop_timeout.0) => {}
                () = proxy::until_interrupt(&mut signals) => is_given_up = true,
            }
            if is_given_up {
                proxy.abandon().await;
            }
            application.stop(&args).await;
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

    /// Waits for the end of every process of its group, and passes signals on meanwhile.
    async fn wait_for_group(&mut self) -> u8 {
        loop {
            tokio::select! {
                status = self.child.wait_for_group() => return status,
                signal = self.forwarded.next() => self.child.signal(signal),
            }
        }
    }

    /// Sends the stop signal to the group, and kills what of it does not stop in time.
    async fn stop(&mut self, args: &Args) -> u8 {
        self.child.signal_group(args.stop_signal.0);
        if let Ok(status) = timeout(args.stop_timeout.0, self.wait_for_group()).await {
            return status;
        }
        warn!("the application did not stop within --stop-timeout: killing it");
        self.kill().await
    }

    /// Ends the group at once.
    async fn kill(&mut self) -> u8 {
        self.child.signal_group(Signal::KILL);
        let status = self.wait().await;
        if timeout(KILL_PERIOD, self.wait_for_group()).await.is_err() {
            warn!("a process of the application can't be killed");
        }
        status
    }
}
