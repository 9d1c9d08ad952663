//! One run: the cores, the application, and turns on them.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::application::{Application, SINK_BLOCK_BYTES, Service};
use super::drain;
use super::http;
use super::http2;
use super::leave::Leave;
use super::load::{self, Load, Pace, Response, Tally, Traffic};
use super::machine::Foreign;
use super::measure;
use super::peers::{Mode, Out, Peer, Role, Running};
use super::process::{Tree, waited_seconds};
use super::works::{Drain, Figure, Task, Work};

/// Part of a turn's time that goes before its measurement.
const WARM_UP: f64 = 0.2;

/// Of its capacity, what a proxy is used for on an ordinary day.
const MODERATE: f64 = 0.3;

/// The load has begun within it, also on a busy machine.
const LEAST_GRACE: Duration = Duration::from_millis(200);

/// What is started must answer by then.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Bench {
    proxy_core: usize,
    seconds: f64,
    /// More connections than this there are never at once.
    pub(super) most_open: usize,
    directory: PathBuf,
    application: Application,
    http2: Result<http2::Server, Out>,
}

/// What one turn has shown.
pub(super) struct Turn {
    pub(super) units: f64,
    pub(super) errors: u64,
    pub(super) error: Option<String>,
    /// How much of a core others have used meanwhile.
    pub(super) foreign: f64,
    /// How often it was measured, for others disturbed it.
    pub(super) tries: usize,
    /// As the work names them.
    pub(super) figures: Vec<f64>,
}

/// A peer that is ready for its turn.
pub(super) struct Lane {
    pub(super) peer: &'static Peer,
    /// None is the application itself.
    running: Option<Running>,
    addr: SocketAddr,
    cost: Tree,
}

impl Bench {
    /// Starts the application, in a directory for all that has to be written.
    pub(super) fn new(
        cores: [usize; 2],
        seconds: f64,
        most_open: usize,
        directory: PathBuf,
    ) -> Self {
        let [proxy_core, load_core] = cores;
        let application = measure::on_core(load_core, Application::start);
        let http2 = http2::Server::start(load_core, &directory);
        Bench { proxy_core, seconds, most_open, directory, application, http2 }
    }

    /// The peer at work before the right application, once it answers.
    pub(super) fn lane(&self, peer: &'static Peer, work: &Work) -> Result<Lane, Out> {
        let (port, tree) = match (work.mode, &self.http2) {
            (Mode::Http2, Ok(server)) => (server.port, server.process.cost()),
            (Mode::Http2, Err(reason)) => return Err(reason.clone()),
            _ => (self.application.port(work.service), Tree(self.application.pid())),
        };
        if peer.role == Role::Direct {
            if matches!(work.task, Task::Idle(_) | Task::Start | Task::Drain(_)) {
                return Err(Out::Absent("is no proxy".to_owned()));
            }
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            return Ok(Lane { peer, running: None, addr, cost: tree });
        }
        let directory = self.directory.join(work.name);
        let grace = match work.task {
            Task::Drain(_) if peer.leave == Leave::Never => {
                return Err(Out::Absent("has no drain".to_owned()));
            }
            Task::Drain(Drain::Best) => Some(self.grace()),
            _ => None,
        };
        let running = peer.start(work.mode, port, (self.proxy_core, &directory), grace)?;
        let (addr, cost) = (running.addr, running.process.cost());
        let mut lane = Lane { peer, running: Some(running), addr, cost };
        lane.until_it_answers(work)?;
        Ok(lane)
    }

    /// Requests a second that are moderate for all of these: a part of what the slowest can do.
    pub(super) fn moderate_rate(&self, lanes: &[&Lane], traffic: &Traffic) -> Option<f64> {
        let saturation = |lane: &Lane| {
            let mut load = Load::connect(lane.addr, traffic).ok()?;
            load.run(Duration::from_secs_f64(self.seconds * WARM_UP));
            let tally = load.run(Duration::from_secs_f64(self.seconds));
            Some(tally.units as f64 / tally.seconds)
        };
        let slowest = lanes.iter().copied().filter_map(saturation).min_by(f64::total_cmp)?;
        // To hundreds, as one says it.
        Some((slowest * MODERATE / 100.0).round().max(1.0) * 100.0)
    }

