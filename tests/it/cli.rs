//! The command line: what is refused and how, where settings come from, the commands for people.

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::process::{program, run};
use crate::support::{Directory, Ebbtide, QUICK, application, connect, echo, exchange, expect_end};

const PROXY: [&str; 5] = ["proxy", "--listen", "127.0.0.1:8080", "--upstream", "127.0.0.1:3000"];

/// Runs `ebbtide proxy --check-config` with these arguments.
fn check(args: &[&str]) -> (Option<i32>, String, String) {
    run(&[&["proxy", "--check-config"], args].concat())
}

#[test]
fn a_mistake_names_its_flag_and_says_what_to_write() {
    let good = &PROXY[1..];
    let with = |args: &[&'static str]| [good, args].concat();
    for (args, parts) in [
        (with(&["--drain-delay", "10"]), &["--drain-delay", "10", "write 1500ms, 10s or 5m"][..]),
        (with(&["--drain-delay", "400s"]), &["--drain-timeout", "--drain-delay", "shorter delay"]),
        (with(&["--close-spread", "299s"]), &["--close-spread", "write at most 4m 50s"]),
        (
            with(&["--grace-period", "10"]),
            &["grace period of 10s", "terminationGracePeriodSeconds"],
        ),
        (
            with(&["--grace-period", "60", "--drain-timeout", "60s"]),
            &["--drain-timeout (1m)", "the grace period (1m)", "write at most 45s"],
        ),
        (with(&["--control", "0.0.0.0:17702"]), &["--control", "write 127.0.0.1:17702"]),
        (with(&["--control", "127.0.0.1:8080"]), &["--control", "listen", "different ports"]),
        (with(&["--admin", "0.0.0.0:8080"]), &["--admin", "overlap", "different ports"]),
        (with(&["--protocol", "http3"]), &["--protocol", "tcp, auto, http1, http2"]),
        (with(&["--budget", "meetings=1h"]), &["--budget", "write websocket=10m"]),
        (with(&["--budget", "websocket=1"]), &["--budget", "write 1500ms, 10s or 5m"]),
        (with(&["--websocket-code", "99"]), &["--websocket-code", "99"]),
        (with(&["--reject", "politely"]), &["--reject", "refuse, http503, reset, drop, accept"]),
        (with(&["--admit", "10.0.0.0/33"]), &["--admit", "10.0.0.0/33"]),
        (with(&["--threads", "0"]), &["--threads"]),
        (with(&["--controller", "c:1"]), &["--controller", "write http://"]),
        (with(&["--controller-ca", "x"]), &["--controller-ca", "--controller URL"]),
        (with(&["--drain-dealy", "1s"]), &["--drain-dealy", "--drain-delay"]),
        (with(&["--config", "/no/such/file"]), &["/no/such/file", "No such file"]),
        (vec!["--listen", "127.0.0.1:8080"], &["127.0.0.1:8080", "upstream", "give --upstream"]),
        (vec!["--upstream", "127.0.0.1:3000"], &["nowhere to listen", "--listen 0.0.0.0:8080"]),
        (vec!["--listen", "8080", "--upstream", "127.0.0.1:1"], &["--listen", "8080"]),
        (vec!["--listen", "[::]:80", "--upstream", "app"], &["--upstream", "unix:/path"]),
    ] {
        let (status, _, error) = check(&args);
        assert_eq!(status, Some(64), "{args:?}: {error}");
        for part in parts {
            assert!(error.contains(part), "{args:?}: no `{part}` in: {error}");
        }
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let args = [&PROXY[1..], &["--control", "0.0.0.0:1", "--drain-delay", "400s"]].concat();
    let (_, _, error) = check(&args);
    assert!(error.contains("--control") && error.contains("--drain-timeout"), "{error}");
}

#[test]
fn a_mistake_in_the_file_names_the_file_and_the_line() {
    let directory = Directory::new();
    let list = |ports: [u16; 2]| {
        let [one, other] = ports;
        format!(
            "upstream: 127.0.0.1:1\nlisteners:\n- listen: 127.0.0.1:{one}\n- listen: 0.0.0.0:{other}\n"
        )
    };
    for (text, parts) in [
        ("listen: 127.0.0.1:80\ndrain-dealy: 1s\n".to_owned(), &["line 2", "drain-dealy"][..]),
        ("drain-delay: 10\n".to_owned(), &["line 1", "write 1500ms, 10s or 5m"]),
        ("listen: 80\n".to_owned(), &["line 1"]),
        ("listen: [\n".to_owned(), &["line"]),
        ("upstream: nowhere\n".to_owned(), &["line 1", "write 127.0.0.1:3000"]),
        (list([80, 80]), &["127.0.0.1:80", "0.0.0.0:80", "different ports"]),
        ("listeners:\n- listen: 127.0.0.1:80\n".to_owned(), &["127.0.0.1:80", "no upstream"]),
        (format!("listen: 127.0.0.1:9\n{}", list([80, 81])), &["--listen", "listeners"]),
        ("listeners:\n- listen: 127.0.0.1:80\n  upstreem: x\n".to_owned(), &["line 3", "upstreem"]),
    ] {
        let path = directory.write("ebbtide.yaml", &text);
        let (status, _, error) = check(&["--config", &path]);
        assert_eq!(status, Some(64), "{text}{error}");
        for part in parts.iter().chain(&[path.as_str()]) {
            assert!(error.contains(part), "{text}no `{part}` in: {error}");
        }
    }
    // A directory is no file, and bytes are no text.
    let (status, _, error) = check(&["--config", "/"]);
    assert_eq!(status, Some(64), "{error}");
    let path = directory.write("bytes.yaml", [0xff, 0xfe]);
    let (status, _, error) = check(&["--config", &path]);
    assert_eq!(status, Some(64), "{error}");
}

#[test]
fn a_good_configuration_is_called_good_and_nothing_is_started() {
    let directory = Directory::new();
    let path = directory.write(
        "ebbtide.yaml",
        "drain-delay: 5s\ngrace-period: 60\nadmit: [10.0.0.0/8]\nlisteners:\n\
         - listen: 127.0.0.1:80\n  upstream: unix:/run/app.sock\n  reject: http503\n\
         - listen: '[::]:81'\n  upstream: localhost:3000\n",
    );
    for args in [&["--config", &path][..], &PROXY[1..]] {
        let (status, out, error) = check(args);
        assert_eq!((status, out.as_str()), (Some(0), "configuration is valid\n"), "{error}");
    }
    let line = ["run", "--check-config", "--config", &path, "--", "/no/such/application"];
    assert_eq!(run(&line).0, Some(0));
}

/// Starts `ebbtide proxy` with everything in the environment.
fn in_environment(variables: &[(&str, &str)]) -> Ebbtide {
    // `env` sets them, because the harness clears EBBTIDE_ of what it starts.
    let mut command = Command::new("env");
    command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
    command.arg(program()).arg("proxy");
    Ebbtide::spawn(command)
}

#[test]
fn flags_read_from_the_environment_and_from_the_file_and_flags_win() {
    let directory = Directory::new();
    let path = directory.write("ebbtide.yaml", "drain-timeout: 77s\nquiet-period: 3s\n");
    let upstream = echo().to_string();
    let variables = [
        ("EBBTIDE_LISTEN", "127.0.0.1:0"),
        ("EBBTIDE_UPSTREAM", &upstream),
        ("EBBTIDE_ADMIN", "127.0.0.1:0"),
        ("EBBTIDE_CONTROL", "127.0.0.1:0"),
        ("EBBTIDE_TERMINATION_LOG", "/dev/null"),
        ("EBBTIDE_CONFIG", &path),
    ];
    let proxy = in_environment(&variables);
    exchange(&mut connect(proxy.addr()), b"served");
    assert_eq!(proxy.status()["drainTimeoutSeconds"], 77.0);
    let both = in_environment(&[&variables[..], &[("EBBTIDE_DRAIN_TIMEOUT", "88s")]].concat());
    assert_eq!(both.status()["drainTimeoutSeconds"], 88.0);
}

#[test]
fn the_drain_timeout_derives_from_the_grace_period() {
    let upstream = echo().to_string();
    let variables = [
        ("EBBTIDE_LISTEN", "127.0.0.1:0"),
        ("EBBTIDE_UPSTREAM", &upstream),
        ("EBBTIDE_ADMIN", "127.0.0.1:0"),
        ("EBBTIDE_CONTROL", "127.0.0.1:0"),
    ];
    for (grace, timeout) in [("600", 585.0), ("2m", 105.0), ("30", 15.0)] {
        let grace = ("EBBTIDE_GRACE_PERIOD", grace);
        let proxy = in_environment(&[&variables[..], &[grace]].concat());
        assert_eq!(proxy.status()["drainTimeoutSeconds"], timeout, "{grace:?}");
    }
    assert_eq!(in_environment(&variables).status()["drainTimeoutSeconds"], 300.0);
}

fn control(proxy: &Ebbtide) -> String {
    proxy.control().to_string()
}

#[test]
fn drain_begins_one_and_wait_waits_for_its_end() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let control = control(&proxy);
    let mut stream = connect(proxy.addr());
    exchange(&mut stream, b"hello");
    let (status, out, _) = run(&["drain", "--control", &control]);
    assert_eq!(status, Some(0));
    assert!(out.contains("1 connections, 1 of them blocking"), "{out}");
    let (status, _, error) = run(&["drain", "--control", &control, "--wait", "--timeout", "200ms"]);
    assert_eq!(status, Some(75));
    assert!(error.contains("the drain goes on"), "{error}");
    let waiting = std::thread::spawn({
        let control = control.clone();
        move || run(&["drain", "--control", &control, "--wait"])
    });
    proxy.until("refusing", |status| status["listeners"][0]["state"] == "Refusing");
    assert!(!waiting.is_finished(), "a connection is open");
    drop(stream);
    let (status, out, error) = waiting.join().expect("it ends");
    assert_eq!(status, Some(0), "{error}");
    assert!(out.starts_with("Drained: 0 connections"), "{out}");
    let (status, out, _) = run(&["undrain", "--control", &control]);
    assert_eq!(status, Some(0));
    assert!(out.starts_with("Serving"), "{out}");
    let (status, _, error) = run(&["undrain", "--control", &control]);
    assert_eq!(status, Some(69));
    assert!(error.contains("nothing to undo"), "{error}");
}

#[test]
fn drain_wait_says_when_the_deadline_has_passed() {
    let args = ["--drain-delay", "0", "--drain-timeout", "1s", "--settle-period", "100ms"];
    // An application that never ends by itself.
    let stubborn = application(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
        std::thread::park();
    });
    let proxy = Ebbtide::proxy(&stubborn.to_string(), &args);
    let _stream = connect(proxy.addr());
    proxy.until("one connection", |status| status["activeConnections"] == 1);
    let (status, out, _) = run(&["drain", "--control", &control(&proxy), "--wait"]);
    assert_eq!(status, Some(75), "{out}");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.finish().code(), Some(75));
}

