//! The balancers of clouds, each against a service on this machine.

mod aws;
mod reviews;
mod tencent;
mod tke;

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use ebbtide::api::client::{Call, Client};
use ebbtide::controller::balancer::{Action, Balancer, Config, ErrorKind, Member, Order, Outcome};
use serde_json::Value;
use tokio::runtime::Runtime;

/// A service in Python, killed when dropped.
struct Service {
    child: Child,
    port: u16,
}

impl Service {
    /// Starts `script` of support/, which says its port first.
    fn start(script: &str) -> Self {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support");
        let mut command = Command::new("python3");
        command.arg(format!("{dir}/{script}")).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3, with tests/requirements.txt installed");
        let mut line = String::new();
        let said = child.stdout.take().expect("a pipe");
        BufReader::new(said).read_line(&mut line).expect("a line");
        let port = line.trim().parse().expect("a port; is tests/requirements.txt installed?");
        Service { child, port }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sends `wish` to the service's /control, and gives the answer.
    fn control(&self, wish: &Value) -> Value {
        let base = self.url().parse().expect("a URL");
        run(async {
            let client = Client::new(&base, None).expect("a client");
            let call = Call::post("/control").json(wish).expect("JSON").max_bytes(8 << 20);
            client.send(call).await.expect("an answer").json().expect("JSON")
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Gone already, if it has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One runtime for all of a test, because connections live in the runtime that made them.
fn run<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    });
    RUNTIME.block_on(future)
}

/// The balancer that `yaml` describes.
fn balancer(yaml: &str) -> Box<dyn Balancer> {
    let config: Config = serde_saphyr::from_str(yaml).expect("the right fields");
    config.build().expect("the right values")
}

fn member(name: &str, ip: impl Into<IpAddr>, port: u16) -> Member {
    Member {
        namespace: "shop".to_owned(),
        pod_name: name.to_owned(),
        pod_uid: format!("uid-of-{name}"),
        service: "chat".to_owned(),
        ip: Some(ip.into()),
        ports: vec![port],
    }
}

fn order(action: Action, member: &Member) -> Order {
    Order { action, member: member.clone(), former_weight: None, issued_at: 1 }
}

/// Gives the orders once.
fn apply(balancer: &dyn Balancer, orders: &[Order]) -> Vec<Outcome> {
    let outcomes = run(balancer.apply(orders));
    assert_eq!(outcomes.len(), orders.len(), "each order has its outcome");
    outcomes
}

/// The one outcome of one order.
fn apply_one(balancer: &dyn Balancer, action: Action, member: &Member) -> Outcome {
    apply(balancer, &[order(action, member)]).remove(0)
}

/// Sees that the outcome is a failure of this kind whose message says `what`.
fn expect_failure(outcome: &Outcome, kind: ErrorKind, what: &str) {
    let Outcome::Failed(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.contains(what), "`{what}` in: {error}");
}
