//! Every example in docs/balancers.md and deploy/balancers/ is a configuration that the controller takes.

use ebbtide::controller::balancer::Config;
use serde::Deserialize;

use crate::support::Directory;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    balancer: Config,
}

/// Every kind that there is.
const NAMES: [&str; 6] = ["log", "haproxy", "webhook", "tencent-clb", "tke", "aws-elbv2"];

/// The files that the examples name.
fn files() -> Directory {
    let directory = Directory::new();
    std::fs::create_dir(directory.path().join("tencent")).expect("a directory");
    directory.write("webhook-secret", "secret");
    let certified = rcgen::generate_simple_self_signed(["a".to_owned()]).expect("a certificate");
    directory.write("webhook-ca.pem", certified.cert.pem());
    directory.write("tencent/credentials", "secret-id: a\nsecret-key: b\n");
    directory
}

/// The balancer that an example describes.
fn name(example: &str, files: &Directory) -> &'static str {
    let text = example.replace("/etc/ebbtide", files.path().to_str().expect("text"));
    let file: File =
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{example}"));
    file.balancer.build().unwrap_or_else(|error| panic!("{error}\n{example}")).name()
}

#[test]
fn the_examples_in_the_docs_are_taken() {
    let files = files();
    let page = include_str!("../../docs/balancers.md");
    let examples = page.split("```yaml\n").skip(1).filter_map(|it| it.split("```").next());
    let names: Vec<_> = examples
        .filter(|example| example.contains("balancer:"))
        .map(|example| name(example, &files))
        .collect();
    for name in NAMES {
        assert!(names.contains(&name), "no example of `{name}`: {names:?}");
        assert!(page.contains(&format!("\n## `{name}`")), "no section about `{name}`");
    }
}

#[test]
fn the_examples_to_deploy_are_taken() {
    let files = files();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/balancers");
    for known in NAMES.into_iter().filter(|known| *known != "log") {
        let path = format!("{examples}/{known}.yaml");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(name(&text, &files), known);
    }
    assert_eq!(std::fs::read_dir(examples).expect("examples").count(), NAMES.len() - 1);
}
