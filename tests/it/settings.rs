//! What is typed, set or named as a file and can't be meant: refused, or taken as unset, never obeyed.

use std::process::Command;

use rustix::process::Signal;

use crate::support::process::{program, run};
use crate::support::{Directory, Ebbtide, echo};

const GOOD: [&str; 4] = ["--listen", "127.0.0.1:8080", "--upstream", "127.0.0.1:3000"];

fn check(args: &[&str]) -> (Option<i32>, String) {
    let (status, _, error) = run(&[&["proxy", "--check-config"], &GOOD[..], args].concat());
    (status, error)
}

/// Every variable that a command's help names.
fn variables(command: &[&str]) -> Vec<String> {
    let (_, help, _) = run(&[command, &["--help"]].concat());
    let named = help.split("[env: ").skip(1);
    named.filter_map(|rest| rest.split(['=', ']']).next()).map(str::to_owned).collect()
}

/// Runs a command with variables; gives back its status and what it said.
fn with_variables(args: &[&str], variables: &[String], value: &str) -> (Option<i32>, String) {
    let mut command = Command::new(program());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("EBBTIDE_")) {
        command.env_remove(name);
    }
    command.args(args).envs(variables.iter().map(|name| (name, value)));
    let output = command.output().expect("the program starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn an_empty_variable_is_an_unset_one_for_every_option() {
    let proxy = [&["proxy", "--check-config"], &GOOD[..]].concat();
    let run_line = [&["run", "--check-config"], &GOOD[..], &["--", "true"]].concat();
    let controller = ["controller", "--check-config"];
    for (command, line, least) in [
        (&["proxy"][..], &proxy[..], 40),
        (&["run"][..], &run_line[..], 42),
        (&["controller"][..], &controller[..], 15),
    ] {
        let variables = variables(command);
        assert!(variables.len() >= least, "{command:?} has only {variables:?}");
        for value in ["", " "] {
            for variable in &variables {
                let set = std::slice::from_ref(variable);
                let (status, error) = with_variables(line, set, value);
                assert_eq!(status, Some(0), "{command:?} with {variable}='{value}': {error}");
            }
            let (status, error) = with_variables(line, &variables, value);
            assert_eq!(status, Some(0), "{command:?} with all of them '{value}': {error}");
        }
    }
    // The commands that ask somebody fail because nobody is there, not because of the variable.
    for line in [&["status", "--control", "127.0.0.1:9"][..], &["targets"]] {
        let named = variables(line);
        assert!(!named.is_empty(), "{line:?}");
        let (status, error) = with_variables(line, &named, "");
        assert_eq!(status, Some(69), "{line:?}: {error}");
    }
}

#[test]
fn a_pattern_that_takes_every_request_for_a_health_check_is_refused() {
    let directory = Directory::new();
    let agents = directory.write("agents.yaml", "health-check-agent: [kube-probe/, '']\n");
    let networks = directory.write("networks.yaml", "health-check-from: ['::/0']\n");
    for (args, part) in [
        (&["--health-check-agent", ""][..], "--health-check-agent"),
        (&["--health-check-agent", "kube-probe/,"], "--health-check-agent"),
        (&["--health-check-agent", " "], "--health-check-agent"),
        (&["--config", &agents], "--health-check-agent"),
        (&["--health-check-from", "0.0.0.0/0"], "--health-check-from 0.0.0.0/0"),
        (&["--config", &networks], "--health-check-from ::/0"),
        (&["--health-check-path", ""], "--health-check-path"),
        (&["--health-check-path", "healthz"], "--health-check-path"),
    ] {
        let (status, error) = check(args);
        assert_eq!(status, Some(64), "{args:?}: {error}");
        assert!(
            error.contains(part) && error.contains("write") | error.contains("must"),
            "{error}"
        );
    }
    let (status, error) =
        check(&["--health-check-agent", "a/", "--health-check-from", "10.0.0.0/8"]);
    assert_eq!(status, Some(0), "{error}");
}

