//! What the peers have to do.

use super::application::{LARGE_BYTES, Service};
use super::http;
use super::load::{Pace, Response, Traffic};
use super::peers::Mode;

pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) mode: Mode,
    pub(super) service: Service,
    pub(super) task: Task,
    pub(super) unit: Unit,
    /// The first decides.
    pub(super) figures: &'static [Figure],
    /// What is wanted of Ebbtide, and what would be better still.
    pub(super) goals: Goals,
}

pub(super) enum Task {
    /// CPU time per unit of work.
    Cost(Traffic),
    /// The same, done by h2load and nghttpd.
    Http2,
    /// How long an answer takes, at a pace that is moderate for all.
    Latency(Traffic),
    /// Memory of connections that nothing moves on, each after one exchange.
    Idle(Traffic),
    /// How soon it takes connections, and its memory before any.
    Start,
}

/// What Ebbtide is held against.
#[derive(Clone, Copy)]
pub(super) enum Goals {
    /// The first figure, in parts of what the best rival has.
    Ratio([f64; 2]),
    /// The first figure itself.
    Value([f64; 2]),
}

/// What is counted.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    /// As many of the load's units are one of these.
    pub(super) size: f64,
    /// What its CPU time is told in, and how many of that are a second.
    pub(super) time: &'static str,
    pub(super) times: f64,
}

/// One column of the results.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    Cpu,
    Rate,
    P50,
    P99,
    P999,
    MemoryPerConnection,
    StartTime,
    MemoryAtRest,
}

impl Figure {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Figure::Cpu => "cpu",
            Figure::Rate => "rate",
            Figure::P50 => "p50",
            Figure::P99 => "p99",
            Figure::P999 => "p99.9",
            Figure::MemoryPerConnection => "memoryPerConnection",
            Figure::StartTime => "startTime",
            Figure::MemoryAtRest => "memoryAtRest",
        }
    }

    /// With its unit.
    pub(super) fn title(self, unit: Unit) -> String {
        match self {
            Figure::Cpu => format!("CPU, {}/{}", unit.time, unit.name),
            Figure::Rate => format!("{}/s on one core", unit.name),
            Figure::P50 | Figure::P99 | Figure::P999 => format!("{}, µs", self.name()),
            Figure::MemoryPerConnection => "PSS per connection, bytes".to_owned(),
            Figure::StartTime => "start to accepting, ms".to_owned(),
            Figure::MemoryAtRest => "PSS at rest, MiB".to_owned(),
        }
    }
}

const COST: &[Figure] = &[Figure::Cpu, Figure::Rate];
const LATENCY: &[Figure] = &[Figure::P99, Figure::P50, Figure::P999, Figure::Cpu];

const fn each(name: &'static str) -> Unit {
    Unit { name, size: 1.0, time: "µs", times: 1e6 }
}

const GIB: Unit = Unit { name: "GiB", size: (1_u64 << 30) as f64, time: "s", times: 1.0 };

/// A pod's connections that are busy at the same moment.
const CONNECTIONS: usize = 64;

/// Enough that the load is never waited for, where each has its own connection or a large body.
const FEW_CONNECTIONS: usize = 16;

/// As many as descriptors allow; a proxy needs two for each.
const IDLE_CONNECTIONS: usize = 10_000;

