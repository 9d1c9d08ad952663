//! What can be seen from outside: the proxy's status, and what has reached the controller.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hyper::Uri;

use super::event::{Event, Tell};
use crate::api::client::{Call, Client};
use crate::api::report::Report;
use crate::command::exit::Failure;
use crate::controller::balancer::Log;
use crate::controller::{Controller, Gate, Settings, TargetView, Working};

/// Between looks at the proxy: short beside anything that people can see.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// Between looks at the controller, which hears things before the proxy acts on its answer.
const REPORT_INTERVAL: Duration = Duration::from_millis(20);

/// For an answer from this machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts a controller in this process that tells of what it does, and whose balancer takes its time.
pub fn controller(balancer_delay: Duration, tell: Tell) -> Result<Working, Failure> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let settings = Settings {
        listen,
        gate: Gate::open(listen),
        tls: None,
        max_targets: 1,
        max_source_rate: u32::MAX,
        max_report_rate: 50,
        lost_after: Duration::from_secs(30),
        max_draining: None,
        peers: Vec::new(),
        balancer: Box::new(Log { assume_weight_zero_after: Some(balancer_delay) }),
    };
    let controller = Controller::bind(settings, None, move |action, report| {
        let report = Box::new(report.clone());
        // The demo is over when nobody listens any more.
        let _ = tell.send(Event::Action { action, report, at: Instant::now() });
    })
    .map_err(Failure::unavailable)?;
    Ok(controller.start())
}

/// A client of whatever answers there.
pub fn client(addr: SocketAddr) -> Result<Client, Failure> {
    let base = Uri::builder().scheme("http").authority(addr.to_string()).path_and_query("/");
    Client::new(&base.build().map_err(Failure::bug)?, None).map_err(Failure::bug)
}

/// Tells what the proxy's `/status` says, until nobody wants to know.
pub async fn status(admin: Client, tell: Tell) {
    loop {
        if let Ok(reply) = admin.send(Call::get("/status").timeout(ANSWER_TIMEOUT)).await
            && let Ok(report) = reply.json::<Report>()
            && tell.send(Event::Status(Box::new(report))).is_err()
        {
            return;
        }
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

/// Tells what the controller's `/v1/targets` says, until nobody wants to know.
pub async fn reports(controller: Client, tell: Tell) {
    loop {
        for event in last_reports(&controller).await {
            if tell.send(event).is_err() {
                return;
            }
        }
        tokio::time::sleep(REPORT_INTERVAL).await;
    }
}

/// What the controller has of each target at this moment: here, of one.
pub async fn last_reports(controller: &Client) -> Vec<Event> {
    let reply = controller.send(Call::get("/v1/targets").timeout(ANSWER_TIMEOUT)).await;
    let targets = reply.and_then(|reply| reply.json::<Vec<TargetView>>()).unwrap_or_default();
    targets.into_iter().map(|target| Event::Reported(Box::new(target))).collect()
}