#[test]
fn a_file_that_has_no_end_is_refused_at_once() {
    let directory = Directory::new();
    let pipe = directory.path().join("pipe").display().to_string();
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts");
    assert!(made.success());
    let large = directory.write("large.yaml", "#".repeat(1024 * 1024 + 1));
    let controller = ["controller", "--check-config", "--config"];
    for path in ["/dev/zero", "/dev/stdin", &pipe, "/", &large] {
        let (status, error) = check(&["--config", path]);
        assert_eq!(status, Some(64), "{path}: {error}");
        assert!(error.contains(path), "{error}");
        let (status, _, error) = run(&[&controller[..], &[path]].concat());
        assert_eq!(status, Some(64), "{path}: {error}");
    }
    // What is read at the start beside the configuration: a token, certificates, keys.
    let https = ["--controller", "https://127.0.0.1:9"];
    for option in ["--controller-token-file", "--controller-ca"] {
        for path in ["/dev/zero", &pipe] {
            let ports = ["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"];
            let listen = ["proxy", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:9"];
            let line = [&listen[..], &ports, &https, &[option, path]].concat();
            let (status, _, error) = run(&line);
            assert_eq!(status, Some(64), "{option} {path}: {error}");
            assert!(error.contains(path), "{option}: {error}");
        }
    }
}

#[test]
fn an_upstream_that_is_our_own_endpoint_is_refused() {
    for (upstream, endpoint) in [
        ("127.0.0.1:17702", "--control"),
        ("localhost:17702", "--control"),
        ("0.0.0.0:17702", "--control"),
        ("127.0.0.1:17701", "--admin"),
        ("[::1]:17701", "--admin"),
        ("localhost:17701", "--admin"),
    ] {
        let line =
            ["proxy", "--check-config", "--listen", "127.0.0.1:8080", "--upstream", upstream];
        let (status, _, error) = run(&line);
        assert_eq!(status, Some(64), "{upstream}: {error}");
        assert!(error.contains(endpoint) && error.contains("--upstream"), "{error}");
    }
    // Another host's port of the same number is none of ours.
    let line = ["proxy", "--check-config", "--listen", "127.0.0.1:8080", "--upstream"];
    assert_eq!(run(&[&line[..], &["192.0.2.1:17702"]].concat()).0, Some(0));
}

#[test]
fn a_log_filter_that_names_nothing_is_refused() {
    for filter in ["[[[{", "", "ebbtide=loud", "info,,debug"] {
        let line = ["--log", filter, "proxy", "--check-config"];
        let (status, _, error) = run(&[&line, &GOOD[..]].concat());
        assert_eq!(status, Some(64), "{filter}: {error}");
        assert!(error.contains("write for example info"), "{error}");
    }
}

#[test]
fn an_error_advises_an_option_that_the_command_has() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let listen = ["proxy", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:9"];
    let ports = ["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    let https = ["--controller", "https://127.0.0.1:9", "--controller-ca"];
    let proxy = [&listen[..], &ports, &https].concat();
    let controller = ["controller", "--check-config", "--peer", "https://127.0.0.1:9", "--peer-ca"];
    let targets = ["targets", "--controller", "https://127.0.0.1:9", "--controller-ca"];
    for (line, option, other) in [
        (&proxy[..], "--controller-ca takes", "--peer-ca"),
        (&controller[..], "--peer-ca takes", "--controller-ca"),
        (&targets[..], "--controller-ca takes", "--peer-ca"),
    ] {
        for path in ["/no/such/file", file] {
            let (status, _, error) = run(&[line, &[path]].concat());
            assert_eq!(status, Some(64), "{line:?}: {error}");
            assert!(error.contains(option) && !error.contains(other), "{line:?}: {error}");
        }
    }
}

#[test]
fn signals_that_ask_for_no_end_end_nothing() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &[]);
    let addr = proxy.addr();
    let mut client = crate::support::connect(addr);
    crate::support::exchange(&mut client, b"before");
    proxy.signal(Signal::USR2);
    proxy.signal(Signal::HUP);
    proxy.says("reload: the controller's token is read again with each report; other options want a restart");
    proxy.signal(Signal::USR1);
    let state = proxy.says("state");
    assert_eq!(state["phase"], "Serving");
    assert_eq!(state["remaining"], 1);
    assert_eq!(state["by_class"], "opaque=1");
    crate::support::exchange(&mut client, b"after");
    assert_eq!(proxy.status()["phase"], "Serving");

    let controller = Ebbtide::controller("127.0.0.1:0");
    controller.takes_reports();
    for (signal, name) in [(Signal::HUP, "Reload"), (Signal::USR1, "Report")] {
        controller.signal(signal);
        controller.line(name, |line| line["signal"] == name);
    }
    controller.signal(Signal::USR2);
    controller.signal(Signal::TERM);
    assert_eq!(controller.finish().code(), Some(0));
}
