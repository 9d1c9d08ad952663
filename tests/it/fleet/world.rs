//! Three pods, each in a network namespace of its own; HAProxy and the controllers where the bridge is.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::haproxy::Haproxy;
use crate::support::meetings::{APPLICATION, MEETINGS, Seen, keep_asking};
use crate::support::namespace::Namespace;
use crate::support::peers::Peer;
use crate::support::process::program;
use crate::support::{Directory, Ebbtide, Finished, PATIENCE};

/// Sets the bridge up on which everything stands.
pub const BRIDGE: &str =
    "ip link add fleet type bridge; ip addr add 10.99.0.1/24 dev fleet; ip link set fleet up";

pub const PODS: usize = 3;

/// How long a lame duck would last if nobody knew better.
pub const DRAIN_DELAY: Duration = Duration::from_secs(20);

const SEATS: usize = 60;
const HTTP_CLIENTS: usize = 12;

/// Who takes the reports.
#[derive(Clone, Copy)]
pub enum Controllers {
    One,
    /// Two that tell each other; the pods report to one or the other.
    Two,
    /// One behind something that disturbs.
    Behind(&'static str),
}

/// What a pod's application calls itself.
pub fn label(pod: usize, run: usize) -> String {
    format!("pod-{pod}-run-{run}")
}

/// HAProxy's name of a pod, and Kubernetes'.
pub fn name(pod: usize) -> String {
    format!("web-{pod}")
}

struct Pod {
    namespace: Namespace,
    application: Peer,
    proxy: Ebbtide,
}

pub struct World {
    pub haproxy: Haproxy,
    pub controllers: Vec<Ebbtide>,
    pub meetings: Peer,
    pub clients: Vec<JoinHandle<()>>,
    pub seen: Arc<Seen>,
    /// How often each pod was replaced.
    pub runs: [usize; PODS],
    pods: Vec<Pod>,
    report_to: Vec<String>,
    config: String,
    _faults: Option<Peer>,
    _directory: Directory,
}

fn address(pod: usize) -> SocketAddr {
    SocketAddr::from(([10, 99, 0, 11 + u8::try_from(pod).expect("few")], 8080))
}

impl World {
    pub fn new(controllers: Controllers) -> Self {
        let directory = Directory::new();
        let names: Vec<String> = (0..PODS).map(name).collect();
        let servers: Vec<_> =
            names.iter().enumerate().map(|(pod, name)| (name.as_str(), address(pod))).collect();
        let haproxy = Haproxy::new(&servers);
        let config = directory.write(
            "controller.yaml",
            format!(
                "balancer: {{haproxy: {{sockets: ['unix:{}']}}}}\n",
                haproxy.socket().display()
            ),
        );
        let peers = "http://10.99.0.1:17710,http://10.99.0.1:17711";
        let started: Vec<Ebbtide> = match controllers {
            Controllers::Two => {
                (0..2).map(|at| controller(&config, 17710 + at, &["--peer", peers])).collect()
            }
            Controllers::One | Controllers::Behind(_) => vec![controller(&config, 17710, &[])],
        };
        let mut report_to: Vec<String> =
            started.iter().map(|it| format!("http://{}", it.takes_reports())).collect();
        let faults = match controllers {
            Controllers::Behind(script) => {
                let faults = Peer::python_client(script, &["10.99.0.1:17710"]);
                report_to = vec![format!("http://10.99.0.1:{}", faults.line())];
                Some(faults)
            }
            _ => None,
        };
        let pods = (0..PODS)
            .map(|pod| {
                let namespace =
                    Namespace::on_bridge("fleet", &format!("{}/24", address(pod).ip()), pod);
                Pod::start(namespace, pod, 0, &report_to[pod % report_to.len()])
            })
            .collect::<Vec<_>>();
        let seen = Arc::new(Seen::default());
        haproxy.until_up(&names);
        let clients = (0..HTTP_CLIENTS)
            .map(|seed| keep_asking(haproxy.addr, seed, Arc::clone(&seen)))
            .collect();
        let url = format!("ws://{}/meeting", haproxy.addr);
        let meetings = Peer::python_client(MEETINGS, &[&url, &SEATS.to_string()]);
        let opened = meetings.json();
        for pod in 0..PODS {
            assert!(opened[label(pod, 0)].as_u64() > Some(SEATS as u64 / 6), "{opened}");
            seen.until_pod(&label(pod, 0));
        }
        World {
            haproxy,
            controllers: started,
            meetings,
            clients,
            seen,
            runs: [0; PODS],
            pods,
            report_to,
            config,
            _faults: faults,
            _directory: directory,
        }
    }

