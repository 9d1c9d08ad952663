//! The works: what the peers have to do.

use super::application::{LARGE_BYTES, Service};
use super::http;
use super::load::{Pace, Response, Traffic};
use super::peers::Mode;
use super::works::{Drain, Figure, Goals, Task, Unit, Work};

/// What a proxy is set up for, and what is behind it.
type Place = (Mode, Service);

const ECHO: Place = (Mode::Tcp, Service::Echo);
const SOURCE: Place = (Mode::Tcp, Service::Source);
const SINK: Place = (Mode::Tcp, Service::Sink);
const HTTP: Place = (Mode::Http, Service::Http);
/// nghttpd stands for the service.
const HTTP2: Place = (Mode::Http2, Service::Http);

/// A pod's connections that are busy at the same moment.
const CONNECTIONS: usize = 64;

/// Enough that the load is never waited for, where each has its own connection or a large body.
const FEW_CONNECTIONS: usize = 16;

/// As many as descriptors allow; a proxy needs two for each.
const IDLE_CONNECTIONS: usize = 10_000;

const GIB: Unit = Unit { name: "GiB", size: (1_u64 << 30) as f64, time: "s", times: 1.0 };

const fn each(name: &'static str) -> Unit {
    Unit { name, size: 1.0, time: "µs", times: 1e6 }
}

pub(super) fn all() -> Vec<Work> {
    [http1(), tcp(), http2_and_websocket(), latency(), idle(), start(), drain()]
        .into_iter()
        .flatten()
        .collect()
}

fn http1() -> Vec<Work> {
    let small = http::SMALL_BODY.len();
    let request = each("request");
    let get = ask(http::small_request(), small, CONNECTIONS);
    let get_large = ask(http::large_response_request(), LARGE_BYTES, FEW_CONNECTIONS);
    let post_large = ask(http::large_body_request(), small, FEW_CONNECTIONS);
    let mut once = ask(http::small_request(), small, FEW_CONNECTIONS);
    once.pace = Pace::NewConnection;
    vec![
        cost("http1-small", "HTTP/1.1, small requests on kept connections", HTTP, get, request)
            .wanted([0.95, 0.88]),
        cost("http1-response", "HTTP/1.1, responses of 64 KiB", HTTP, get_large, request)
            .wanted([1.0, 0.8]),
        cost("http1-body", "HTTP/1.1, request bodies of 64 KiB", HTTP, post_large, request)
            .wanted([1.0, 0.8]),
        cost(
            "http1-connection",
            "HTTP/1.1, a new connection for each request",
            HTTP,
            once,
            request,
        )
        .wanted([1.1, 0.95])
        .wanted_with_reuse(Goals::Ratio([1.1, 0.95])),
    ]
}

fn tcp() -> Vec<Work> {
    let down = |connections| stream(Response::Endless, connections);
    let up = |connections| stream(Response::Acknowledgements, connections);
    let mut once = echo(FEW_CONNECTIONS);
    once.pace = Pace::NewConnection;
    vec![
        cost("tcp-echo", "TCP, echo of 128 bytes", ECHO, echo(CONNECTIONS), each("message"))
            .wanted([0.95, 0.88]),
        cost(
            "tcp-connection",
            "TCP, a new connection for each echo",
            ECHO,
            once,
            each("connection"),
        )
        .wanted([1.0, 0.9]),
        cost("bulk-down-1", "TCP, bulk to the client, 1 stream", SOURCE, down(1), GIB)
            .wanted([0.85, 0.75]),
        cost("bulk-down-4", "TCP, bulk to the client, 4 streams", SOURCE, down(4), GIB)
            .wanted([0.85, 0.75]),
        cost("bulk-up-1", "TCP, bulk to the application, 1 stream", SINK, up(1), GIB)
            .wanted([0.85, 0.75]),
        cost("bulk-up-4", "TCP, bulk to the application, 4 streams", SINK, up(4), GIB)
            .wanted([0.85, 0.75]),
    ]
}

fn http2_and_websocket() -> Vec<Work> {
    let title = "HTTP/2 with prior knowledge, 16 connections of 32 streams";
    let http2 = Work { task: Task::Http2, ..cost("http2", title, HTTP2, echo(0), each("request")) };
    let messages = Traffic {
        connections: 1000,
        greeting: Some(http::upgrade_request()),
        request: http::websocket_request().to_vec(),
        response: Response::Bytes(http::websocket_response().len()),
        pace: Pace::Open(10_000.0),
    };
    let title = "WebSocket, 1,000 connections with 10 messages a second each";
    let websocket = cost("websocket", title, HTTP, messages, each("message"));
    let figures = &[Figure::Cpu, Figure::P50, Figure::P99, Figure::P999];
    vec![http2.wanted([0.6, 0.4]), Work { figures, ..websocket.wanted([0.95, 0.88]) }]
}

