//! Who we are: what the downward API put into the environment, or the host's name.

use crate::api::report::Identity;

/// The variables of our own that name this process; those without the prefix are common property.
pub const IDENTITY_VARIABLES: [&str; 6] = [
    "EBBTIDE_NAMESPACE",
    "EBBTIDE_POD_NAME",
    "EBBTIDE_POD_UID",
    "EBBTIDE_NODE_NAME",
    "EBBTIDE_POD_IP",
    "EBBTIDE_SERVICE",
];

/// Who this process is, from its environment.
///
/// Each field is read from `EBBTIDE_<NAME>` first and `<NAME>` then: `NAMESPACE` (plain:
/// `POD_NAMESPACE`), `POD_NAME`, `POD_UID`, `NODE_NAME`, `POD_IP`; `EBBTIDE_SERVICE` has no plain form. The pod's name falls back to
/// `HOSTNAME` and then to what the kernel calls the host, so that it is never empty.
#[must_use]
pub fn identity() -> Identity {
    from(|name| std::env::var(name).ok(), host_name)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn from(variable: impl Fn(&str) -> Option<String>, host_name: impl Fn() -> String) -> Identity {
    let first = |names: &[&str]| {
        names
            .iter()
            .filter_map(|name| variable(name))
            .map(|value| value.trim().to_owned())
            .find(|value| !value.is_empty())
    };
    Identity {
        namespace: first(&["EBBTIDE_NAMESPACE", "POD_NAMESPACE"]).unwrap_or_default(),
        pod_name: first(&["EBBTIDE_POD_NAME", "POD_NAME", "HOSTNAME"]).unwrap_or_else(host_name),
        pod_uid: first(&["EBBTIDE_POD_UID", "POD_UID"]).unwrap_or_default(),
        node_name: first(&["EBBTIDE_NODE_NAME", "NODE_NAME"]).unwrap_or_default(),
        pod_ip: first(&["EBBTIDE_POD_IP", "POD_IP"]).unwrap_or_default(),
        service: first(&["EBBTIDE_SERVICE"]).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Identity {
        from(
            |name| {
                variables
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).to_owned())
            },
            || "host".to_owned(),
        )
    }

    #[test]
    fn the_downward_api_says_it_all() {
        let identity = with(&[
            ("POD_NAMESPACE", "shop"),
            ("POD_NAME", "cart-0"),
            ("HOSTNAME", "other"),
            ("POD_UID", "u"),
            ("NODE_NAME", "n"),
            ("POD_IP", "10.0.0.1"),
            ("EBBTIDE_SERVICE", "cart"),
        ]);
        let expected = Identity {
            namespace: "shop".into(),
            pod_name: "cart-0".into(),
            pod_uid: "u".into(),
            node_name: "n".into(),
            pod_ip: "10.0.0.1".into(),
            service: "cart".into(),
        };
        assert_eq!(identity, expected);
    }

    #[test]
    fn our_own_names_come_first() {
        let identity = with(&[("EBBTIDE_NAMESPACE", "a"), ("POD_NAMESPACE", "b")]);
        assert_eq!(identity.namespace, "a");
    }

    #[test]
    fn outside_kubernetes_the_host_has_a_name() {
        assert_eq!(with(&[("HOSTNAME", "laptop")]).pod_name, "laptop");
        assert_eq!(with(&[("HOSTNAME", " ")]).pod_name, "host");
        assert!(!host_name().is_empty());
    }
}
