//! Before its silence costs a pod its place at HAProxy, somebody else must say that it is gone; and a pod gets its
//! place when its application runs.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::api::{report, send};
use crate::support::haproxy::Haproxy;
use crate::support::process::program;
use crate::support::{Directory, Ebbtide, PATIENCE, application, echo, free_port, http};

/// HAProxy before pods that it does not check, and a controller of it.
struct Site {
    haproxy: Haproxy,
    config: String,
    _directory: Directory,
}

impl Site {
    fn new(servers: &[(&str, SocketAddr)], socket: &str) -> Self {
        let directory = Directory::new();
        let mut sections = "backend pods\nbalance roundrobin\n".to_owned();
        for (name, addr) in servers {
            sections.extend(["server ", name, " ", &addr.to_string(), "\n"]);
        }
        let haproxy = Haproxy::start(&directory, "tcp", &sections);
        let socket = directory.path().join(socket);
        let balancer =
            format!("balancer: {{haproxy: {{sockets: ['unix:{}']}}}}\n", socket.display());
        let config = directory.write("controller.yaml", balancer);
        Site { haproxy, config, _directory: directory }
    }

    /// One that waits as briefly as it may before it doubts a silent pod.
    fn controller(&self) -> Ebbtide {
        let listen = ["--listen", "127.0.0.1:0", "--lost-after", "15s"];
        Ebbtide::start(&[&["controller", "--config", &self.config][..], &listen].concat())
    }

    fn status(&self, server: &str) -> String {
        self.haproxy.stat("pods", server, "status")
    }