    /// One turn of a peer.
    pub(super) fn turn(&self, lane: &mut Lane, work: &Work, rate: f64) -> Result<Turn, Out> {
        match &work.task {
            Task::Cost(traffic) => self.traffic(lane, work, traffic),
            Task::Latency(traffic) => {
                let pace = Pace::Open(rate);
                self.traffic(lane, work, &Traffic { pace, ..traffic.clone() })
            }
            Task::Http2 => {
                // Warms up, and tells how fast it is.
                let warm = http2::load(lane.addr, http2::AT_ONCE)?;
                let requests = http2::requests(&warm, self.seconds);
                observe(lane, work, || http2::load(lane.addr, requests))
            }
            Task::Idle(traffic) => {
                *lane = self.lane(lane.peer, work)?;
                let before = lane.cost.pss_bytes();
                let mut streams = Vec::new();
                let mut turn =
                    observe(lane, work, || Ok(self.hold(lane.addr, traffic, &mut streams)))?;
                let grown = lane.cost.pss_bytes().saturating_sub(before);
                turn.figures = vec![grown as f64 / turn.units];
                Ok(turn)
            }
            Task::Drain(drain) => self.drain(lane, work, *drain),
            Task::Start => {
                *lane = self.lane(lane.peer, work)?;
                let mut turn = observe(lane, work, || {
                    std::thread::sleep(Duration::from_secs_f64(self.seconds));
                    Ok(Tally { units: 1, seconds: self.seconds, ..Tally::default() })
                })?;
                let start_time = lane.running.as_ref().map_or(Duration::ZERO, |it| it.start_time);
                let memory = lane.cost.pss_bytes() as f64 / f64::from(1 << 20);
                turn.figures = vec![start_time.as_secs_f64() * 1e3, memory];
                Ok(turn)
            }
        }
    }

    /// How long new connections are still taken in a drain, by those who can be told.
    fn grace(&self) -> Duration {
        Duration::from_secs_f64(self.seconds).max(LEAST_GRACE)
    }