#[test]
fn nobody_there_is_69_with_what_to_look_at() {
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    for line in [
        &["drain"][..],
        &["drain", "--wait"],
        &["undrain"],
        &["status"],
        &["status", "--json"],
        &["status", "--watch"],
        &["connections"],
        &["connections", "--close", "1"],
    ] {
        let (status, _, error) = run(&[line, &["--control", &nobody]].concat());
        assert_eq!(status, Some(69), "{line:?}: {error}");
        for part in [nobody.as_str(), "no proxy there", "EBBTIDE_CONTROL"] {
            assert!(error.contains(part), "{line:?}: no `{part}` in: {error}");
        }
    }
}

#[test]
fn status_and_connections_are_for_people_and_for_scripts() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    let control = control(&proxy);
    let addr = proxy.addr();
    let mut stream: TcpStream = connect(addr);
    exchange(&mut stream, b"hello");
    let peer = stream.local_addr().expect("its address").to_string();

    let (_, out, _) = run(&["status", "--control", &control]);
    for part in ["Serving", "1 open, 1 blocking", "1 opaque", &addr.to_string(), "Accepting"] {
        assert!(out.contains(part), "no `{part}` in:\n{out}");
    }
    let (_, out, _) = run(&["status", "--control", &control, "--json"]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["activeConnections"], 1);

    let (_, out, _) = run(&["connections", "--control", &control]);
    for part in [peer.as_str(), "opaque", "yes"] {
        assert!(out.contains(part), "no `{part}` in:\n{out}");
    }
    let (_, out, _) = run(&["connections", "--control", &control, "--json"]);
    let list: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(list["connections"][0]["peer"], peer.as_str());

    run(&["drain", "--control", &control]);
    let (_, out, _) = run(&["status", "--control", &control]);
    for part in ["(by Endpoint)", "deadline in"] {
        assert!(out.contains(part), "no `{part}` in:\n{out}");
    }
    let id = list["connections"][0]["id"].to_string();
    let (status, out, _) = run(&["connections", "--control", &control, "--close", &id]);
    assert_eq!(status, Some(0));
    assert!(out.contains(&peer), "{out}");
    expect_end(&mut stream);
    let (status, _, error) = run(&["connections", "--control", &control, "--close", "4711"]);
    assert_eq!(status, Some(69));
    assert!(error.contains("no such connection"), "{error}");
}

