//! The proxy assembled from its rooms: bound first, then serving, then seen out.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, mpsc};
use tracing::{debug, info, warn};

use super::exit::{Exit, Failure};
use super::reach;
use super::settings::{Settings, connections_within};
use super::standing::Standing;
use super::undelivered::Undelivered;
use crate::admin::{self, History, View};
use crate::api::report::{Answer, BalancerState, Directive};
use crate::api::serve::{self, Running, Server};
use crate::connection::{
    ListenerSettings, ListenerStatus, Listening, Serving, Table, empty_parking, see_out,
};
use crate::drain::{Drain, NotUndone, Phase, State, Trigger};
use crate::net::{Bound, options};
use crate::reactor::Workers;
use crate::relay::Order;
use crate::report::{self, FinalReport, Reporter, Source};
use crate::telemetry::Metrics;

/// How long those who ask whether the drain is over may take to hear it before the process ends.
const FAREWELL_PERIOD: Duration = Duration::from_millis(250);

/// How long a controller's `wait` counts: three reports of a draining proxy, so that one that falls
/// silent does not keep a drain from going on.
const HOLD_PERIOD: Duration = Duration::from_secs(15);

/// Answers from the controller that wait to be heeded; the next one says the same.
const ANSWERS: usize = 4;

/// A proxy that holds its ports and serves nobody yet.
pub struct Sidecar {
    settings: Settings,
    drain: Drain,
    serving: Arc<Serving>,
    source: Source,
    listeners: Vec<(Bound, ListenerSettings, Arc<ListenerStatus>)>,
    admin: serve::Bound,
    control: serve::Bound,
    view: View,
}

/// A proxy at work.
pub struct Proxy {
    /// Its drain.
    pub drain: Drain,
    serving: Arc<Serving>,
    termination_log: std::path::PathBuf,
    final_report: Option<FinalReport>,
    endpoints: Vec<Running>,
}

impl Sidecar {
    /// Takes the ports.
    ///
    /// # Errors
    /// Names what is taken or wrong, and says what to do.
    pub fn bind(settings: Settings) -> Result<Self, Failure> {
        let started = Instant::now();
        let metrics = Metrics::install().map_err(Failure::bug)?;
        metrics.expect_websocket_code(settings.connections.manners.websocket_code);
        let drain = Drain::new(settings.schedule);
        let table = Table::default();
        let mut listeners = Vec::new();
        for (addr, options, listener) in &settings.listeners {
            let bound = Bound::new(*addr, *options).map_err(Failure::unavailable)?;
            let status = Arc::new(ListenerStatus::new(bound.local_addr()));
            listeners.push((bound, listener.clone(), status));
        }
        let statuses: Arc<[_]> = listeners.iter().map(|(.., status)| Arc::clone(status)).collect();
        let admin = bind_endpoint(settings.admin, "--admin")?;
        let control = bind_endpoint(settings.control, "--control")?;
        let workers = Workers::start(settings.threads).map_err(Failure::unavailable)?;
        let source = Source {
            identity: report::identity(),
            run_id: report::run_id(),
            started,
            admin: admin.local_addr(),
            application: settings.reporting.as_ref().map(|_| report::Reached::default()),
            drain_timeout: settings.schedule.timeout,
            drain: drain.clone(),
            table: table.clone(),
            listeners: Arc::clone(&statuses),
        };
        let status = source.clone();
        let view = View {
            drain: drain.clone(),
            table: table.clone(),
            listeners: statuses,
            metrics: metrics.clone(),
            promises: settings.promises,
            history: History::default(),
            report: Arc::new(move || status.report()),
            report_age: Arc::new(|| None),
        };
        let serving = Arc::new(Serving {
            settings: settings.connections.clone(),
            table,
            drain: drain.clone(),
            metrics,
            workers,
        });
        Ok(Sidecar { settings, drain, serving, source, listeners, admin, control, view })
    }

