//! The controller's HAProxy adapter against the HAProxy that Debian ships.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ebbtide::controller::balancer::{Action, Applied, ErrorKind, Member, Outcome};
use rustix::process::Signal;

use crate::support::balancer::{Driven, applied, failed, order};
use crate::support::haproxy::Haproxy;
use crate::support::{Directory, PATIENCE, connect, echo, exchange, free_port};

/// A pod at this address.
fn pod(name: &str, addr: SocketAddr) -> Member {
    Member {
        namespace: "shop".into(),
        pod_name: name.into(),
        ip: Some(addr.ip()),
        ports: vec![addr.port()],
        ..Member::default()
    }
}

/// Two echo servers behind the backend `pods`, weights 50 and 1, and both in `other`, where the
/// first has another weight.
fn sections(a: SocketAddr, b: SocketAddr) -> String {
    format!(
        "backend pods
           balance roundrobin
           server a {a} weight 50
           server b {b}
         backend other
           balance leastconn
           server a {a} weight 7
           server b {b}"
    )
}

/// One HAProxy before two echo servers.
struct Scene {
    directory: Directory,
    haproxy: Haproxy,
    a: Member,
    b: Member,
}

impl Scene {
    fn new() -> Self {
        let (a, b) = (echo(), echo());
        let directory = Directory::new();
        let haproxy = Haproxy::start(&directory, "tcp", &sections(a, b));
        Scene { directory, haproxy, a: pod("a", a), b: pod("b", b) }
    }

    /// The adapter for its runtime socket, with more lines of configuration.
    fn driven(&self, more: &str) -> Driven {
        self.driven_by("runtime", more)
    }

    fn driven_by(&self, socket: &str, more: &str) -> Driven {
        Driven::new(&yaml(&[&self.directory], socket, more))
    }

    fn state(&self, server: &str) -> [String; 2] {
        ["pods", "other"].map(|backend| self.haproxy.stat(backend, server, "status"))
    }

    fn weights(&self, server: &str) -> [String; 2] {
        ["pods", "other"].map(|backend| self.haproxy.stat(backend, server, "weight"))
    }
}

