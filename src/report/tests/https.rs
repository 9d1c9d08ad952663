//! A controller with a certificate.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::support::{Controller, FOREVER, Proxy, reporter, wish};
use crate::drain::Phase;
use crate::report::{Attempt, Delivery};

/// An authority of the test's own, and its certificate in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let file = std::env::temp_dir().join(format!("ebbtide-{name}-{}.pem", std::process::id()));
        std::fs::write(&file, issuer.pem()).expect("writes");
        Authority { issuer, file }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let certificate: CertificateDer<'static> = CertificateParams::new(["localhost".to_owned()])
            .and_then(|params| params.signed_by(&key, &self.issuer))
            .expect("a certificate")
            .into();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("they fit");
        TlsAcceptor::from(Arc::new(config))
    }

    async fn controller(&self) -> Controller {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Controller::start_tls(listener, self.acceptor())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _already_gone = std::fs::remove_file(&self.file);
    }
}

#[tokio::test]
async fn a_controller_whose_ca_we_were_given_is_trusted() {
    let authority = Authority::new("right-ca");
    let mut controller = authority.controller().await;
    let mut wish = wish(&controller.url, FOREVER);
    wish.ca = Some(authority.file.clone());
    let mut proxy = Proxy::start(Phase::Drained, reporter(&wish));
    controller.next().await.accept();
    assert_eq!(proxy.attempt().await, Attempt::Ok);
    assert_eq!(proxy.final_report.wait().await, Delivery::Acknowledged);
}

#[tokio::test]
async fn a_controller_with_another_ca_gets_no_report() {
    let (theirs, ours) = (Authority::new("their-ca"), Authority::new("our-ca"));
    let mut controller = theirs.controller().await;
    let mut wish = wish(&controller.url, FOREVER);
    wish.ca = Some(ours.file.clone());
    let mut proxy = Proxy::start(Phase::Drained, reporter(&wish));
    tokio::select! {
        attempt = proxy.attempt() => assert_eq!(attempt, Attempt::ConnectError),
        _ = controller.next() => panic!("a report for a stranger"),
    }
    let (_, client) = wish.resolve().expect("a file");
    let call = crate::api::client::Call::get("/");
    let error = client.send(call).await.expect_err("not trusted");
    assert!(!error.is_nobody_there());
    let text = error.to_string();
    assert!(text.contains("certificate"), "{text}");
}
