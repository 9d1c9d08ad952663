use std::net::SocketAddr;

use super::{controller, post, report, send};
use crate::support::process::run;
use crate::support::{Directory, Ebbtide, Reply, echo};

const PROXIES: &str = "0123456789abcdef-proxies";
/// For a test that asks again and again.
const UNHURRIED: [&str; 4] = ["--max-report-rate", "100000", "--max-source-rate", "100000"];

const OPERATORS: &str = "0123456789abcdef-operators";

fn report_as(addr: SocketAddr, token: &str, sequence: u64) -> Reply {
    let field = format!("Authorization: Bearer {token}");
    send(addr, "POST /v1/reports", &[&field], &report("a", sequence, "Serving").to_string())
}

fn get(addr: SocketAddr, path: &str, headers: &[&str]) -> Reply {
    send(addr, &format!("GET {path}"), headers, "")
}

#[test]
fn an_address_that_others_reach_wants_to_know_who_comes() {
    for listen in ["0.0.0.0:17710", "[::]:17710", "10.0.0.1:17710"] {
        let (status, _, error) = run(&["controller", "--check-config", "--listen", listen]);
        assert_eq!(status, Some(64), "{error}");
        for part in [listen, "--auth token", "--token-file", "--insecure", "127.0.0.1:17710"] {
            assert!(error.contains(part), "no {part} in {error}");
        }
    }
    let insecure = ["controller", "--check-config", "--listen", "0.0.0.0:17710", "--insecure"];
    assert_eq!(run(&insecure).0, Some(0));
    assert_eq!(run(&["controller", "--check-config"]).0, Some(0), "loopback is the default");
    for (args, part) in [
        (&["--auth", "token"][..], "--token-file"),
        (&["--token-file", "/nowhere"], "--auth token"),
        (&["--auth", "mtls"], "--client-ca"),
        (&["--tls-cert", "/nowhere"], "--tls-key"),
        (&["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "/nowhere"),
        (&["--auth", "token", "--token-file", "/nowhere"], "/nowhere"),
        (&["--auth", "token", "--token-file", "/dev/null"], "one a line"),
    ] {
        let (status, _, error) = run(&[&["controller", "--check-config"], args].concat());
        assert_eq!(status, Some(64), "{args:?}: {error}");
        assert!(error.contains(part), "{args:?}: {error}");
    }
}

#[test]
fn proxies_and_operators_show_different_tokens() {
    let directory = Directory::new();
    let proxies = directory.write("proxies", PROXIES);
    let operators = directory.write("operators", OPERATORS);
    let args = ["--auth", "token", "--token-file", &proxies, "--operator-token-file", &operators];
    let (_controller, addr) = controller(&args);
    let reply = post(addr, &report("a", 1, "Serving"));
    assert_eq!(reply.status, 401, "{}", reply.body);
    assert!(reply.head.to_ascii_lowercase().contains("www-authenticate: bearer"), "{}", reply.head);
    assert_eq!(report_as(addr, "wrong", 1).status, 401);
    assert_eq!(report_as(addr, OPERATORS, 1).status, 401);
    assert_eq!(report_as(addr, PROXIES, 1).status, 200);
    let bearer = format!("Authorization: Bearer {OPERATORS}");
    let of_a_proxy = format!("Authorization: Bearer {PROXIES}");
    for path in ["/v1/targets", "/v1/targets/shop~a~"] {
        let reply = get(addr, path, &[]);
        assert_eq!(reply.status, 401, "{path}");
        assert!(reply.head.to_ascii_lowercase().contains("www-authenticate: basic"), "{path}");
        assert_eq!(get(addr, path, &[&of_a_proxy]).status, 401, "{path}");
        assert_eq!(get(addr, path, &[&bearer]).status, 200, "{path}");
    }
    assert_eq!(get(addr, "/v1/events", &[]).status, 401);
    for wish in ["drain", "undrain"] {
        let start = format!("POST /v1/targets/shop~a~/{wish}");
        assert_eq!(send(addr, &start, &[], "").status, 401);
        assert_eq!(send(addr, &start, &[&of_a_proxy], "").status, 401);
        assert_eq!(send(addr, &start, &[&bearer], "").status, 202);
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(addr, path, &[]).status, 200, "{path}");
    }
    let denied = get(addr, "/metrics", &[]).body;
    assert!(denied.contains("ebbtide_controller_reports_total{result=\"denied\"} 3"), "{denied}");
    // As a browser sends what its user typed.
    let curl = std::process::Command::new("curl")
        .args(["--silent", "--fail", "--user", &format!("anybody:{OPERATORS}")])
        .arg(format!("http://{addr}/v1/targets"))
        .output()
        .expect("curl");
    assert!(curl.status.success(), "{curl:?}");
}

#[test]
fn without_a_file_of_theirs_nobody_is_an_operator() {
    let directory = Directory::new();
    let proxies = directory.write("proxies", PROXIES);
    let (_controller, addr) = controller(&["--auth", "token", "--token-file", &proxies]);
    let reply = get(addr, "/v1/targets", &[&format!("Authorization: Bearer {PROXIES}")]);
    assert_eq!(reply.status, 403);
    assert!(reply.body.contains("--operator-token-file"), "{}", reply.body);
}

#[test]
fn tokens_are_exchanged_while_it_runs_and_a_bad_file_changes_nothing() {
    let directory = Directory::new();
    let file = directory.write("proxies", PROXIES);
    let (controller, addr) =
        controller(&[&["--auth", "token", "--token-file", &file][..], &UNHURRIED].concat());
    let mut sequence = 0;
    let mut reports = |token: &str| {
        sequence += 1;
        report_as(addr, token, sequence).status
    };
    let next = "fedcba9876543210-next";
    directory.write("proxies", format!("{PROXIES}\n{next}\n"));
    while reports(next) != 200 {
        std::thread::yield_now();
    }
    assert_eq!(reports(PROXIES), 200, "both count while they are exchanged");
    directory.write("proxies", "short");
    while !controller
        .log()
        .iter()
        .any(|line| line["message"] == "cannot use the new tokens, keeping the last ones")
    {
        assert_eq!(reports(PROXIES), 200);
    }
    directory.write("proxies", next);
    while reports(PROXIES) != 401 {
        std::thread::yield_now();
    }
    assert_eq!(reports(next), 200);
    let log = format!("{:?}", controller.log());
    assert!(!log.contains(next) && !log.contains(PROXIES), "no secret in the log");
}

#[test]
fn a_proxy_shows_its_token() {
    let directory = Directory::new();
    let file = directory.write("token", PROXIES);
    let (controller, addr) = controller(&["--auth", "token", "--token-file", &file]);
    let url = format!("http://{addr}");
    let args = ["--controller", &url, "--controller-token-file", &file];
    let proxy = Ebbtide::proxy(&echo().to_string(), &args);
    proxy.until_metric("ebbtide_report_attempts_total{result=\"ok\"} 1");
    drop(proxy);
    let stranger = Ebbtide::proxy(&echo().to_string(), &["--controller", &url]);
    stranger.until_metric("ebbtide_report_attempts_total{result=\"http_error\"} 1");
    drop(controller);
}

#[test]
fn what_a_page_from_elsewhere_makes_a_browser_send_is_refused() {
    let (_controller, addr) = controller(&[]);
    assert_eq!(post(addr, &report("a", 1, "Serving")).status, 200);
    let own = format!("Origin: http://{addr}");
    for (status, headers) in [
        (202, &[][..]),
        (202, &[&own[..]]),
        (202, &["Sec-Fetch-Site: same-origin"]),
        (403, &["Origin: https://evil.test"]),
        (403, &["Origin: null"]),
        (403, &["Sec-Fetch-Site: cross-site"]),
    ] {
        let reply = send(addr, "POST /v1/targets/shop~a~/drain", headers, "");
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.body);
        // No page reports, not even ours.
        let expected = if headers.is_empty() { 200 } else { 403 };
        let body = report("b", 1, "Drained").to_string();
        let reply = send(addr, "POST /v1/reports", headers, &body);
        assert_eq!(reply.status, expected, "{headers:?}: {}", reply.body);
    }
    // A page whose name its owner lets point to this machine is same-origin to the browser.
    let body = report("c", 1, "Drained").to_string();
    for (start, origin) in [
        ("GET /v1/targets", ""),
        ("POST /v1/reports", ""),
        ("POST /v1/reports", "Origin: http://evil.test\r\n"),
    ] {
        let request = format!(
            "{start} HTTP/1.1\r\nHost: evil.test\r\n{origin}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = std::net::TcpStream::connect(addr).expect("connects");
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("writes");
        let reply = crate::support::http::answer(stream).expect("an answer");
        assert_eq!(reply.status, 403, "{start} {origin}");
    }
}
