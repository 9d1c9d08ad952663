//! Two controllers, each of which wants to know who speaks: what one hears the other hears too.

use std::net::SocketAddr;

use super::events::Follower;
use super::tls::Authority;
use super::{controller, report, send};
use crate::support::process::run;
use crate::support::{Directory, Ebbtide, echo};

const PROXIES: &str = "0123456789abcdef-proxies";
const OPERATORS: &str = "0123456789abcdef-operators";

/// A report with the proxies' token; the answer's directive.
fn report_with_token(addr: SocketAddr, name: &str, sequence: u64) -> String {
    let field = format!("Authorization: Bearer {PROXIES}");
    let body = report(name, sequence, "Serving").to_string();
    let reply = send(addr, "POST /v1/reports", &[&field], &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["directive"].as_str().expect("a directive").to_owned()
}

#[test]
fn with_tokens_a_replica_hears_what_the_other_is_told() {
    let directory = Directory::new();
    let proxies = directory.write("proxies", PROXIES);
    let operators = directory.write("operators", OPERATORS);
    let args = ["--auth", "token", "--token-file", &proxies, "--operator-token-file", &operators];
    let (_second, second) = controller(&args);
    let peer = format!("http://{second}");
    let (_first, first) = controller(&[&args[..], &["--peer", &peer]].concat());
    let operator = format!("Authorization: Bearer {OPERATORS}");
    let mut follower = Follower::start(second, &["--header", &operator], "");
    follower.expect("reset");
    follower.expect("current");
    assert_eq!(report_with_token(first, "a", 1), "none");
    follower.until(|target| target["id"] == "shop~a~");
    // What an operator wishes is passed on with the operator's token.
    assert_eq!(send(first, "POST /v1/targets/shop~a~/drain", &[&operator], "").status, 202);
    follower.until(|target| target["directive"] == "drain");
    assert_eq!(report_with_token(second, "a", 2), "drain");
}

#[test]
fn a_replica_with_other_tokens_is_complained_about() {
    let directory = Directory::new();
    let [ours, theirs] = [("ours", PROXIES), ("theirs", "0123456789abcdef-of-others")]
        .map(|(name, token)| directory.write(name, token));
    let (_second, second) = controller(&["--auth", "token", "--token-file", &theirs]);
    let peer = format!("http://{second}");
    let args = ["--auth", "token", "--token-file", &ours, "--peer", &peer];
    let (controller, first) = controller(&args);
    report_with_token(first, "a", 1);
    let denied = controller.line("of a denial", |line| line["status"] == 401);
    assert_eq!(denied["peer"], peer);
    assert!(
        denied["message"].as_str().is_some_and(|it| it.contains("the same tokens")),
        "{denied}"
    );
}

#[test]
fn with_mutual_tls_a_replica_shows_its_certificate() {
    let directory = Directory::new();
    let [servers, clients, strangers] = ["servers", "clients", "strangers"].map(Authority::new);
    let (certificate, key) = servers.write_pair(&directory, "server");
    let (ca, client_ca) = (
        directory.write("servers.pem", servers.pem()),
        directory.write("clients.pem", clients.pem()),
    );
    let operators = directory.write("operators", OPERATORS);
    let tls = ["--tls-cert", &certificate, "--tls-key", &key, "--operator-token-file", &operators];
    let args = [&tls[..], &["--auth", "mtls", "--client-ca", &client_ca]].concat();
    let (_second, second) = controller(&args);
    let peer = format!("https://localhost:{}", second.port());
    let with = |(certificate, key): &(String, String)| {
        let shown = ["--peer-cert", certificate, "--peer-key", key];
        controller(&[&args[..], &["--peer", &peer, "--peer-ca", &ca], &shown].concat())
    };
    let (_first, first) = with(&clients.write_pair(&directory, "replica"));
    let operator = format!("Authorization: Bearer {OPERATORS}");
    let mut follower =
        Follower::start_at(&peer, &["--ipv4", "--cacert", &ca, "--header", &operator], "");
    follower.expect("reset");
    follower.expect("current");
    let (certificate, key) = clients.write_pair(&directory, "proxy");
    let proxy = |controller: SocketAddr| {
        let url = format!("https://localhost:{}", controller.port());
        let identity = ["--controller-cert", &certificate, "--controller-key", &key];
        let reporting = ["--controller", &url, "--controller-ca", &ca];
        Ebbtide::proxy(&echo().to_string(), &[&reporting[..], &identity].concat())
    };
    let reporting = proxy(first);
    follower.until(|target| target["report"]["phase"] == "Serving");
    drop(reporting);

    let (stranger, addr) = with(&strangers.write_pair(&directory, "stranger"));
    let _reporting = proxy(addr);
    stranger.says("cannot reach the other replica, trying again");
}

#[test]
fn a_replica_that_may_not_be_told_so_much_hears_everything_in_the_end() {
    const PODS: usize = 20;
    let (second, addr) = controller(&["--max-source-rate", "5"]);
    let peer = format!("http://{addr}");
    let (first, addr) = controller(&["--peer", &peer]);
    for pod in 0..PODS {
        let body = report(&format!("pod-{pod}"), 1, "Serving").to_string();
        assert_eq!(send(addr, "POST /v1/reports", &[], &body).status, 200);
    }
    for pod in 0..PODS {
        let name = format!("shop/pod-{pod}");
        second.line(&name, |line| line["message"] == "applied" && line["pod"] == name);
    }
    first.says("the other replica takes no more now, see its --max-source-rate");
}

#[test]
fn a_peer_option_that_is_missing_or_wrong_is_named() {
    let directory = Directory::new();
    let authority = Authority::new("authority");
    let (certificate, key) = authority.write_pair(&directory, "pair");
    let ca = directory.write("ca.pem", authority.pem());
    let mtls =
        ["--auth", "mtls", "--client-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key];
    let peer = ["--peer", "https://localhost:1", "--peer-ca", &ca];
    for (args, part) in [
        ([&mtls[..], &peer].concat(), "--peer-cert and --peer-key too"),
        ([&peer[..], &["--peer-cert", &certificate]].concat(), "must be given together"),
        ([&peer[..], &["--peer-cert", "/nowhere", "--peer-key", &key]].concat(), "/nowhere"),
        ([&peer[..2], &["--peer-ca", "/nowhere"]].concat(), "--peer-ca takes a PEM file"),
        ([&peer[..2], &["--peer-ca", &key]].concat(), "--peer-ca takes a PEM file"),
    ] {
        let (status, _, error) = run(&[&["controller", "--check-config"], &args[..]].concat());
        assert_eq!(status, Some(64), "{args:?}: {error}");
        assert!(error.contains(part), "{args:?}: {error}");
    }
    let shown = ["--peer-cert", &certificate, "--peer-key", &key];
    let right = [&["controller", "--check-config"][..], &mtls, &peer, &shown].concat();
    assert_eq!(run(&right).0, Some(0));
}
