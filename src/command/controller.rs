//! `ebbtide controller`: takes reports, drives the balancer.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use serde::{Deserialize, Deserializer};
use tracing::info;

use super::access::{self, Auth};
use super::duration::Span;
use super::file;
use super::options::from_text;
use super::{Exit, Failure};
use crate::api::client::{Client, ClientIdentity};
use crate::controller::balancer::{self, Balancer, Log};
use crate::controller::kubernetes::Access;
use crate::controller::{Controller, Fleet, Settings, Share};
use crate::signal::{Chores, Signals};

/// How long requests under way may take to end when the controller stops.
const STOP_PERIOD: Duration = Duration::from_secs(2);

/// Three heartbeats of a serving proxy.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// Less than this is one late heartbeat.
const LEAST_LOST_AFTER: Duration = Duration::from_secs(15);

/// A large cluster's pods; about 20 MiB.
const MAX_TARGETS: usize = 10_000;

/// Five times what a proxy sends in its last seconds, when it asks every 100 ms.
const MAX_REPORT_RATE: u32 = 50;

/// A node that hides its 250 pods behind its address, all in their last seconds, would just be slowed; what a core
/// answers is ten times as much.
const MAX_SOURCE_RATE: u32 = 2_000;

/// Take the proxies' reports, drive the load balancer, and show the fleet
///
/// A target's weight is set to zero when its drain begins, and it is deregistered when nothing of it
/// remains, or when it has said nothing for --lost-after. The balancer is described in --config; without
/// one, the log says what a balancer would be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,

    /// YAML file with the same options (their names without the dashes), `balancer` and
    /// `kubernetes`
    #[arg(long, value_name = "FILE", env = "EBBTIDE_CONTROLLER_CONFIG")]
    config: Option<PathBuf>,

    /// Only say whether the options and the file are good
    #[arg(long)]
    check_config: bool,
}

/// The options as typed, or as the file has them. What is absent takes its default.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[group(skip)]
pub struct Options {
    /// Take reports on this address [default: 127.0.0.1:17710]
    #[arg(long, env = "EBBTIDE_CONTROLLER_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,

    /// By what proxies are known [default: none, which only loopback may do]
    #[arg(long, value_enum, env = "EBBTIDE_AUTH", help_heading = "Who may speak to it")]
    pub auth: Option<Auth>,

