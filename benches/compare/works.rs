//! What the peers have to do.

use super::application::Service;
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
    /// What Ebbtide's ratio to the best of its rivals is to be at most, and the same for the bold.
    pub(super) goal: Option<[f64; 2]>,
}

pub(super) enum Task {
    /// CPU time per unit of work, as much work as one core does.
    Cost(Traffic),
    /// The same, done by h2load and nghttpd.
    Http2,
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
#[derive(Clone)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) title: String,
}

const fn each(name: &'static str) -> Unit {
    Unit { name, size: 1.0, time: "µs", times: 1e6 }
}

const GIB: Unit = Unit { name: "GiB", size: (1_u64 << 30) as f64, time: "s", times: 1.0 };

/// A pod's connections that are busy at the same moment.
const CONNECTIONS: usize = 64;

/// Enough that the load is never waited for, where each has its own connection or a large body.
const FEW_CONNECTIONS: usize = 16;

/// HTTP/2 of h2load.
pub(super) const HTTP2_CONNECTIONS: usize = 16;
pub(super) const HTTP2_STREAMS: usize = 32;

impl Work {
    /// What is measured of it; the first decides.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let Unit { name, time, .. } = self.unit;
        vec![
            Figure { name: "cpu", title: format!("CPU, {time}/{name}") },
            Figure { name: "rate", title: format!("{name}/s on one core") },
        ]
    }
}

pub(super) fn all() -> Vec<Work> {
    let echo = |pace, connections| Traffic {
        connections,
        greeting: None,
        request: vec![b'x'; 128],
        response: Response::Bytes(128),
        pace,
    };
    let http = |request, pace, connections| Traffic {
        connections,
        greeting: None,
        request,
        response: Response::Http,
        pace,
    };
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
    let cost = |name, title, mode, service, traffic, unit, goal| Work {
        name,
        title,
        mode,
        service,
        task: Task::Cost(traffic),
        unit,
        goal: Some(goal),
    };
    let (request, message) = (each("request"), each("message"));
    let connection = each("connection");
    vec![
        cost(
            "http1-small",
            "HTTP/1.1, small requests on kept connections",
            Mode::Http,
            Service::Http,
            http(http::small_request(), Pace::Closed, CONNECTIONS),
            request,
            [0.95, 0.88],
        ),
        cost(
            "http1-response",
            "HTTP/1.1, responses of 64 KiB",
            Mode::Http,
            Service::Http,
            http(http::large_response_request(), Pace::Closed, FEW_CONNECTIONS),
            request,
            [1.0, 0.8],
        ),
        cost(
            "http1-body",
            "HTTP/1.1, request bodies of 64 KiB",
            Mode::Http,
            Service::Http,
            http(http::large_body_request(), Pace::Closed, FEW_CONNECTIONS),
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
            http(http::small_request(), Pace::NewConnection, FEW_CONNECTIONS),
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
            goal: Some([0.6, 0.4]),
        },
    ]
}
