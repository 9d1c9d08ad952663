//! What does a report cost, by how many connections it counts?

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ebbtide::api::report::Identity;
use ebbtide::connection::{ListenerStatus, Table};
use ebbtide::drain::{Drain, Schedule};
use ebbtide::protocol::Class;
use ebbtide::report::Source;

use super::step::{Question, Step};

pub(super) fn question() -> Question {
    let steps = [0, 100, 10_000].map(|connections| {
        let (source, table) = (source(), connections);
        let open: Vec<_> = (0..table)
            .map(|number: u16| {
                let class = if number.is_multiple_of(2) { Class::WebSocket } else { Class::Idle };
                let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
                source.table.register(peer, &source.listeners[0], class)
            })
            .collect();
        let bytes = encode(&source).len();
        Step::new(format!("{connections} connections"), bytes, move || {
            black_box((encode(&source), &open));
        })
    });
    Question { title: "A report, counted and written as JSON", unit: "report", steps: steps.into() }
}

fn encode(source: &Source) -> Vec<u8> {
    serde_json::to_vec(&source.report()).expect("JSON")
}

fn source() -> Source {
    let text = |text: &str| text.to_owned();
    let minute = Duration::from_secs(60);
    Source {
        identity: Identity {
            namespace: text("shop"),
            pod_name: text("cart-7d9c5b6f4-x2x7z"),
            pod_uid: text("0b5c2f0e-6f3c-4b59-9d8b-1f2e3d4c5b6a"),
            node_name: text("node-1"),
            pod_ip: text("10.1.2.3"),
            service: text("cart"),
        },
        run_id: ebbtide::report::run_id(),
        admin: ([127, 0, 0, 1], 17701).into(),
        application: None,
        started: Instant::now(),
        drain_timeout: minute,
        drain: Drain::new(Schedule {
            delay: minute,
            timeout: minute,
            quiet_period: minute,
            close_spread: minute,
            settled_for: minute,
        }),
        table: Table::default(),
        listeners: Arc::new([Arc::new(ListenerStatus::new(([127, 0, 0, 1], 8080).into()))]),
    }
}
