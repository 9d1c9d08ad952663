use super::{GET, OK, play, tracker_with};
use crate::http1::{HealthChecks, Options};
use crate::testing::Script;

const PROBE: &str = "GET /a HTTP/1.1\r\nUser-Agent: kube-probe/1.34\r\n\r\n";

#[test]
fn a_connection_of_checks_alone_is_a_health_check() {
    let script = Script::new().client(PROBE).upstream(OK).client(PROBE);
    let expected = ["healthCheck", "healthCheck", "healthCheck"];
    assert_eq!(play(&script).classes(), expected);
}

#[test]
fn one_other_request_makes_it_an_ordinary_one() {
    let script = Script::new().client(PROBE).upstream(OK).client(GET).upstream(OK);
    let script = script.client(PROBE).upstream(OK);
    let expected = ["healthCheck", "healthCheck", "http", "idle", "http", "idle"];
    assert_eq!(play(&script).classes(), expected);
}

#[test]
fn half_a_head_is_no_health_check() {
    let script = Script::new().client(PROBE).upstream(OK).client("GET /");
    assert_eq!(play(&script).classes(), ["healthCheck", "healthCheck", "http"]);
}

#[test]
fn a_path_tells_too() {
    let options = || Options {
        health_checks: HealthChecks { user_agents: Vec::new(), path: Some("/healthz".to_owned()) },
        ..Options::default()
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nUser-Agent: kube-probe/1\r\n\r\n");
    for (path, class) in [
        ("/healthz", "healthCheck"),
        ("/healthz?full", "healthCheck"),
        ("/healthzz", "http"),
        ("/", "http"),
    ] {
        let script = Script::new().client(get(path));
        let outcome = script.play(|| tracker_with(options()));
        assert_eq!(outcome.classes(), [class], "{path}");
    }
}