pub(super) fn all() -> Vec<Work> {
    let echo = |pace, connections| Traffic {
        connections,
        greeting: None,
        request: vec![b'x'; 128],
        response: Response::Bytes(128),
        pace,
    };
    let http = |request, body_bytes, pace, connections| Traffic {
        connections,
        greeting: None,
        request,
        response: Response::Http(body_bytes),
        pace,
    };
    let small = http::SMALL_BODY.len();
    let bulk = |response, connections| Traffic {
        connections,
        greeting: None,
        request: match response {
            Response::Acknowledgements => vec![b'x'; 1 << 20],
            _ => Vec::new(),
        },
        response,
        pace: Pace::Closed,
    };
    let cost = |name, title, mode, service, traffic, unit, goals| Work {
        name,
        title,
        mode,
        service,
        task: Task::Cost(traffic),
        unit,
        figures: COST,
        goals: Goals::Ratio(goals),
    };
    let latency = |name, title, mode, service, traffic, unit| Work {
        name,
        title,
        mode,
        service,
        task: Task::Latency(traffic),
        unit,
        figures: LATENCY,
        goals: Goals::Ratio([1.0, 0.95]),
    };
    let idle = |name, title, mode, service, traffic, goals| Work {
        name,
        title,
        mode,
        service,
        task: Task::Idle(traffic),
        unit: each("connection"),
        figures: &[Figure::MemoryPerConnection],
        goals: Goals::Value(goals),
    };
    let start = |name, title, mode, service| Work {
        name,
        title,
        mode,
        service,
        task: Task::Start,
        unit: each("start"),
        figures: &[Figure::StartTime, Figure::MemoryAtRest],
        goals: Goals::Value([20.0, 5.0]),
    };
    let (request, message) = (each("request"), each("message"));
    let connection = each("connection");
    vec![
        cost(
            "http1-small",
            "HTTP/1.1, small requests on kept connections",
            Mode::Http,
            Service::Http,
            http(http::small_request(), small, Pace::Closed, CONNECTIONS),
            request,
            [0.95, 0.88],
        ),
        cost(
            "http1-response",
            "HTTP/1.1, responses of 64 KiB",
            Mode::Http,
            Service::Http,
            http(http::large_response_request(), LARGE_BYTES, Pace::Closed, FEW_CONNECTIONS),
            request,
            [1.0, 0.8],
        ),
        cost(
            "http1-body",
            "HTTP/1.1, request bodies of 64 KiB",
            Mode::Http,
            Service::Http,
            http(http::large_body_request(), small, Pace::Closed, FEW_CONNECTIONS),
            request,
            [1.0, 0.8],
        ),
        cost(
            "tcp-echo",
            "TCP, echo of 128 bytes",
            Mode::Tcp,
            Service::Echo,
            echo(Pace::Closed, CONNECTIONS),
            message,
            [0.95, 0.88],
        ),
        cost(
            "bulk-down-1",
            "TCP, bulk to the client, 1 stream",
            Mode::Tcp,
            Service::Source,
            bulk(Response::Endless, 1),
            GIB,
            [0.85, 0.75],
        ),
        cost(
            "bulk-down-4",
            "TCP, bulk to the client, 4 streams",
            Mode::Tcp,
            Service::Source,
            bulk(Response::Endless, 4),
            GIB,
            [0.85, 0.75],
        ),
        cost(
            "bulk-up-1",
            "TCP, bulk to the application, 1 stream",
            Mode::Tcp,
            Service::Sink,
            bulk(Response::Acknowledgements, 1),
            GIB,
            [0.85, 0.75],
        ),
        cost(
            "bulk-up-4",
            "TCP, bulk to the application, 4 streams",
            Mode::Tcp,
            Service::Sink,
            bulk(Response::Acknowledgements, 4),
            GIB,
            [0.85, 0.75],
        ),
        cost(
            "tcp-connection",
            "TCP, a new connection for each exchange",
            Mode::Tcp,
            Service::Echo,
            echo(Pace::NewConnection, FEW_CONNECTIONS),
            connection,
            [1.0, 0.9],
        ),
        cost(
            "http1-connection",
            "HTTP/1.1, a new connection for each request",
            Mode::Http,
            Service::Http,
            http(http::small_request(), small, Pace::NewConnection, FEW_CONNECTIONS),
            connection,
            [1.1, 0.95],
        ),
        Work {
            name: "http2",
            title: "HTTP/2 with prior knowledge, 16 connections of 32 streams",
            mode: Mode::Http2,
            service: Service::Http,
            task: Task::Http2,
            unit: request,
            figures: COST,
            goals: Goals::Ratio([0.6, 0.4]),
        },
        Work {
            name: "websocket",
            title: "WebSocket, 1,000 connections with 10 messages a second each",
            mode: Mode::Http,
            service: Service::Http,
            task: Task::Cost(Traffic {
                connections: 1000,
                greeting: Some(http::upgrade_request()),
                request: http::websocket_request().to_vec(),
                response: Response::Bytes(http::websocket_response().len()),
                pace: Pace::Open(10_000.0),
            }),
            unit: message,
            figures: &[Figure::Cpu, Figure::P50, Figure::P99, Figure::P999],
            goals: Goals::Ratio([0.95, 0.88]),
        },
        latency(
            "http1-latency",
            "HTTP/1.1, latency of small requests at 30 % of what the slowest does",
            Mode::Http,
            Service::Http,
            http(http::small_request(), small, Pace::Closed, CONNECTIONS),
            request,
        ),
        latency(
            "tcp-latency",
            "TCP, latency of echoes at 30 % of what the slowest does",
            Mode::Tcp,
            Service::Echo,
            echo(Pace::Closed, CONNECTIONS),
            message,
        ),
        idle(
            "tcp-idle",
            "TCP, memory of idle connections",
            Mode::Tcp,
            Service::Echo,
            echo(Pace::Closed, IDLE_CONNECTIONS),
            [1536.0, 768.0],
        ),
        idle(
            "http1-idle",
            "HTTP/1.1, memory of idle connections",
            Mode::Http,
            Service::Http,
            http(http::small_request(), small, Pace::Closed, IDLE_CONNECTIONS),
            [1536.0, 590.0],
        ),
        idle(
            "websocket-idle",
            "WebSocket, memory of idle connections",
            Mode::Http,
            Service::Http,
            http(http::upgrade_request(), 0, Pace::Closed, IDLE_CONNECTIONS),
            [1536.0, 768.0],
        ),
        start("tcp-start", "Start, as a TCP proxy", Mode::Tcp, Service::Echo),
        start("http1-start", "Start, as an HTTP/1.1 proxy", Mode::Http, Service::Http),
    ]
}
