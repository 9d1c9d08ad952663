//! Configurations, without a service.

use super::Config;

const ARN: &str =
    "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/chat/50dc6c495c0c9188";

fn wrong(yaml: &str) -> String {
    let config: Config = serde_saphyr::from_str(yaml).expect("the right fields");
    config.build(&|_| None).expect_err("wrong").field
}

#[test]
fn each_field_that_is_wrong_is_named() {
    let other = ARN.replace("eu-west-1", "eu-west-2");
    let url = "endpoint: http://127.0.0.1:1";
    for (yaml, field) in [
        (format!("target-groups: []\n{url}"), "target-groups"),
        (format!("target-groups: [{{arn: 'chat'}}]\n{url}"), "target-groups[0].arn"),
        (
            format!("target-groups: [{{arn: '{ARN}'}}, {{arn: '{ARN}', port: 1}}]\n{url}"),
            "target-groups[1].arn",
        ),
        (
            format!("target-groups: [{{arn: '{ARN}'}}, {{arn: '{other}'}}]\n{url}"),
            "target-groups[1].arn",
        ),
        (format!("target-groups: [{{arn: '{ARN}'}}]\nendpoint: ftp://x"), "endpoint"),
        (format!("target-groups: [{{arn: '{ARN}'}}]\nendpoint: https://x\nca: /nonexistent"), "ca"),
    ] {
        assert_eq!(wrong(&yaml), format!("aws-elbv2.{field}"), "{yaml}");
    }
}

#[test]
fn a_wrong_variable_is_named() {
    let yaml = format!("target-groups: [{{arn: '{ARN}'}}]\nendpoint: http://127.0.0.1:1");
    let config: Config = serde_saphyr::from_str(&yaml).expect("the right fields");
    let environment = |name: &str| {
        (name == "AWS_EC2_METADATA_SERVICE_ENDPOINT").then(|| "nowhere/at all".to_owned())
    };
    let error = config.build(&environment).expect_err("wrong");
    assert!(error.message.contains("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "{error}");
}