const COMMANDS: [&str; 9] = [
    "proxy",
    "run",
    "drain",
    "undrain",
    "status",
    "connections",
    "controller",
    "completions",
    "man",
];

#[test]
fn help_completions_and_man_pages_know_every_command() {
    let (status, help, _) = run(&["--help"]);
    assert_eq!(status, Some(0));
    let directory = Directory::new();
    let (status, ..) = run(&["man", "--dir", directory.path().to_str().expect("text")]);
    assert_eq!(status, Some(0));
    let (_, man, _) = run(&["man"]);
    assert!(man.starts_with(".ie"), "{man}");
    let completions = ["bash", "zsh", "fish"].map(|shell| run(&["completions", shell]).1);
    for command in COMMANDS {
        assert!(help.contains(&format!("  {command}")), "{command} is not in:\n{help}");
        let page = directory.path().join(format!("ebbtide-{command}.1"));
        assert!(page.exists(), "{}", page.display());
        for text in &completions {
            assert!(text.contains(command), "{command}");
        }
    }
    // The shell takes what is made for it.
    let script = directory.write("completions", &completions[0]);
    assert!(Command::new("bash").args(["-n", &script]).status().expect("bash").success());
}

#[test]
fn the_help_of_every_command_names_its_environment() {
    for (command, variables) in [
        ("proxy", &["EBBTIDE_LISTEN", "EBBTIDE_DRAIN_TIMEOUT", "EBBTIDE_CONFIG"][..]),
        ("run", &["EBBTIDE_LISTEN", "EBBTIDE_STOP_SIGNAL", "EBBTIDE_STOP_TIMEOUT"]),
        ("drain", &["EBBTIDE_CONTROL"]),
        ("undrain", &["EBBTIDE_CONTROL"]),
        ("status", &["EBBTIDE_CONTROL"]),
        ("connections", &["EBBTIDE_CONTROL"]),
        ("controller", &["EBBTIDE_CONTROLLER_LISTEN"]),
        ("completions", &[]),
        ("man", &[]),
    ] {
        let (status, help, _) = run(&[command, "--help"]);
        assert_eq!(status, Some(0));
        for variable in variables.iter().chain(&["EBBTIDE_LOG", "EBBTIDE_LOG_FORMAT"]) {
            assert!(help.contains(&format!("[env: {variable}")), "{variable} is not in:\n{help}");
        }
    }
}

#[test]
fn a_mistake_in_the_command_itself_is_64() {
    for line in [&[][..], &["fly"], &["drain", "--timeout", "1s"], &["connections", "--close", "x"]]
    {
        let (status, _, error) = run(line);
        assert_eq!(status, Some(64), "{line:?}: {error}");
        assert!(!error.is_empty());
    }
    let (status, out, _) = run(&["--version"]);
    assert_eq!(status, Some(0));
    assert!(out.starts_with("ebbtide "), "{out}");
}
