use std::net::SocketAddr;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::controller;
use super::events::Follower;
use crate::support::{Directory, Ebbtide, echo};

/// An authority of the test's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        // Unlike that of the certificates, which OpenSSL would take for their own issuers.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for localhost and its key, in PEM.
    pub fn pair(&self) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(["localhost".to_owned()])
            .and_then(|params| params.signed_by(&key, &self.0))
            .expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// The same in files of that name.
    pub fn write_pair(&self, directory: &Directory, name: &str) -> (String, String) {
        let (certificate, key) = self.pair();
        let certificate = directory.write(&format!("{name}.crt"), certificate);
        (certificate, directory.write(&format!("{name}.key"), key))
    }
}

/// Whether curl, which trusts only `ca`, reaches the controller.
fn is_trusted(addr: SocketAddr, ca: &str) -> bool {
    Command::new("curl")
        .args(["--silent", "--fail", "--ipv4", "--cacert", ca, "--max-time", "20"])
        .arg(format!("https://localhost:{}/livez", addr.port()))
        .status()
        .expect("curl")
        .success()
}

#[test]
fn a_certificate_is_exchanged_under_connections_that_live_on() {
    let directory = Directory::new();
    let [old, new] = ["old", "new"].map(Authority::new);
    let [old_ca, new_ca] = [("old", &old), ("new", &new)]
        .map(|(name, authority)| directory.write(name, authority.pem()));
    let (certificate, key) = old.pair();
    let certificate = directory.write("tls.crt", certificate);
    let key = directory.write("tls.key", key);
    let (controller, addr) = controller(&["--tls-cert", &certificate, "--tls-key", &key]);
    assert!(is_trusted(addr, &old_ca));
    assert!(!is_trusted(addr, &new_ca));
    let both = directory.write("both", old.pem() + &new.pem());
    let url = format!("https://localhost:{}", addr.port());
    let proxy =
        Ebbtide::proxy(&echo().to_string(), &["--controller", &url, "--controller-ca", &both]);
    proxy.until_metric("ebbtide_report_attempts_total{result=\"ok\"} 1");
    let mut follower = Follower::start_at(&url, &["--ipv4", "--cacert", &old_ca], "");
    follower.expect("reset");
    follower.expect("target");
    follower.expect("current");

    // Only one of the two files is there yet, as it is for a moment in every exchange.
    let (new_certificate, new_key) = new.pair();
    directory.write("tls.crt", &new_certificate);
    while controller
        .log()
        .iter()
        .all(|line| line["message"] != "cannot use the new certificate, keeping the last one")
    {
        assert!(is_trusted(addr, &old_ca));
    }
    directory.write("tls.key", &new_key);
    while !is_trusted(addr, &new_ca) {
        std::thread::yield_now();
    }
    assert!(!is_trusted(addr, &old_ca));
    // The old connection lives, and the proxy that trusts both reports on.
    proxy.signal(rustix::process::Signal::TERM);
    follower.until(|target| target["report"]["phase"] == "Drained");
    let finished = proxy.finish();
    let failed: Vec<_> = finished.lines("cannot reach the controller");
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_proxy_with_a_certificate_is_known_by_it() {
    let directory = Directory::new();
    let [servers, clients, strangers] = ["servers", "clients", "strangers"].map(Authority::new);
    let write_pair = |name: &str, authority: &Authority| authority.write_pair(&directory, name);
    let (certificate, key) = write_pair("server", &servers);
    let ca = directory.write("servers.pem", servers.pem());
    let client_ca = directory.write("clients.pem", clients.pem());
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    let (_controller, addr) =
        controller(&[&tls[..], &["--auth", "mtls", "--client-ca", &client_ca]].concat());
    // A probe has no certificate.
    assert!(is_trusted(addr, &ca));
    let url = format!("https://localhost:{}", addr.port());
    let reporting = ["--controller", &url, "--controller-ca", &ca];
    let with = |(certificate, key): &(String, String), result: &str| {
        let identity = ["--controller-cert", certificate, "--controller-key", key];
        let proxy = Ebbtide::proxy(&echo().to_string(), &[&reporting[..], &identity].concat());
        proxy.until_metric(&format!("ebbtide_report_attempts_total{{result=\"{result}\"}} 1"));
    };
    with(&write_pair("client", &clients), "ok");
    with(&write_pair("stranger", &strangers), "connect_error");
    let nobody = Ebbtide::proxy(&echo().to_string(), &reporting);
    nobody.until_metric("ebbtide_report_attempts_total{result=\"http_error\"} 1");
}