    /// Tokens of which a proxy must show one (its --controller-token-file), one a line; read again as the
    /// file changes
    #[arg(
        long,
        value_name = "FILE",
        env = "EBBTIDE_TOKEN_FILE",
        help_heading = "Who may speak to it"
    )]
    pub token_file: Option<PathBuf>,

    /// Tokens of those who may see the targets and ask for drains: as bearer, or in a browser as password
    /// of any user. Without it nobody may, except under --auth none
    #[arg(
        long,
        value_name = "FILE",
        env = "EBBTIDE_OPERATOR_TOKEN_FILE",
        help_heading = "Who may speak to it"
    )]
    pub operator_token_file: Option<PathBuf>,

    /// Let --auth none be on any address: whoever can connect may report for any pod
    #[arg(long, env = "EBBTIDE_INSECURE", help_heading = "Who may speak to it")]
    pub insecure: bool,

    /// Answer over TLS with this certificate, PEM; read again as the file changes
    #[arg(
        long,
        value_name = "FILE",
        env = "EBBTIDE_TLS_CERT",
        help_heading = "Who may speak to it"
    )]
    pub tls_cert: Option<PathBuf>,

    /// Its key, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "EBBTIDE_TLS_KEY",
        help_heading = "Who may speak to it"
    )]
    pub tls_key: Option<PathBuf>,

    /// The authority that vouches for proxies under --auth mtls, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "EBBTIDE_CLIENT_CA",
        help_heading = "Who may speak to it"
    )]
    pub client_ca: Option<PathBuf>,

    /// Under --auth kubernetes: the audience that a proxy's projected token must have [default:
    /// ebbtide-controller]
    #[arg(
        long,
        env = "EBBTIDE_AUDIENCE",
        value_name = "NAME",
        help_heading = "Who may speak to it"
    )]
    pub audience: Option<String>,

    /// Remember at most this many targets, of about 2 KiB each; of 12 KiB with the largest report that is taken
    /// [default: 10000]
    #[arg(long, env = "EBBTIDE_MAX_TARGETS", value_name = "COUNT")]
    pub max_targets: Option<NonZeroUsize>,

    /// Take at most this many reports a second from one target; a proxy sends up to ten at the end of a
    /// drain, and others pass them on [default: 50]
    #[arg(long, env = "EBBTIDE_MAX_REPORT_RATE", value_name = "COUNT")]
    pub max_report_rate: Option<NonZeroU32>,

    /// Answer at most this many requests a second from one address (IPv6: one /64), whoever it is; probes are always
    /// answered. Another replica, or a gateway that hides many pods, is one address [default: 2000]
    #[arg(long, env = "EBBTIDE_MAX_SOURCE_RATE", value_name = "COUNT")]
    pub max_source_rate: Option<NonZeroU32>,

    /// Ask whether a target is there that has not reported for this long, or, if it drains, ten seconds after its
    /// deadline at the latest; deregister it if it is not [default: 30s]
    #[arg(long, env = "EBBTIDE_LOST_AFTER", value_name = "DURATION")]
    pub lost_after: Option<Span>,

    /// Let at most so many targets of a service drain at once because somebody asked: 3, or 25%. A pod
    /// that a signal tells to leave never waits [default: all]
    #[arg(long, env = "EBBTIDE_MAX_DRAINING", value_name = "SHARE")]
    #[serde(deserialize_with = "from_text")]
    pub max_draining: Option<Share>,

    /// Another replica, such as `http://ebbtide-controller-1.peers:17710`: told of everything
    /// that this one hears, so that both show the same and operators may ask either. Once for each; this
    /// one may be among them
    #[arg(long, env = "EBBTIDE_PEER", value_name = "URL", value_delimiter = ',')]
    #[serde(deserialize_with = "peers_from_text")]
    pub peer: Vec<Uri>,

    /// The certificates that vouch for https replicas, PEM [default: the system's]
    #[arg(long, env = "EBBTIDE_PEER_CA", value_name = "FILE")]
    pub peer_ca: Option<PathBuf>,

    /// The certificate that is shown to https replicas, PEM; --auth mtls wants one that their --client-ca vouches for
    #[arg(long, env = "EBBTIDE_PEER_CERT", value_name = "FILE")]
    pub peer_cert: Option<PathBuf>,

    /// Its key, PEM
    #[arg(long, env = "EBBTIDE_PEER_KEY", value_name = "FILE")]
    pub peer_key: Option<PathBuf>,

    /// With the `log` balancer: answer that weight zero is applied this long after it was logged, which
    /// ends a proxy's lame duck. Without it the answer stays `pending`: nobody knows
    #[arg(long, env = "EBBTIDE_ASSUME_WEIGHT_ZERO_AFTER", value_name = "DURATION")]
    pub assume_weight_zero_after: Option<Span>,

    /// The way to the Kubernetes API under --auth kubernetes; see docs/api.md.
    #[arg(skip)]
    pub kubernetes: Option<Access>,

    /// The balancer; see docs/balancers.md.
    #[arg(skip)]
    pub balancer: Option<balancer::Config>,
}

fn peers_from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Uri>, D::Error> {
    let urls = Vec::<String>::deserialize(deserializer)?;
    urls.into_iter().map(|url| url.parse().map_err(serde::de::Error::custom)).collect()
}

impl Options {
    fn or(self, file: Options) -> Options {
        Options {
            listen: self.listen.or(file.listen),
            auth: self.auth.or(file.auth),
            token_file: self.token_file.or(file.token_file),
            operator_token_file: self.operator_token_file.or(file.operator_token_file),
            insecure: self.insecure || file.insecure,
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            client_ca: self.client_ca.or(file.client_ca),
            audience: self.audience.or(file.audience),
            kubernetes: self.kubernetes.or(file.kubernetes),
            max_targets: self.max_targets.or(file.max_targets),
            max_report_rate: self.max_report_rate.or(file.max_report_rate),
            max_source_rate: self.max_source_rate.or(file.max_source_rate),
            lost_after: self.lost_after.or(file.lost_after),
            max_draining: self.max_draining.or(file.max_draining),
            peer: if self.peer.is_empty() { file.peer } else { self.peer },
            peer_ca: self.peer_ca.or(file.peer_ca),
            peer_cert: self.peer_cert.or(file.peer_cert),
            peer_key: self.peer_key.or(file.peer_key),
            assume_weight_zero_after: self
                .assume_weight_zero_after
                .or(file.assume_weight_zero_after),
            balancer: self.balancer.or(file.balancer),
        }
    }