    /// The drain, which signals may begin before anything is served.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Answers on the endpoints, waits for `application`, then lets connections in.
    ///
    /// # Errors
    /// When a port is lost meanwhile, or the controller's certificates or token can't be read.
    pub async fn serve(mut self, application: impl Future<Output = ()>) -> Result<Proxy, Failure> {
        let reporter = self.reporter()?;
        tokio::spawn(self.drain.clone().run());
        let budgets = self.settings.budgets.clone();
        tokio::spawn(see_out(self.drain.clone(), self.serving.table.clone(), budgets));
        tokio::spawn(empty_parking(Arc::clone(&self.serving)));
        tokio::spawn(self.serving.metrics.clone().keep_up());
        tokio::spawn(self.view.history.clone().record(self.drain.clone()));
        let news = Arc::new(Notify::new());
        let final_report = reporter.map(|reporter| self.report(reporter, Arc::clone(&news)));
        let upstreams: Vec<_> = self
            .settings
            .listeners
            .iter()
            .map(|(.., listener)| listener.upstream.as_ref().clone())
            .collect();
        let reached = self.source.application.clone();
        let admin_addr = self.admin.local_addr();
        let control_addr = self.control.local_addr();
        let endpoints = vec![
            self.admin.serve(admin::admin_routes(&self.view).into_handler()),
            self.control.serve(admin::control_routes(&self.view).into_handler()),
        ];
        info!(admin = %admin_addr, control = %control_addr, "endpoints answer");
        application.await;
        let descriptors = options::raise_descriptor_limit();
        let max_connections = allowed(self.settings.max_connections, descriptors);
        let permits = Arc::new(Semaphore::new(max_connections));
        for (bound, settings, status) in self.listeners {
            let listener = bound.listen().map_err(Failure::unavailable)?;
            info!(
                listen = %status.addr,
                upstream = %settings.upstream,
                reject = settings.reject.name(),
                max_connections,
                "serving"
            );
            let serving = Arc::clone(&self.serving);
            let permits = Some(Arc::clone(&permits));
            // A signal that comes before the worker has begun must find a listener that is open.
            let door = self.drain.door();
            self.serving.workers.spawn(move || {
                let listening = Listening::new(listener, settings, status, serving, permits);
                drop(door);
                listening.run()
            });
        }
        if let Some(reached) = reached {
            tokio::spawn(reach::find_out(upstreams, reached, news));
        }
        Ok(Proxy {
            drain: self.drain,
            serving: self.serving,
            termination_log: self.settings.termination_log,
            final_report,
            endpoints,
        })
    }

    fn reporter(&self) -> Result<Option<Reporter>, Failure> {
        let Some(reporting) = &self.settings.reporting else { return Ok(None) };
        let (settings, client) = reporting.resolve().map_err(Failure::usage)?;
        Ok(Some(Reporter::new(settings, client, self.source.identity.clone())))
    }

    /// Starts to report, and to heed what the controller answers.
    fn report(&mut self, reporter: Reporter, news: Arc<Notify>) -> FinalReport {
        let final_report = reporter.final_report();
        let metrics = self.serving.metrics.clone();
        let stored = Arc::new(Mutex::new(None::<Instant>));
        let last_stored = Arc::clone(&stored);
        self.view.report_age = Arc::new(move || {
            last_stored.lock().ok().and_then(|stored| stored.map(|at| at.elapsed()))
        });
        let reporter = reporter.on_attempt(move |attempt| {
            metrics.report_attempted(attempt.name());
            if let (true, Ok(mut stored)) = (attempt.is_stored(), stored.lock()) {
                *stored = Some(Instant::now());
            }
        });
        let (answers, heard) = mpsc::channel(ANSWERS);
        let source = self.source.clone();
        tokio::spawn(reporter.run(report::Feed {
            snapshot: Arc::new(move || source.report()),
            phase: self.drain.watch_phase(),
            count_changed: self.serving.table.changed(),
            news,
            answers,
        }));
        tokio::spawn(heed(self.drain.clone(), heard));
        final_report
    }
}

/// As many connections as were asked for, if there are descriptors for them: a client that is taken
/// without one left for the application would be lost, and in the kernel's queue it is not.
fn allowed(asked: Option<NonZeroUsize>, descriptors: u64) -> usize {
    let allowed = connections_within(descriptors);
    match asked.map(usize::from) {
        Some(asked) if asked > allowed => {
            warn!(
                asked,
                allowed,
                descriptors,
                "--max-connections is more than the descriptor limit allows: taking what it allows"
            );
            allowed
        }
        Some(asked) => asked,
        None => allowed,
    }
}

fn bind_endpoint(addr: std::net::SocketAddr, flag: &str) -> Result<serve::Bound, Failure> {
    Server::default()
        .bind(addr)
        .map_err(|error| Failure::unavailable(error).context(format!("{flag} {addr}")))
}

/// Does what the controller says.
async fn heed(drain: Drain, mut answers: mpsc::Receiver<Answer>) {
    while let Some(answer) = answers.recv().await {
        drain.hold((answer.directive == Directive::Wait).then_some(HOLD_PERIOD));
        if matches!(answer.balancer, Some(BalancerState::WeightZero | BalancerState::Deregistered))
        {
            drain.acknowledge();
        }
        match answer.directive {
            Directive::None | Directive::Wait => {}
            Directive::Drain => drain.trigger(Trigger::Controller),
            Directive::Undrain => match drain.undrain() {
                // No drain is what the directive asks for.
                Ok(()) | Err(NotUndone::NoDrain) => {}
                Err(why @ NotUndone::Signalled) => {
                    debug!(
                        error = &why as &dyn std::error::Error,
                        "the controller's undrain is not obeyed"
                    );
                }
            },
        }
    }
}