    /// A drain of a fresh process under load, to its end.
    fn drain(&self, lane: &mut Lane, work: &Work, drain: Drain) -> Result<Turn, Out> {
        *lane = self.lane(lane.peer, work)?;
        let foreign = Foreign::begin();
        let running = lane.running.as_mut().ok_or_else(|| "is no process".to_owned())?;
        let leave = match drain {
            Drain::Best => lane.peer.leave,
            Drain::Terminate => Leave::Signal(Signal::TERM),
        };
        let begin = || leave.begin(&running.process, running.admin);
        let load_waited_before = waited_seconds(std::process::id());
        let counts = drain::run(running.addr, work.mode, self.grace(), begin);
        let counts = counts.map_err(|error| error.to_string())?;
        let load_waited = waited_seconds(std::process::id()) - load_waited_before;
        let last = Instant::now();
        // Before each look, which ends what is known of a process that has ended.
        let mut times = (lane.cost.cpu_seconds(), lane.cost.waited_seconds());
        let mut ended = running.process.ended();
        while ended.is_none() && last.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
            times = (lane.cost.cpu_seconds(), lane.cost.waited_seconds());
            ended = running.process.ended();
        }
        let end_time = last.elapsed().as_secs_f64();
        let lost = [&counts.newcomers_lost, &counts.requests_lost, &counts.streams_cut];
        let lost = lost.map(drain::Counts::value);
        let mut figures = vec![lost.iter().sum()];
        figures.extend(lost);
        figures.push(end_time);
        let units = drain::Counts::value(&counts.answered);
        let stayed = ended.is_none().then(|| format!("still there after {PATIENCE:?}"));
        let error = [counts.reasons(), stayed].into_iter().flatten().reduce(|a, b| a + "; " + &b);
        // Whoever had no core has lost nothing by a mistake of its own.
        let (ran, waited) = times;
        let error = error.map(|error| {
            format!(
                "{error}; it ran {ran:.2} s and waited {waited:.2} s for its core, \
                 the load {load_waited:.2} s for the other one"
            )
        });
        Ok(Turn { units, errors: 0, error, foreign: foreign.share(), tries: 1, figures })
    }

    fn traffic(&self, lane: &Lane, work: &Work, traffic: &Traffic) -> Result<Turn, Out> {
        let connections = traffic.connections.min(self.most_open);
        let traffic = &Traffic { connections, ..traffic.clone() };
        let mut load = Load::connect(lane.addr, traffic).map_err(|error| error.to_string())?;
        load.run(Duration::from_secs_f64(self.seconds * WARM_UP));
        let seconds = Duration::from_secs_f64(self.seconds);
        observe(lane, work, || Ok(load.run(seconds)))
    }

    /// Opens connections that stay, each after one exchange, one after the other.
    fn hold(&self, addr: SocketAddr, traffic: &Traffic, streams: &mut Vec<TcpStream>) -> Tally {
        let mut tally = Tally::default();
        let began = Instant::now();
        for _ in 0..traffic.connections.min(self.most_open) {
            let stream = load::open(addr, traffic).and_then(|mut stream| {
                load::exchange(&mut stream, &traffic.request, traffic.response)?;
                Ok(stream)
            });
            match stream {
                Ok(stream) => streams.push(stream),
                Err(error) => {
                    tally.errors += 1;
                    tally.error = Some(error.to_string());
                    break;
                }
            }
        }
        tally.units = streams.len() as u64;
        tally.seconds = began.elapsed().as_secs_f64();
        tally
    }
}

/// What the proxy's processes spend while some load runs, and what the load sees.
fn observe(
    lane: &Lane,
    work: &Work,
    run: impl FnOnce() -> Result<Tally, Out>,
) -> Result<Turn, Out> {
    let foreign = Foreign::begin();
    let before = lane.cost.cpu_seconds();
    let mut tally = run()?;
    let cpu = lane.cost.cpu_seconds() - before;
    let units = tally.units as f64 / work.unit.size;
    tally.latencies.sort_unstable();
    let figure = |figure: &Figure| match figure {
        Figure::Cpu => cpu * work.unit.times / units,
        Figure::Rate => units / tally.seconds,
        Figure::P50 => tally.latency_us(0.5),
        Figure::P99 => tally.latency_us(0.99),
        Figure::P999 => tally.latency_us(0.999),
        // Told by who knows them.
        _ => f64::NAN,
    };
    let figures = work.figures.iter().map(figure).collect();
    let Tally { errors, error, .. } = tally;
    Ok(Turn { units, errors, error, foreign: foreign.share(), tries: 1, figures })
}

impl Lane {
    /// Some listen before they know what to do: asks until there is an answer.
    fn until_it_answers(&mut self, work: &Work) -> Result<(), Out> {
        let began = Instant::now();
        let block = vec![0; SINK_BLOCK_BYTES as usize];
        let (request, response) = match (work.mode, work.service) {
            (Mode::Tcp, Service::Source) => (Vec::new(), Response::Bytes(1)),
            (Mode::Tcp, Service::Sink) => (block, Response::Bytes(1)),
            (Mode::Tcp, _) => (vec![b'?'], Response::Bytes(1)),
            _ => (http::small_request(), Response::Http(http::SMALL_BODY.len())),
        };
        let ask = || match work.mode {
            Mode::Http2 => http2::once(self.addr),
            _ => load::once(self.addr, &request, response),
        };
        while let Err(error) = ask() {
            let ended = self.running.as_mut().and_then(|running| running.process.ended());
            if ended.is_some() || began.elapsed() > PATIENCE {
                let ended = ended.unwrap_or_default();
                return Err(format!("gives no answer: {error} {ended}").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