    fn peers(&self) -> Result<Vec<Client>, String> {
        let identity = match (&self.peer_cert, &self.peer_key) {
            (None, None) if self.auth == Some(Auth::Mtls) && !self.peer.is_empty() => {
                return Err(
                    "--peer under --auth mtls wants --peer-cert and --peer-key too: a certificate that the other \
                     replicas' --client-ca vouches for"
                        .to_owned(),
                );
            }
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                Some(ClientIdentity { certificate: certificate.clone(), key: key.clone() })
            }
            _ => return Err("--peer-cert and --peer-key must be given together".to_owned()),
        };
        let client = |url| {
            Client::with_identity(url, self.peer_ca.as_deref(), identity.as_ref())
                .map_err(|error| format!("--peer {url}: {}", error.naming("--peer-ca")))
        };
        self.peer.iter().map(client).collect()
    }

    fn settings(self) -> Result<Settings, String> {
        let lost_after = self.lost_after.map_or(LOST_AFTER, |span| span.0);
        if lost_after < LEAST_LOST_AFTER {
            return Err(format!(
                "--lost-after {} is less than {}: serving proxies report every 10s, so that one late \
                 report would deregister them",
                Span(lost_after),
                Span(LEAST_LOST_AFTER)
            ));
        }
        let peers = self.peers()?;
        let listen = self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 17710)));
        let (gate, tls) = access::resolve(&self, listen)?;
        Ok(Settings {
            listen,
            gate,
            tls,
            max_targets: self.max_targets.map_or(MAX_TARGETS, NonZeroUsize::get),
            max_report_rate: self.max_report_rate.map_or(MAX_REPORT_RATE, NonZeroU32::get),
            max_source_rate: self.max_source_rate.map_or(MAX_SOURCE_RATE, NonZeroU32::get),
            lost_after,
            max_draining: self.max_draining,
            peers,
            balancer: balancer(self.balancer, self.assume_weight_zero_after)?,
        })
    }
}

fn balancer(
    config: Option<balancer::Config>,
    assumed: Option<Span>,
) -> Result<Box<dyn Balancer>, String> {
    let config = config.unwrap_or_default();
    let assume_weight_zero_after = assumed.map(|span| span.0);
    if config == balancer::Config::Log {
        return Ok(Box::new(Log { assume_weight_zero_after }));
    }
    if assumed.is_some() {
        return Err(
            "--assume-weight-zero-after is for the `log` balancer alone: others tell".into()
        );
    }
    config.build().map_err(|error| error.to_string())
}

impl Args {
    fn settings(&self) -> Result<Settings, Failure> {
        let options = match &self.config {
            Some(path) => self.options.clone().or(file::read(path).map_err(Failure::usage)?),
            None => self.options.clone(),
        };
        options.settings().map_err(|problem| {
            let failure = Failure::usage(std::io::Error::other(problem));
            match &self.config {
                Some(path) => failure.context(path.display().to_string()),
                None => failure,
            }
        })
    }
}

/// Runs a controller until a signal ends it.
///
/// # Errors
/// When the configuration is wrong, or its port is taken.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let settings = args.settings()?;
    if args.check_config {
        println!("configuration is valid");
        return Ok(Exit::Done);
    }
    let mut signals = Signals::new().map_err(Failure::unavailable)?;
    let mut chores = Chores::new().map_err(Failure::unavailable)?;
    let fleet = Fleet::install().map_err(Failure::bug)?;
    let controller =
        Controller::bind(settings, Some(fleet), |_, _| {}).map_err(Failure::unavailable)?.start();
    let chores = async {
        loop {
            let signal = chores.next().await;
            // Tokens and certificates are looked at again by themselves, and what is known is at /v1/targets.
            info!(?signal, "nothing to do: files are read again as they change");
        }
    };
    let signal = tokio::select! {
        signal = signals.next() => signal,
        () = chores => return Ok(Exit::Done),
    };
    info!(?signal, "stopping");
    controller.stop(STOP_PERIOD).await;
    Ok(Exit::Done)
}
