//! `ebbtide proxy`: the sidecar.

use std::path::PathBuf;

use tracing::info;

use super::exit::{Exit, Failure};
use super::file;
use super::options::Options;
use super::settings::Settings;
use super::sidecar::Sidecar;
use crate::drain::{Drain, Trigger};
use crate::signal::{Chores, Request, Signals};

/// Stands before the application's port, and drains it on SIGTERM
///
/// Connections to --listen go to --upstream unchanged. On SIGTERM, SIGQUIT, `ebbtide drain` or the
/// controller's word new connections are still served for --drain-delay, then rejected as --reject
/// says, while existing ones go on; the process exits when the last one has ended, or after
/// --drain-timeout, with status 75 if anything had to be force-closed.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)] // `run` has these among its own, whose group would have the same name
pub struct Args {
    #[command(flatten)]
    options: Options,

    /// YAML file with the same options (their names without the dashes) and several listeners
    #[arg(long, value_name = "FILE", env = "EBBTIDE_CONFIG")]
    config: Option<PathBuf>,

    /// Only say whether the options and the file are good
    #[arg(long)]
    check_config: bool,
}

impl Args {
    /// What was typed, the file, and the defaults.
    ///
    /// # Errors
    /// Names the flag, or the line of the file, and says what to write.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let options = match &self.config {
            Some(path) => self.options.clone().or(file::read(path).map_err(Failure::usage)?),
            None => self.options.clone(),
        };
        let context = self.config.as_ref().map(|path| path.display().to_string());
        Settings::new(options).map_err(|problems| match context {
            Some(context) => Failure::usage(problems).context(context),
            None => Failure::usage(problems),
        })
    }

    /// Whether only a check was asked for.
    #[must_use]
    pub fn is_check(&self) -> bool {
        self.check_config
    }
}

/// Runs the sidecar to its end.
///
/// # Errors
/// When it can't start.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let settings = args.settings()?;
    if args.is_check() {
        println!("configuration is valid");
        return Ok(Exit::Done);
    }
    let mut signals = Signals::new().map_err(Failure::unavailable)?;
    let chores = Chores::new().map_err(Failure::unavailable)?;
    let mut proxy = Sidecar::bind(settings)?.serve(std::future::ready(())).await?;
    let drain = proxy.drain.clone();
    tokio::spawn(proxy.standing().attend(chores));
    tokio::select! {
        exit = proxy.to_the_end() => return Ok(exit),
        () = interrupted(&mut signals, &drain) => {}
    }
    Ok(proxy.abandon().await)
}

/// Turns signals into triggers; resolves at the second SIGINT.
pub async fn interrupted(signals: &mut Signals, drain: &Drain) {
    let mut interrupts = 0;
    loop {
        let request = signals.next().await;
        info!(signal = ?request, phase = drain.state().phase.name(), "signal");
        interrupts += u32::from(request == Request::Interrupt);
        if interrupts > 1 {
            return;
        }
        drain.trigger(Trigger::Signal);
    }
}

/// Resolves at the next SIGINT; another SIGTERM changes nothing.
pub async fn until_interrupt(signals: &mut Signals) {
    while signals.next().await != Request::Interrupt {}
}

/// Resolves at the first signal.
pub async fn interrupted_once(signals: &mut Signals) {
    let request = signals.next().await;
    info!(signal = ?request, "signal");
}
