//! One run: the cores, the application, and turns on them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::application::{Application, Service};
use super::http;
use super::http2;
use super::load::{self, Load, Response, Tally};
use super::machine::Foreign;
use super::measure;
use super::peers::{Mode, Peer, Role, Running};
use super::process::Tree;
use super::works::{Task, Work};

/// Part of a turn's time that goes before its measurement.
const WARM_UP: f64 = 0.2;

/// What is started must answer by then.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Bench {
    pub(super) proxy_core: usize,
    pub(super) load_core: usize,
    pub(super) seconds: f64,
    pub(super) directory: PathBuf,
    application: Application,
    http2: Result<http2::Server, String>,
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
    /// As [`Work::figures`].
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
    pub(super) fn new(cores: [usize; 2], seconds: f64, directory: PathBuf) -> Self {
        let [proxy_core, load_core] = cores;
        let application = measure::on_core(load_core, Application::start);
        let http2 = http2::Server::start(load_core, &directory);
        Bench { proxy_core, load_core, seconds, directory, application, http2 }
    }

    /// The peer at work before the right application, once it answers.
    pub(super) fn lane(&self, peer: &'static Peer, work: &Work) -> Result<Lane, String> {
        let (port, tree) = match (&work.task, &self.http2) {
            (Task::Http2, Ok(server)) => (server.port, server.process.cost()),
            (Task::Http2, Err(reason)) => return Err(reason.clone()),
            _ => (self.application.port(work.service), Tree(self.application.pid())),
        };
        if peer.role == Role::Direct {
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            return Ok(Lane { peer, running: None, addr, cost: tree });
        }
        let directory = self.directory.join(work.name);
        let running = peer.start(work.mode, port, self.proxy_core, &directory)?;
        let (addr, cost) = (running.addr, running.process.cost());
        let mut lane = Lane { peer, running: Some(running), addr, cost };
        lane.until_it_answers(work)?;
        Ok(lane)
    }

    /// One turn of a peer.
    pub(super) fn turn(&self, lane: &Lane, work: &Work) -> Result<Turn, String> {
        match &work.task {
            Task::Cost(traffic) => {
                let load = Load::connect(lane.addr, traffic);
                let mut load = load.map_err(|error| error.to_string())?;
                load.run(Duration::from_secs_f64(self.seconds * WARM_UP));
                let seconds = Duration::from_secs_f64(self.seconds);
                self.cost(lane, work, || Ok(load.run(seconds)))
            }
            Task::Http2 => self.cost(lane, work, || http2::load(lane.addr, self.seconds)),
        }
    }

    /// What the proxy's processes spend while some load runs.
    fn cost(
        &self,
        lane: &Lane,
        work: &Work,
        run: impl FnOnce() -> Result<Tally, String>,
    ) -> Result<Turn, String> {
        let foreign = Foreign::begin();
        let before = lane.cost.cpu_seconds();
        let tally = run()?;
        let cpu = lane.cost.cpu_seconds() - before;
        let units = tally.units as f64 / work.unit.size;
        let figures = vec![cpu * work.unit.times / units, units / tally.seconds];
        let Tally { errors, error, .. } = tally;
        Ok(Turn { units, errors, error, foreign: foreign.share(), tries: 1, figures })
    }
}

impl Lane {
    /// Some listen before they know what to do: asks until there is an answer.
    fn until_it_answers(&mut self, work: &Work) -> Result<(), String> {
        let began = Instant::now();
        let ask = || match work.mode {
            Mode::Http => load::once(self.addr, &http::small_request(), Response::Http),
            Mode::Tcp if work.service == Service::Echo => {
                load::once(self.addr, b"?", Response::Bytes(1))
            }
            Mode::Tcp => Ok(()),
            Mode::Http2 => http2::once(self.addr),
        };
        while let Err(error) = ask() {
            let ended = self.running.as_mut().and_then(|running| running.process.ended());
            if ended.is_some() || began.elapsed() > PATIENCE {
                let ended = ended.unwrap_or_default();
                return Err(format!("gives no answer: {error} {ended}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
