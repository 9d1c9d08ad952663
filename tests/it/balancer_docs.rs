//! Every example in docs/balancers.md is a configuration that the controller takes.

use ebbtide::controller::balancer::Config;
use serde::Deserialize;

use crate::support::Directory;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    balancer: Config,
}

#[test]
fn the_examples_in_the_docs_are_taken() {
    // The files that they name.
    let directory = Directory::new();
    directory.write("webhook-secret", "secret");
    let certified = rcgen::generate_simple_self_signed(["a".to_owned()]).expect("a certificate");
    directory.write("webhook-ca.pem", certified.cert.pem());
    let at = directory.path().to_str().expect("text");

    let page = include_str!("../../docs/balancers.md");
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).filter_map(|it| it.split("```").next()).collect();
    let mut names = Vec::new();
    for example in examples {
        let text = example.replace("/etc/ebbtide", at);
        let file: File =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{example}"));
        let balancer = file.balancer.build().unwrap_or_else(|error| panic!("{error}\n{example}"));
        names.push(balancer.name());
    }
    for name in ["log", "haproxy", "webhook"] {
        assert!(names.contains(&name), "no example of `{name}`: {names:?}");
        assert!(page.contains(&format!("\n## `{name}`")), "no section about `{name}`");
    }
}