fn latency() -> Vec<Work> {
    let get = ask(http::small_request(), http::SMALL_BODY.len(), CONNECTIONS);
    let works = [
        ("http1-latency", "HTTP/1.1, latency of small requests", HTTP, get, "request"),
        ("tcp-latency", "TCP, latency of echoes", ECHO, echo(CONNECTIONS), "message"),
    ];
    let latency = |(name, title, place, traffic, unit)| Work {
        task: Task::Latency(traffic),
        figures: &[Figure::P99, Figure::P50, Figure::P999, Figure::Cpu],
        ..cost(name, title, place, echo(0), each(unit)).wanted([1.0, 0.95])
    };
    works.map(latency).into()
}

fn idle() -> Vec<Work> {
    let get = ask(http::small_request(), http::SMALL_BODY.len(), IDLE_CONNECTIONS);
    let upgrade = ask(http::upgrade_request(), 0, IDLE_CONNECTIONS);
    let works = [
        ("tcp-idle", "TCP, idle connections", ECHO, echo(IDLE_CONNECTIONS), 768.0),
        ("http1-idle", "HTTP/1.1, idle connections", HTTP, get, 590.0),
        ("websocket-idle", "WebSocket, idle connections", HTTP, upgrade, 768.0),
    ];
    let idle = |(name, title, place, traffic, stretch)| Work {
        task: Task::Idle(traffic),
        figures: &[Figure::MemoryPerConnection],
        goals: Goals::Value([1536.0, stretch]),
        ..cost(name, title, place, echo(0), each("connection"))
    };
    let [tcp, http1, websocket] = works.map(idle);
    let http1 = http1.wanted_with_reuse(Goals::Value([1150.0, 590.0]));
    vec![tcp, http1, websocket]
}

fn start() -> Vec<Work> {
    let works = [
        ("tcp-start", "Start to accepting, as a TCP proxy", ECHO),
        ("http1-start", "Start to accepting, as an HTTP/1.1 proxy", HTTP),
    ];
    let start = |(name, title, place)| Work {
        task: Task::Start,
        figures: &[Figure::StartTime, Figure::MemoryAtRest],
        goals: Goals::Value([20.0, 5.0]),
        ..cost(name, title, place, echo(0), each("start"))
    };
    works.map(start).into()
}

fn drain() -> Vec<Work> {
    let works = [
        ("http1-drain", "Drain of HTTP/1.1 and WebSocket, as each does it best", HTTP, Drain::Best),
        ("http1-term", "SIGTERM with HTTP/1.1 and WebSocket", HTTP, Drain::Terminate),
        ("http2-drain", "Drain of HTTP/2, as each does it best", HTTP2, Drain::Best),
        ("http2-term", "SIGTERM with HTTP/2", HTTP2, Drain::Terminate),
        ("tcp-drain", "Drain of TCP, as each does it best", ECHO, Drain::Best),
        ("tcp-term", "SIGTERM with TCP", ECHO, Drain::Terminate),
    ];
    let drain = |(name, title, place, drain)| Work {
        task: Task::Drain(drain),
        figures: &[
            Figure::Lost,
            Figure::NewcomersLost,
            Figure::RequestsLost,
            Figure::StreamsCut,
            Figure::EndTime,
        ],
        goals: Goals::Value([0.0, 0.0]),
        ..cost(name, title, place, echo(0), each("client"))
    };
    works.map(drain).into()
}

fn cost(
    name: &'static str,
    title: &'static str,
    place: Place,
    traffic: Traffic,
    unit: Unit,
) -> Work {
    Work {
        name,
        title,
        mode: place.0,
        service: place.1,
        task: Task::Cost(traffic),
        unit,
        figures: &[Figure::Cpu, Figure::Rate],
        goals: Goals::Ratio([1.0, 1.0]),
        with_reuse: None,
    }
}

impl Work {
    /// At most so much of what the best rival takes, and what would be better still.
    fn wanted(self, goals: [f64; 2]) -> Self {
        Work { goals: Goals::Ratio(goals), ..self }
    }

    fn wanted_with_reuse(self, goals: Goals) -> Self {
        Work { with_reuse: Some(goals), ..self }
    }
}

/// One request after the other, each with an answer of so many bytes.
fn ask(request: Vec<u8>, body_bytes: usize, connections: usize) -> Traffic {
    let response = Response::Http(body_bytes);
    Traffic { connections, greeting: None, request, response, pace: Pace::Closed }
}

fn echo(connections: usize) -> Traffic {
    let response = Response::Bytes(128);
    Traffic { connections, greeting: None, request: vec![b'x'; 128], response, pace: Pace::Closed }
}

/// Bytes one way, without end.
fn stream(response: Response, connections: usize) -> Traffic {
    let block = if response == Response::Acknowledgements { 1 << 20 } else { 0 };
    let request = vec![b'x'; block];
    Traffic { connections, greeting: None, request, response, pace: Pace::Closed }
}