fn yaml(directories: &[&Directory], socket: &str, more: &str) -> String {
    let sockets: Vec<String> =
        directories.iter().map(|it| format!("unix:{}", it.path().join(socket).display())).collect();
    format!("haproxy: {{ sockets: {sockets:?}{more} }}")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_drained_server_keeps_its_session_and_gets_no_other() {
    let scene = Scene::new();
    let driven = scene.driven("");
    let mut clients: Vec<_> = (0..4).map(|_| connect(scene.haproxy.addr)).collect();
    for client in &mut clients {
        exchange(client, b"before");
    }
    let sessions = scene.haproxy.stat("pods", "a", "scur").parse().expect("a count");
    assert!(sessions >= 2, "most weight is on a");

    let first = applied(driven.does(Action::WeightZero, &scene.a));
    assert_eq!(first.sessions, Some(sessions));
    assert_eq!(scene.state("a"), ["DRAIN", "DRAIN"]);
    assert_eq!(scene.weights("a"), ["50", "7"], "HAProxy keeps the weights");
    assert_eq!(scene.state("b"), ["no check", "no check"]);
    for client in &mut clients {
        exchange(client, b"after");
    }
    for _ in 0..10 {
        exchange(&mut connect(scene.haproxy.addr), b"new");
    }
    assert_eq!(scene.haproxy.stat("pods", "a", "stot"), sessions.to_string());

    drop(clients);
    until("its session is over", || {
        applied(driven.does(Action::WeightZero, &scene.a)).sessions == Some(0)
    });

    assert_eq!(driven.does(Action::Register, &scene.a), Applied::default().into());
    assert_eq!(scene.state("a"), ["no check", "no check"]);
    assert_eq!(driven.does(Action::Register, &scene.a), Applied::default().into());
}

#[test]
fn a_session_in_the_servers_own_queue_is_waited_for() {
    let (a, b) = (echo(), echo());
    let directory = Directory::new();
    // Only what must go to this server stays in its queue; the rest is given to others.
    let sections = format!(
        "backend pods
           stick-table type ip size 10
           stick on src
           no option redispatch
           server a {a} maxconn 1
           server b {b} backup"
    );
    let haproxy = Haproxy::start(&directory, "tcp", &sections);
    let driven = Driven::new(&yaml(&[&directory], "runtime", ""));
    let mut first = connect(haproxy.addr);
    exchange(&mut first, b"first");
    let mut second = connect(haproxy.addr);
    until("the second is queued", || haproxy.stat("pods", "a", "qcur") == "1");

    let outcome = driven.does(Action::WeightZero, &pod("a", a));
    assert!(matches!(outcome, Outcome::NotYet(_)), "{outcome:?}");
    assert_eq!(haproxy.stat("pods", "a", "status"), "DRAIN");

    drop(first);
    exchange(&mut second, b"second");
    assert_eq!(applied(driven.does(Action::WeightZero, &pod("a", a))).sessions, Some(1));
}

#[test]
fn a_weight_of_zero_is_undone_by_registering() {
    let scene = Scene::new();
    let driven = scene.driven(", weight-zero: weight");
    let zero = applied(driven.does(Action::WeightZero, &scene.a));
    assert_eq!(zero, Applied { sessions: Some(0), ..Applied::default() }, "they differ");
    assert_eq!(scene.weights("a"), ["0", "0"]);
    assert_eq!(applied(driven.does(Action::WeightZero, &scene.a)).former_weight, None);
    applied(driven.does(Action::Register, &scene.a));
    assert_eq!(scene.weights("a"), ["50", "7"]);

    // One that was set by hand is not in HAProxy's configuration: it comes back with the order.
    let driven = scene.driven(", weight-zero: weight, backends: [pods]");
    scene.haproxy.tell("set server pods/a weight 20");
    let zero = applied(driven.does(Action::WeightZero, &scene.a));
    assert_eq!(zero.former_weight, Some(20));
    assert_eq!(scene.weights("a"), ["0", "7"]);
    let mut register = order(Action::Register, &scene.a);
    register.former_weight = zero.former_weight;
    applied(driven.apply(&[register]).remove(0));
    assert_eq!(scene.weights("a"), ["20", "7"]);
}

#[test]
fn deregistering_leaves_a_server_in_maintenance() {
    let scene = Scene::new();
    let driven = scene.driven("");
    applied(driven.does(Action::WeightZero, &scene.a));
    applied(driven.does(Action::Deregister, &scene.a));
    assert_eq!(scene.state("a"), ["MAINT", "MAINT"]);
    applied(driven.does(Action::Deregister, &scene.a));
    // Late, and harmless.
    applied(driven.does(Action::WeightZero, &scene.a));
    assert_eq!(scene.state("a"), ["MAINT", "MAINT"]);
    applied(driven.does(Action::Register, &scene.a));
    assert_eq!(scene.state("a"), ["no check", "no check"]);
}

#[test]
fn a_server_is_deleted_when_its_sessions_are_over() {
    let scene = Scene::new();
    let driven = scene.driven(", deregister: delete, backends: [pods]");
    scene.haproxy.tell("set server pods/b state maint");
    let mut client = connect(scene.haproxy.addr);
    exchange(&mut client, b"before");

    let outcome = driven.does(Action::Deregister, &scene.a);
    assert!(matches!(outcome, Outcome::NotYet(_)), "{outcome:?}");
    assert_eq!(scene.haproxy.stat("pods", "a", "status"), "MAINT");
    exchange(&mut client, b"it goes on");

    drop(client);
    until("it is deleted", || match driven.does(Action::Deregister, &scene.a) {
        Outcome::NotYet(_) => false,
        outcome => applied(outcome) == Applied::default(),
    });
    assert!(!scene.haproxy.has("pods", "a"));
    assert!(scene.haproxy.has("other", "a"), "only the named backends are touched");
    applied(driven.does(Action::Deregister, &scene.a));
    failed(
        driven.does(Action::Register, &scene.a),
        ErrorKind::UnknownTarget,
        &["show servers state"],
    );
}

#[test]
fn a_server_that_others_refer_to_is_not_deleted_and_the_error_says_why() {
    let a = echo();
    let directory = Directory::new();
    let sections = format!("backend pods\nserver a {a} check\nserver b {a} track pods/a");
    let haproxy = Haproxy::start(&directory, "tcp", &sections);
    let driven = Driven::new(&yaml(&[&directory], "runtime", ", deregister: delete, match: name"));
    let outcome = driven.does(Action::Deregister, &pod("a", a));
    failed(outcome, ErrorKind::Refused, &["other configuration elements", "deregister: maint"]);
    // And one that follows another is not said to be back before that one is.
    let outcome = driven.does(Action::Register, &pod("b", a));
    failed(outcome, ErrorKind::Refused, &["pods/b", "track"]);
    applied(driven.does(Action::Register, &pod("a", a)));
    applied(driven.does(Action::Register, &pod("b", a)));
    assert!(haproxy.stat("pods", "a", "status").starts_with("UP"));
}

#[test]
fn an_absent_server_is_added_drained_and_deleted() {
    let scene = Scene::new();
    let driven = scene.driven(
        ", backends: [pods], deregister: delete, \
         add-server: { options: \"check inter 100ms rise 1 weight 9\" }",
    );
    scene.haproxy.tell("set server pods/a state maint");
    scene.haproxy.tell("set server pods/b state maint");
    let new = pod("web-0", echo());
    let addr = SocketAddr::new(new.ip.expect("an address"), new.ports[0]);
    let name = format!("web-0_{addr}");
    // It is not there: nothing has a weight of zero.
    failed(driven.does(Action::WeightZero, &new), ErrorKind::UnknownTarget, &["127.0.0.1"]);

    applied(driven.does(Action::Register, &new));
    until("its check has passed", || scene.haproxy.stat("pods", &name, "check_status") == "L4OK");
    assert_eq!(scene.haproxy.stat("pods", &name, "weight"), "9");
    let mut client = connect(scene.haproxy.addr);
    exchange(&mut client, b"through the new one");
    applied(driven.does(Action::Register, &new));

    assert_eq!(applied(driven.does(Action::WeightZero, &new)).sessions, Some(1));
    drop(client);
    until("it is deleted", || matches!(driven.does(Action::Deregister, &new), Outcome::Applied(_)));
    assert!(!scene.haproxy.has("pods", &name));

    // An IPv6 address, and a pod of the same name that has come back with another address.
    for ip in ["::1", "127.0.0.2"] {
        let ip: IpAddr = ip.parse().expect("an address");
        let again = Member { ip: Some(ip), ..new.clone() };
        applied(driven.does(Action::Register, &again));
        assert!(scene.haproxy.has("pods", &format!("web-0_{ip}:{}", addr.port())));
    }
}

#[test]
fn a_backend_that_cannot_take_new_servers_is_named() {
    let a = echo();
    let directory = Directory::new();
    let sections = format!("backend pods\nbalance static-rr\nserver a {a}");
    let _haproxy = Haproxy::start(&directory, "tcp", &sections);
    let more = ", backends: [pods], deregister: delete, add-server: {}";
    let driven = Driven::new(&yaml(&[&directory], "runtime", more));
    let outcome = driven.does(Action::Register, &pod("web-0", echo()));
    failed(outcome, ErrorKind::Refused, &["add server pods/web-0", "roundrobin"]);
}

#[test]
fn nothing_is_applied_before_all_haproxies_have_confirmed() {
    let scene = Scene::new();
    let (a, b) = (&scene.a, &scene.b);
    let addr = |it: &Member| SocketAddr::new(it.ip.expect("an address"), it.ports[0]);
    let sections = sections(addr(a), addr(b));
    let directory = Directory::new();
    let driven = Driven::new(&yaml(&[&scene.directory, &directory], "runtime", ""));
    let second = directory.path().join("runtime").display().to_string();

    // Not started yet; then killed, with its socket left behind.
    failed(driven.does(Action::WeightZero, a), ErrorKind::Unreachable, &[&second, "running"]);
    assert_eq!(scene.state("a"), ["DRAIN", "DRAIN"], "the other one has done it");
    drop(Haproxy::start(&directory, "tcp", &sections));
    failed(driven.does(Action::WeightZero, a), ErrorKind::Unreachable, &[&second, "running"]);

    let haproxy = Haproxy::start(&directory, "tcp", &sections);
    let mut client = connect(haproxy.addr);
    exchange(&mut client, b"through the second");
    assert_eq!(haproxy.stat("pods", "a", "scur"), "1");
    assert_eq!(applied(driven.does(Action::WeightZero, a)).sessions, Some(1));
    assert_eq!(haproxy.stat("pods", "a", "status"), "DRAIN");

    // One that does not know the target is as bad as one that is down.
    haproxy.tell("set server pods/b state maint; del server pods/b");
    haproxy.tell("set server other/b state maint; del server other/b");
    assert!(!haproxy.has("pods", "b") && !haproxy.has("other", "b"));
    failed(driven.does(Action::WeightZero, b), ErrorKind::UnknownTarget, &[&second]);
    applied(driven.does(Action::Deregister, b));
}

#[test]
fn a_socket_that_may_not_command_is_denied() {
    let scene = Scene::new();
    let driven = scene.driven_by("operator", "");
    let words = ["Permission denied", "level admin", "operator"];
    for action in [Action::WeightZero, Action::Deregister] {
        failed(driven.does(action, &scene.a), ErrorKind::Denied, &words);
    }
    assert_eq!(scene.state("a"), ["no check", "no check"]);
    // What it can see is so already.
    applied(driven.does(Action::Register, &scene.a));
}

#[test]
fn a_wrong_name_is_never_at_weight_zero() {
    let scene = Scene::new();
    let stranger = pod("stranger", SocketAddr::from(([127, 0, 0, 1], free_port())));
    for (more, words) in [
        ("", ["127.0.0.1", "haproxy.match"]),
        (", match: name", ["\"stranger\"", "haproxy.match"]),
        (", backends: [pods]", ["pods", "haproxy.match"]),
    ] {
        let driven = scene.driven(more);
        failed(driven.does(Action::WeightZero, &stranger), ErrorKind::UnknownTarget, &words);
        failed(driven.does(Action::Register, &stranger), ErrorKind::UnknownTarget, &words);
        applied(driven.does(Action::Deregister, &stranger));
    }
    let driven = scene.driven(", backends: [pods, pdos]");
    for action in [Action::WeightZero, Action::Register] {
        failed(driven.does(action, &scene.a), ErrorKind::Refused, &["`pdos`", "haproxy.backends"]);
    }
    let nowhere = Member { pod_name: "a".into(), ..Member::default() };
    let outcome = scene.driven("").does(Action::WeightZero, &nowhere);
    failed(outcome, ErrorKind::Refused, &["match: name"]);
    applied(scene.driven(", match: name").does(Action::WeightZero, &nowhere));
    assert_eq!(scene.state("a"), ["DRAIN", "DRAIN"]);
}

#[test]
fn a_batch_is_done_as_far_as_it_can_be() {
    let scene = Scene::new();
    let driven = scene.driven(", weight-zero: weight");
    let stranger = pod("stranger", SocketAddr::from(([127, 0, 0, 1], free_port())));
    let outcomes = driven.apply(&[
        order(Action::WeightZero, &scene.a),
        order(Action::WeightZero, &stranger),
        order(Action::Deregister, &scene.b),
    ]);
    let [first, second, third] = <[Outcome; 3]>::try_from(outcomes).expect("three");
    applied(first);
    failed(second, ErrorKind::UnknownTarget, &[]);
    applied(third);
    assert_eq!(scene.weights("a"), ["0", "0"]);
    assert_eq!(scene.state("b"), ["MAINT", "MAINT"]);
}

#[test]
fn many_servers_are_drained_in_one_batch() {
    let directory = Directory::new();
    let servers: Vec<Member> = (1..=100)
        .map(|it| pod(&format!("pod-{it}"), SocketAddr::from(([127, 1, 0, it], 8080))))
        .collect();
    let mut sections = String::from("backend pods\n");
    for member in &servers {
        let ip = member.ip.expect("an address");
        writeln!(sections, "server {} {ip}:8080", member.pod_name).expect("text");
    }
    // Far more than a buffer of HAProxy's in the reply.
    for it in 0..2000 {
        let (high, low) = (it / 200, it % 200 + 1);
        writeln!(sections, "server other-{it} 127.2.{high}.{low}:1").expect("text");
    }
    let haproxy = Haproxy::start(&directory, "tcp", &sections);
    let driven = Driven::new(&yaml(&[&directory], "runtime", ""));
    let orders: Vec<_> = servers.iter().map(|it| order(Action::WeightZero, it)).collect();
    for outcome in driven.apply(&orders) {
        assert_eq!(applied(outcome).sessions, Some(0));
    }
    let table = haproxy.tell("show stat");
    assert_eq!(table.matches(",DRAIN,").count(), 100);
}

#[test]
fn a_hostile_pod_name_is_no_command() {
    let scene = Scene::new();
    let names = [
        "a; set server pods/b state maint",
        "a\nset server pods/b state maint",
        "a state maint",
        "a\\ b",
        "",
        "x<<",
        "é",
    ];
    let by_name = scene.driven(", match: name");
    let adding =
        scene.driven(", backends: [pods], deregister: delete, add-server: { options: check }");
    for name in names {
        let hostile = pod(name, SocketAddr::from(([127, 0, 0, 1], free_port())));
        failed(by_name.does(Action::WeightZero, &hostile), ErrorKind::UnknownTarget, &[]);
        applied(by_name.does(Action::Deregister, &hostile));
        if !name.is_empty() {
            let outcome = adding.does(Action::Register, &hostile);
            failed(outcome, ErrorKind::Refused, &["can't be a server's name"]);
        }
    }
    assert_eq!(scene.state("a"), ["no check", "no check"]);
    assert_eq!(scene.state("b"), ["no check", "no check"]);
}

#[test]
fn an_haproxy_that_hangs_is_given_up_and_asked_again() {
    let scene = Scene::new();
    let driven = scene.driven(", timeout: 300ms");
    scene.haproxy.freeze();
    let outcome = driven.does(Action::WeightZero, &scene.a);
    scene.haproxy.signal(Signal::CONT);
    failed(outcome, ErrorKind::Timeout, &["300ms", "runtime", "stopped"]);
    let driven = scene.driven("");
    applied(driven.does(Action::WeightZero, &scene.a));
}

#[test]
fn a_socket_of_something_else_is_told_apart() {
    let a = SocketAddr::from(([127, 0, 0, 1], 1));
    let http = crate::support::application(|mut stream| {
        use std::io::{Read, Write};
        // Its answer is whole before the connection ends, so nothing is reset.
        let mut line = [0; 7];
        stream.read_exact(&mut line).expect("a command");
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let endless = crate::support::application(|mut stream| {
        use std::io::Write;
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let silent = crate::support::application(drop);
    for (addr, kind, words) in [
        (http, ErrorKind::Refused, ["400 Bad Request", "stats socket"]),
        (endless, ErrorKind::Refused, ["without an end", "stats socket"]),
        (silent, ErrorKind::Unreachable, ["connection broke", "tcp:"]),
    ] {
        let driven =
            Driven::new(&format!("haproxy: {{ sockets: [\"tcp:{addr}\"], timeout: 30s }}"));
        failed(driven.does(Action::WeightZero, &pod("a", a)), kind, &words);
    }
}

#[test]
fn a_runtime_socket_may_be_a_tcp_port() {
    let a = echo();
    let directory = Directory::new();
    let port = free_port();
    let sections = format!(
        "global\nstats socket ipv4@127.0.0.1:{port} level admin\nbackend pods\nserver a {a}"
    );
    let haproxy = Haproxy::start(&directory, "tcp", &sections);
    let driven = Driven::new(&format!("haproxy: {{ sockets: [\"tcp:localhost:{port}\"] }}"));
    applied(driven.does(Action::WeightZero, &pod("a", a)));
    assert_eq!(haproxy.stat("pods", "a", "status"), "DRAIN");
}

#[test]
fn a_wrong_configuration_names_the_field() {
    use ebbtide::controller::balancer::Config;
    for (yaml, field) in [
        ("sockets: []", "haproxy.sockets: "),
        ("sockets: ['unix:/a', /b]", "haproxy.sockets[1]: `/b`"),
        ("sockets: ['unix:a']", "haproxy.sockets[0]: "),
        ("sockets: ['tcp:host']", "haproxy.sockets[0]: "),
        ("sockets: ['unix:/a', 'unix:/a']", "haproxy.sockets[1]: unix:/a stands there twice"),
        ("sockets: ['unix:/a'], backends: ['a b']", "haproxy.backends[0]: `a b`"),
        ("sockets: ['unix:/a'], timeout: 0s", "haproxy.timeout: "),
        ("sockets: ['unix:/a'], add-server: {}", "haproxy.add-server: needs `backends`"),
        (
            "sockets: ['unix:/a'], backends: [b], add-server: {}",
            "haproxy.add-server: needs `deregister: delete`",
        ),
        (
            "sockets: ['unix:/a'], backends: [b], match: name, add-server: {}",
            "haproxy.add-server: needs `match: address`",
        ),
        (
            "sockets: ['unix:/a'], backends: [b], deregister: delete, \
             add-server: { options: 'check; show info' }",
            "haproxy.add-server.options: ",
        ),
    ] {
        let config: Config =
            serde_saphyr::from_str(&format!("haproxy: {{ {yaml} }}")).expect("its form is right");
        let error = config.build().err().expect("an error").to_string();
        assert!(error.starts_with(&format!("balancer: {field}")), "{yaml}: {error}");
    }
    for yaml in [
        "socket: []",
        "sockets: ['unix:/a'], weigth-zero: drain",
        "sockets: ['unix:/a'], weight-zero: no",
    ] {
        let read = serde_saphyr::from_str::<Config>(&format!("haproxy: {{ {yaml} }}"));
        assert!(read.is_err(), "{yaml}: {read:?}");
    }
}
