//! A proxy to report about and a controller to report to, both led by the test's hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::AUTHORIZATION;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::api::report::{Answer, Identity, ListenerReport, Report, SCHEMA_VERSION};
use crate::api::serve::{Request, Response, Router, Running, Server, read_body, respond};
use crate::drain::Phase;
use crate::report::{Attempt, Feed, FinalReport, Reporter, Wish};

/// A bound that no test should ever reach.
pub const FOREVER: Duration = Duration::from_secs(3600);

/// Everything that a reporter is told, and everything that it tells.
pub struct Proxy {
    pub phase: watch::Sender<Phase>,
    pub count_changed: Arc<Notify>,
    pub news: Arc<Notify>,
    pub answers: mpsc::Receiver<Answer>,
    pub attempts: mpsc::UnboundedReceiver<Attempt>,
    pub final_report: FinalReport,
    count: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub fn start(phase: Phase, reporter: Reporter) -> Self {
        let (told, attempts) = mpsc::unbounded_channel();
        let reporter = reporter.on_attempt(move |attempt| {
            let _test_is_over = told.send(attempt);
        });
        let final_report = reporter.final_report();
        let phase = watch::Sender::new(phase);
        let count = Arc::new(AtomicU64::new(0));
        let count_changed = Arc::new(Notify::new());
        let news = Arc::new(Notify::new());
        let (answer, answers) = mpsc::channel(1);
        let feed = Feed {
            snapshot: snapshot(phase.subscribe(), Arc::clone(&count)),
            phase: phase.subscribe(),
            count_changed: Arc::clone(&count_changed),
            news: Arc::clone(&news),
            answers: answer,
        };
        Proxy {
            phase,
            count_changed,
            news,
            answers,
            attempts,
            final_report,
            count,
            task: tokio::spawn(reporter.run(feed)),
        }
    }

    pub fn count(&self, count: u64) {
        self.count.store(count, Ordering::Relaxed);
        self.count_changed.notify_one();
    }

    pub async fn attempt(&mut self) -> Attempt {
        self.attempts.recv().await.expect("the reporter lives")
    }
}

fn snapshot(
    phase: watch::Receiver<Phase>,
    count: Arc<AtomicU64>,
) -> Arc<dyn Fn() -> Report + Send + Sync> {
    Arc::new(move || {
        let phase = *phase.borrow();
        let draining = phase != Phase::Serving;
        let count = count.load(Ordering::Relaxed);
        Report {
            schema_version: SCHEMA_VERSION.to_owned(),
            identity: Identity::default(),
            run_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
            start_time: "2024-05-01T10:00:00Z".to_owned(),
            sequence: 0,
            phase: phase.name().to_owned(),
            reason: draining.then(|| "Endpoint".to_owned()),
            drain_start_time: draining.then(|| "2024-05-01T11:00:00.250Z".to_owned()),
            drain_deadline: draining.then(|| "2024-05-01T11:05:00.250Z".to_owned()),
            drain_seconds_left: draining.then_some(299.5),
            drain_timeout_seconds: 300.0,
            active_connections: count,
            drain_blocking_connections: count,
            active_requests: 0,
            active_streams: 0,
            by_class: BTreeMap::from([("websocket".to_owned(), count)]),
            forced_closes: 0,
            rejected: 3,
            oldest_connection_seconds: 5120,
            former_weight: None,
            admin_port: Some(17701),
            application_reached: Some(true),
            listeners: vec![ListenerReport {
                address: "0.0.0.0".to_owned(),
                port: 8080,
                state: "Accepting".to_owned(),
                syn_filter: Some("off".to_owned()),
            }],
        }
    })
}

pub fn who() -> Identity {
    Identity {
        namespace: "shop".to_owned(),
        pod_name: "cart-0".to_owned(),
        pod_uid: "0b5c".to_owned(),
        node_name: "node-1".to_owned(),
        pod_ip: "10.0.0.7".to_owned(),
        service: "cart".to_owned(),
    }
}

/// A reporter over real sockets.
pub fn reporter(wish: &Wish) -> Reporter {
    let (settings, client) = wish.resolve().expect("files that exist");
    Reporter::new(settings, client, who())
}

pub fn wish(controller: &str, final_report_timeout: Duration) -> Wish {
    Wish {
        controller: controller.parse().expect("a URL"),
        ca: None,
        identity: None,
        token_file: None,
        final_report_timeout,
    }
}

/// A report that arrived, and the way to answer it. Dropped unanswered it gets a 500.
pub struct Arrived {
    pub report: serde_json::Value,
    pub authorization: Option<String>,
    answer: oneshot::Sender<Response>,
}

impl Arrived {
    pub fn sequence(&self) -> u64 {
        self.report["sequence"].as_u64().expect("a number")
    }

    pub fn phase(&self) -> &str {
        self.report["phase"].as_str().expect("a string")
    }

    pub fn answer(self, response: Response) {
        let _reporter_went_on = self.answer.send(response);
    }

    pub fn accept(self) {
        let answer = Answer { sequence: self.sequence(), ..Answer::default() };
        self.answer(respond::json(StatusCode::OK, &answer));
    }
}

/// A controller that answers nothing by itself.
pub struct Controller {
    pub url: String,
    arrived: mpsc::UnboundedReceiver<Arrived>,
    _running: Option<Running>,
}

impl Controller {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"))
    }

    pub fn start_at(addr: SocketAddr) -> Self {
        let (handler, arrived) = handler();
        let running = Server::default().bind(addr).expect("a free port").serve(handler);
        Controller {
            url: format!("http://{}", running.local_addr()),
            arrived,
            _running: Some(running),
        }
    }

    /// Serves each connection that `listener` has, after the TLS handshake.
    pub fn start_tls(listener: TcpListener, tls: tokio_rustls::TlsAcceptor) -> Self {
        let (handler, arrived) = handler();
        let addr = listener.local_addr().expect("it has one");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, handler) = (tls.clone(), handler.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    let service = hyper::service::service_fn(move |request| {
                        let answer = handler(request);
                        async move { Ok::<_, std::convert::Infallible>(answer.await) }
                    });
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _client_left = hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .await;
                });
            }
        });
        Controller { url: format!("https://localhost:{}", addr.port()), arrived, _running: None }
    }

    pub async fn next(&mut self) -> Arrived {
        self.arrived.recv().await.expect("the server lives")
    }
}

type Boxed = std::pin::Pin<Box<dyn Future<Output = Response> + Send>>;

fn handler()
-> (impl Fn(Request) -> Boxed + Clone + Send + Sync + 'static, mpsc::UnboundedReceiver<Arrived>) {
    let (arrive, arrived) = mpsc::unbounded_channel();
    let router = Router::new().post("/v1/reports", move |request| {
        let arrive = arrive.clone();
        async move {
            let authorization = request.headers().get(AUTHORIZATION).cloned();
            let authorization = authorization.map(|it| it.to_str().expect("ASCII").to_owned());
            let body = read_body(request.into_body(), 64 * 1024).await.expect("small");
            let (answer, answered) = oneshot::channel();
            let _test_is_over = arrive.send(Arrived {
                report: serde_json::from_slice(&body).expect("JSON"),
                authorization,
                answer,
            });
            let unanswered = || respond::text(StatusCode::INTERNAL_SERVER_ERROR, "");
            answered.await.unwrap_or_else(|_| unanswered())
        }
    });
    (router.into_handler(), arrived)
}