    fn until_status(&self, server: &str, wanted: &str) {
        until(&format!("{server} {wanted}"), || self.status(server) == wanted);
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

/// A proxy that knows its pod's address, and whose endpoint others reach there.
fn pod(name: &str, listen: SocketAddr, upstream: SocketAddr, args: &[&str]) -> Ebbtide {
    let mut command = Command::new(program());
    command
        .args(["proxy", "--upstream", &upstream.to_string(), "--listen", &listen.to_string()])
        .args(["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .args(["--termination-log", "/dev/null"])
        .args(args)
        .envs([("EBBTIDE_NAMESPACE", "prod"), ("EBBTIDE_POD_NAME", name)])
        .envs([("EBBTIDE_POD_UID", name), ("EBBTIDE_POD_IP", "127.0.0.1")]);
    Ebbtide::spawn(command)
}

fn url(addr: SocketAddr) -> String {
    format!("http://{addr}")
}

/// Passes the first connection on to `first` and all later ones to `rest`, as a Service does that has two replicas.
fn service(first: SocketAddr, rest: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        let replicas = std::iter::once(first).chain(std::iter::repeat(rest));
        for (client, replica) in listener.incoming().zip(replicas) {
            let (Ok(client), Ok(replica)) = (client, TcpStream::connect(replica)) else { return };
            pass(&client, &replica);
            pass(&replica, &client);
        }
    });
    addr
}

fn pass(from: &TcpStream, to: &TcpStream) {
    let mut from = from.try_clone().expect("another handle");
    let mut to = to.try_clone().expect("another handle");
    std::thread::spawn(move || {
        let _either_may_break = io::copy(&mut from, &mut to);
        let _it_may_have_gone = to.shutdown(std::net::Shutdown::Write);
    });
}

fn is_lost(line: &Value, pod: &str) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    message.starts_with("lost") && line["pod"] == pod
}

/// Waits until the controller doubts the pod, and for what it did about that.
fn doubted(controller: &Ebbtide, pod: &str) -> Value {
    controller.line("of a doubt", |line| {
        let is_look = line["message"] == "looked at" && line["silent"] == true;
        is_look && line["pod"] == pod || is_lost(line, pod)
    })
}

fn target(controller: &Ebbtide, id: &str) -> Value {
    let path = format!("/v1/targets/{id}");
    http::request(controller.takes_reports(), "GET", &path).expect("an answer").json()
}

#[test]
fn of_two_replicas_that_do_not_know_of_each_other_neither_deregisters_what_reports_to_the_other() {
    let names = ["cart", "shop"];
    let addrs = names.map(|_| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let site = Site::new(&[(names[0], addrs[0]), (names[1], addrs[1])], "runtime");
    let (first, second) = (site.controller(), site.controller());
    let mut pods: Vec<_> = (0..2)
        .map(|at| {
            let service = service(second.takes_reports(), first.takes_reports());
            pod(names[at], addrs[at], echo(), &["--controller", &url(service)])
        })
        .collect();
    for name in names {
        let doubt = doubted(&second, name);
        assert_eq!(doubt["seen"], "Answers", "{doubt}");
        assert_eq!(site.status(name), "no check");
        let target = target(&second, &format!("prod~{name}~{name}"));
        assert_eq!((&target["goal"], &target["lost"]), (&json!("registered"), &json!(false)));
    }
    // Dropped is killed.
    drop(pods.remove(0));
    for controller in [&first, &second] {
        controller.line("of a loss", |line| is_lost(line, names[0]));
    }
    site.until_status(names[0], "MAINT");
    assert_eq!(site.status(names[1]), "no check");
    let lost = second.log().iter().any(|line| is_lost(line, names[1]));
    assert!(!lost, "it reports to the other one");
}

#[test]
fn a_pod_that_gets_no_cpu_keeps_its_place_and_one_that_is_killed_does_not() {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let site = Site::new(&[("cart", addr)], "runtime");
    let controller = site.controller();
    let pod = pod("cart", addr, echo(), &["--controller", &url(controller.takes_reports())]);
    // That it can be asked is known.
    controller
        .line("of a look", |line| line["message"] == "looked at" && line["seen"] == "Answers");
    pod.signal(Signal::STOP);
    let doubt = doubted(&controller, "cart");
    assert_eq!(doubt["seen"], "Busy", "{doubt}");
    assert_eq!(site.status("cart"), "no check");
    drop(pod);
    controller.line("of a loss", |line| is_lost(line, "cart"));
    site.until_status("cart", "MAINT");
}

#[test]
fn a_silent_pod_of_which_nobody_can_tell_keeps_its_place() {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let site = Site::new(&[("cart", addr)], "runtime");
    let controller = site.controller();
    let mut once = report("cart", 1, "Serving");
    once["podIP"] = json!("127.0.0.1");
    once["listeners"] = json!([{"address": "::", "port": addr.port(), "state": "Accepting"}]);
    let reply = send(controller.takes_reports(), "POST /v1/reports", &[], &once.to_string());
    assert_eq!(reply.status, 200, "{}", reply.body);
    let doubt = doubted(&controller, "cart");
    assert_eq!(doubt["seen"], "Nothing", "{doubt}");
    controller.line("of what is missing", |line| {
        line["message"]
            .as_str()
            .is_some_and(|it| it.contains("nobody can tell whether it is there"))
    });
    assert_eq!(target(&controller, "shop~cart~")["goal"], "hold");
    assert_eq!(site.status("cart"), "no check");
}

#[test]
fn haproxys_own_check_says_whether_a_silent_pod_is_there() {
    let there = echo();
    let gone = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let haproxy = Haproxy::new(&[("cart", there), ("shop", gone)]);
    let directory = Directory::new();
    let socket = haproxy.socket().display();
    let config = format!("balancer: {{haproxy: {{sockets: ['unix:{socket}']}}}}\n");
    let config = directory.write("controller.yaml", config);
    let args = ["--listen", "127.0.0.1:0", "--lost-after", "15s"];
    let controller = Ebbtide::start(&[&["controller", "--config", &config][..], &args].concat());
    for (name, addr) in [("cart", there), ("shop", gone)] {
        let mut once = report(name, 1, "Serving");
        once["podIP"] = json!("127.0.0.1");
        once["listeners"] = json!([{"address": "::", "port": addr.port(), "state": "Accepting"}]);
        let reply = send(controller.takes_reports(), "POST /v1/reports", &[], &once.to_string());
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    assert_eq!(doubted(&controller, "cart")["seen"], "CheckedUp");
    controller.line("of a loss", |line| is_lost(line, "shop"));
    until("shop MAINT", || haproxy.stat("pods", "shop", "status") == "MAINT");
    assert_eq!(haproxy.stat("pods", "cart", "status"), "UP");
}

#[test]
fn a_pod_is_registered_when_its_application_takes_connections() {
    let [addr, upstream] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let site = Site::new(&[("cart", addr)], "runtime");
    site.haproxy.tell("set server pods/cart state maint");
    let controller = site.controller();
    let pod = pod("cart", addr, upstream, &["--controller", &url(controller.takes_reports())]);
    pod.until_metric("ebbtide_report_attempts_total{result=\"ok\"} 1");
    let alone = target(&controller, "prod~cart~cart");
    assert_eq!(alone["report"]["applicationReached"], false, "{alone}");
    assert_eq!(alone["goal"], "awaitsApplication");
    assert_eq!(site.status("cart"), "MAINT");
    let listener = TcpListener::bind(upstream).expect("the port is free");
    application::listen(listener, drop);
    site.until_status("cart", "no check");
    assert_eq!(target(&controller, "prod~cart~cart")["report"]["applicationReached"], true);
}

#[test]
fn a_proxy_does_not_wait_for_a_balancer_that_refuses() {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    // It may look, and not command.
    let site = Site::new(&[("cart", addr)], "operator");
    let controller = site.controller();
    let url = url(controller.takes_reports());
    // Longer than this test waits for anything.
    let patient = ["--controller", &url, "--final-report-timeout", "1h", "--drain-delay", "0"];
    let pod = pod("cart", addr, echo(), &patient);
    pod.until_metric("ebbtide_report_attempts_total{result=\"ok\"} 1");
    pod.signal(Signal::TERM);
    let finished = pod.finish();
    assert_eq!(finished.code(), Some(0), "{finished:?}");
    assert_eq!(finished.lines("final report")[0]["delivery"], "Refused");
}

#[test]
fn a_clock_that_was_wrong_once_costs_a_pod_nothing() {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let site = Site::new(&[("cart", addr)], "runtime");
    let controller = site.controller();
    let mut wrong = report("cart", 700, "Serving");
    wrong["namespace"] = json!("prod");
    wrong["podUID"] = json!("cart");
    wrong["startTime"] = json!("9999-12-31T23:59:59Z");
    let reply = send(controller.takes_reports(), "POST /v1/reports", &[], &wrong.to_string());
    assert_eq!(reply.status, 200, "{}", reply.body);
    // Its container is restarted, and the clock is right.
    let pod = pod("cart", addr, echo(), &["--controller", &url(controller.takes_reports())]);
    pod.until_metric("ebbtide_report_attempts_total{result=\"ok\"} 1");
    let run = &pod.status()["runId"];
    assert_eq!(&target(&controller, "prod~cart~cart")["report"]["runId"], run);
}