    /// Sends the pod's proxy what a kubelet sends, and lets its meetings end one after the other.
    pub fn begin_to_drain(&mut self, pod: usize) {
        self.pods[pod].proxy.signal(Signal::TERM);
        self.meetings.say(&format!("leave {} 1 3", label(pod, self.runs[pod])));
    }

    /// Waits for the pod's end, and for its deregistration; starts it anew at the same address and
    /// waits until it serves clients again.
    pub fn replace(&mut self, pod: usize) -> Finished {
        let place = self.pods.remove(pod);
        let finished = place.proxy.finish();
        assert_eq!(finished.code(), Some(0), "{finished:?}");
        let errors = place.application.said();
        assert!(errors.is_empty(), "the application saw {errors:?}");
        self.until(|world| world.haproxy.stat("pods", &name(pod), "status") == "MAINT");
        self.runs[pod] += 1;
        let report_to = &self.report_to[(pod + self.runs[pod]) % self.report_to.len()];
        let started = Pod::start(place.namespace, pod, self.runs[pod], report_to);
        self.pods.insert(pod, started);
        self.seen.until_pod(&label(pod, self.runs[pod]));
        finished
    }

    /// Kills the controller as no signal can be heeded, and starts another in its place.
    pub fn restart_controller(&mut self) {
        // Dropped is killed.
        self.controllers.remove(0);
        self.controllers.push(controller(&self.config, 17710, &[]));
    }

    /// Waits until a controller has logged that `action` is applied.
    pub fn until_applied(&self, action: &str) {
        self.controllers[0]
            .line(action, |line| line["message"] == "applied" && line["action"] == action);
    }

    /// Waits for a line of the controller's log behind its first `skip`.
    pub fn until_logged(&self, skip: usize, wanted: impl Fn(&Value) -> bool) {
        self.until(|world| world.controllers[0].log()[skip..].iter().any(&wanted));
    }

    fn until(&self, wanted: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(self) {
            assert!(Instant::now() < deadline, "{:#?}", self.controllers[0].log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn controller(config: &str, port: u16, args: &[&str]) -> Ebbtide {
    let listen = format!("10.99.0.1:{port}");
    Ebbtide::start(
        &[&["controller", "--config", config, "--insecure", "--listen", &listen], args].concat(),
    )
}

impl Pod {
    fn start(namespace: Namespace, pod: usize, run: usize, report_to: &str) -> Self {
        let label = label(pod, run);
        let (application, proxy) = namespace.enter(|| {
            let application = Peer::node(&APPLICATION.replace("POD", &label));
            let mut command = Command::new(program());
            command
                .args(["proxy", "--upstream", &application.upstream])
                .args(["--listen", &address(pod).to_string(), "--protocol", "auto"])
                .args(["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"])
                .args(["--termination-log", "/dev/null", "--controller", report_to])
                .args(["--drain-delay", "20s", "--quiet-period", "0", "--drain-timeout", "60s"])
                .args(["--close-spread", "2s", "--settled-for", "0", "--settle-period", "100ms"])
                .envs([
                    ("EBBTIDE_NAMESPACE", "shop"),
                    ("EBBTIDE_POD_NAME", &name(pod)),
                    ("EBBTIDE_POD_UID", &label),
                    ("EBBTIDE_POD_IP", &address(pod).ip().to_string()),
                ]);
            let proxy = Ebbtide::spawn(command);
            assert_eq!(proxy.addr(), address(pod));
            (application, proxy)
        });
        Pod { namespace, application, proxy }
    }
}