impl Proxy {
    /// What SIGUSR1 says in the log.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing { drain: self.drain.clone(), table: self.serving.table.clone() }
    }

    /// Serves until a drain is over that the process is to exit after, and says goodbye.
    #[expect(clippy::wrong_self_convention, reason = "that is where it goes; it converts nothing")]
    pub async fn to_the_end(&mut self) -> Exit {
        self.drained().await;
        // What does not block learns that we go. A request that crosses this is answered first.
        self.serving.table.order_all(Order::Leave);
        self.serving.workers.turn().await;
        self.drained().await;
        self.farewell().await
    }

    /// Waits until the drain is over and the process is to exit.
    pub async fn drained(&self) {
        let mut states = self.drain.watch();
        loop {
            let state = *states.borrow_and_update();
            let exits = state.progress.is_some_and(|progress| progress.exits);
            if state.phase == Phase::Drained && exits && self.is_empty(state) {
                return;
            }
            tokio::select! {
                changed = states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(FAREWELL_PERIOD), if state.phase == Phase::Drained && exits => {}
            }
        }
    }

    /// Whether nothing blocks any more. A drain that was over without an exit may have let new
    /// connections in (reject mode `accept`); those have until the deadline too.
    fn is_empty(&self, state: State) -> bool {
        let past_deadline =
            state.progress.is_none_or(|progress| Instant::now() >= progress.deadline);
        self.drain.blocking() == 0 || past_deadline
    }

    /// Ends because the application is gone: what it has sent is delivered, and nothing else is waited for.
    ///
    /// A client that takes nothing for `patience` loses what is left.
    pub async fn end_with_the_application(&mut self, patience: Duration) {
        self.drain.trigger(Trigger::Signal);
        // The controller learns at once that nobody serves here, and no listener takes anybody in.
        self.drain.end();
        Undelivered::of(&self.serving.table).deliver(&self.drain, patience).await;
        self.serving.workers.turn().await;
        self.emptied().await;
        self.farewell().await;
    }

    /// Waits until those that were told to end at once have logged how they did.
    async fn emptied(&self) {
        let gone = async {
            while self.drain.blocking() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(FAREWELL_PERIOD, gone).await.is_err() {
            warn!(blocking = self.drain.blocking(), "leaving with connections that did not end");
        }
    }

    /// Says goodbye: the final report, the last answers, the line in the termination log.
    pub async fn farewell(&mut self) -> Exit {
        let state = self.drain.state();
        // What is left, health checks for example, learns by a FIN that we go.
        self.serving.table.order_all(Order::Close);
        self.serving.workers.turn().await;
        self.emptied().await;
        let took = state.progress.map(|progress| progress.took(Instant::now())).unwrap_or_default();
        self.serving.metrics.drained(took);
        if let Some(final_report) = &mut self.final_report {
            let delivery = final_report.wait().await;
            info!(delivery = ?delivery, "final report");
        }
        let forced = self.serving.table.forced();
        let exit = if forced == 0 { Exit::Done } else { Exit::DeadlinePassed };
        let line = format!(
            "ebbtide: drained in {:.1} s, {forced} connections force-closed, {} rejected",
            took.as_secs_f64(),
            self.serving.table.rejected()
        );
        info!(took_seconds = took.as_secs_f64(), forced, exit = exit.code(), "drained");
        write_termination_log(&self.termination_log, &line);
        for endpoint in std::mem::take(&mut self.endpoints) {
            endpoint.stop(FAREWELL_PERIOD).await;
        }
        exit
    }

    /// Ends at once: what is open is reset.
    pub async fn abandon(&self) -> Exit {
        let cut = self.drain.blocking();
        self.serving.table.order_all(Order::Reset);
        self.serving.workers.turn().await;
        warn!(cut, "ending at once");
        write_termination_log(
            &self.termination_log,
            &format!("ebbtide: ended at once on request, {cut} connections cut"),
        );
        if cut == 0 { Exit::Done } else { Exit::DeadlinePassed }
    }
}

/// Kubernetes makes the file; where it is not, nobody reads it.
fn write_termination_log(path: &std::path::Path, line: &str) {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, format!("{line}\n").as_bytes()));
    match written {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), error = &error as &dyn std::error::Error, "no termination log");
        }
        _ => {}
    }
}
