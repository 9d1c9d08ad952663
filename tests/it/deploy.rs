//! The manifests under `deploy/`: everything they tell Ebbtide is something that it understands.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ebbtide::command;
use serde_json::Value;

use crate::support::Ebbtide;

/// The application's stop, the kubelet's floor and our exit: what a drain leaves of the grace
/// period (docs/defaults.md).
const GRACE_MARGIN_SECONDS: u64 = 15;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// Every manifest but the kustomization, by its file name.
fn manifests() -> BTreeMap<String, Vec<Value>> {
    let mut manifests = BTreeMap::new();
    for entry in std::fs::read_dir(deploy()).expect("deploy/") {
        let path = entry.expect("an entry").path();
        // What watches them is no manifest, and monitoring.rs looks at it; balancer_docs.rs looks at the
        // controller's configurations.
        if path.is_dir() && (path.ends_with("monitoring") || path.ends_with("balancers")) {
            continue;
        }
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(
            path.extension().is_some_and(|it| it == "yaml"),
            "{name}: only manifests belong here"
        );
        if name != "kustomization.yaml" {
            let text = std::fs::read_to_string(&path).expect("readable");
            let documents = serde_saphyr::from_multiple(&text)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            manifests.insert(name, documents);
        }
    }
    assert!(manifests.len() >= 5, "native, TKE, ordinary, run, controller: {manifests:?}");
    manifests
}

/// A container, with what its pod says about it.
struct Container<'a> {
    file: &'a str,
    value: &'a Value,
    pod: &'a Value,
    native: bool,
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().into_iter().flatten();
    words.map(|word| word.as_str().expect("a string, quoted if need be").to_owned()).collect()
}

impl Container<'_> {
    fn name(&self) -> String {
        format!("{}: {}", self.file, self.value["name"].as_str().expect("a name"))
    }

    /// The command line, if it is one of ours: `command` or the image's entry point, and `args`.
    fn line(&self) -> Option<Vec<String>> {
        let image = self.value["image"].as_str().expect("an image");
        let mut line = words(&self.value["command"]);
        if line.is_empty() && image.starts_with("ebbtide:") {
            line.push("/ebbtide".to_owned());
        }
        line.extend(words(&self.value["args"]));
        (line.first()? == "/ebbtide").then_some(line)
    }

    /// The variables with a value; those of the downward API get one that stands for it.
    fn environment(&self) -> Vec<(String, String)> {
        let variable = |entry: &Value| {
            let name = entry["name"].as_str().expect("a name").to_owned();
            let value = entry["value"].as_str().map(str::to_owned);
            let from = entry["valueFrom"]["fieldRef"]["fieldPath"].as_str();
            let value = value.or_else(|| from.map(|path| format!("<{path}>")));
            (name, value.expect("a value that is a string, or a field"))
        };
        list(self.value, "env").iter().map(variable).collect()
    }

    fn flag(&self, flag: &str) -> Option<String> {
        let line = self.line()?;
        line.iter().find_map(|word| word.strip_prefix(&format!("--{flag}=")).map(str::to_owned))
    }

    fn is_proxy(&self) -> bool {
        self.line().is_some_and(|line| ["proxy", "run"].contains(&line[1].as_str()))
    }
}

fn with_containers(look: impl Fn(&Container<'_>)) -> usize {
    let mut looked = 0;
    for (file, documents) in &manifests() {
        for pod in documents.iter().map(|document| &document["spec"]["template"]["spec"]) {
            for (key, init) in [("initContainers", true), ("containers", false)] {
                for value in list(pod, key) {
                    let native = init && value["restartPolicy"] == "Always";
                    assert!(!init || native, "{file}: an init container would never end");
                    look(&Container { file, value, pod, native });
                    looked += 1;
                }
            }
        }
    }
    looked
}

fn check(line: &[String], environment: &[(String, String)], what: &str) {
    let line = line.iter().map(OsString::from);
    command::check(line, environment).unwrap_or_else(|error| panic!("{what}: {error}"));
}

#[test]
fn every_command_line_and_every_variable_is_understood() {
    let looked = with_containers(|container| {
        let environment = container.environment();
        if let Some(line) = container.line() {
            check(&line, &environment, &container.name());
        }
        let hook = &container.value["lifecycle"]["preStop"]["exec"]["command"];
        if !hook.is_null() {
            let hook = words(hook);
            assert_eq!(hook[0], "/ebbtide", "{}: there is no shell", container.name());
            // A hook sees the container's environment, of which it reads what concerns it.
            check(&hook, &[], &container.name());
        }
    });
    assert_eq!(looked, 4 * 2 + 1 + 2, "four sidecars with their applications, run, controllers");
}

#[test]
fn identities_come_under_the_names_that_are_read() {
    let names = ["POD_NAMESPACE", "POD_NAME", "POD_UID", "POD_IP", "NODE_NAME"];
    with_containers(|container| {
        if container.is_proxy() {
            let environment = container.environment();
            for name in names {
                let is_field = |(key, value): &(String, String)| key == name && value.contains('<');
                assert!(environment.iter().any(is_field), "{}: {name}", container.name());
            }
        }
    });
}

/// Every path and port that a hook or a probe asks for, against a proxy that runs.
#[test]
fn every_hook_and_probe_finds_its_endpoint() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let upstream = upstream.local_addr().expect("its address").to_string();
    let proxy = Ebbtide::proxy(&upstream, &["--wait-for-drain", "0"]);
    proxy.addr();
    let asked = std::cell::RefCell::new(BTreeSet::new());
    with_containers(|container| {
        let gets = [
            &container.value["lifecycle"]["preStop"],
            &container.value["startupProbe"],
            &container.value["readinessProbe"],
            &container.value["livenessProbe"],
        ];
        for get in gets.map(|handler| &handler["httpGet"]).into_iter().filter(|get| !get.is_null())
        {
            let path = get["path"].as_str().expect("a path");
            let port = get["port"].as_u64().expect("a number: names are the container's own");
            asked.borrow_mut().insert((path.to_owned(), port));
            match port {
                17701 => assert_eq!(proxy.get(path).status, 200, "{}: {path}", container.name()),
                17710 => assert!(["/livez", "/readyz"].contains(&path)),
                other => panic!("{}: who answers on {other}?", container.name()),
            }
        }
    });
    assert!(asked.borrow().contains(&("/hooks/wait".to_owned(), 17701)));
}

#[test]
fn a_drain_fits_into_the_grace_period() {
    with_containers(|container| {
        if !container.is_proxy() {
            return;
        }
        let name = container.name();
        let grace = container.pod["terminationGracePeriodSeconds"].as_u64().expect("a period");
        let environment: BTreeMap<_, _> = container.environment().into_iter().collect();
        assert_eq!(environment["EBBTIDE_GRACE_PERIOD"], grace.to_string(), "{name}");
        // The time-out derives from it, unless a flag says otherwise; then it must leave as much.
        let said =
            container.flag("drain-timeout").or(environment.get("EBBTIDE_DRAIN_TIMEOUT").cloned());
        if let Some(timeout) = said {
            let timeout = humantime::parse_duration(&timeout).expect("a duration").as_secs();
            assert!(timeout + GRACE_MARGIN_SECONDS <= grace, "{name}: {timeout} s of {grace} s");
        }
        if let Some(timeout) = container.flag("stop-timeout") {
            let timeout = humantime::parse_duration(&timeout).expect("a duration").as_secs();
            assert!(timeout < GRACE_MARGIN_SECONDS, "{name}: the kubelet would kill it first");
        }
    });
}

/// Which hooks a shape needs follows from docs/kubernetes.md; see each file's head.
#[test]
fn each_shape_has_the_hooks_that_hold_it() {
    with_containers(|container| {
        let name = container.name();
        let hook = &container.value["lifecycle"]["preStop"];
        let line = container.line().unwrap_or_default();
        match line.get(1).map(String::as_str) {
            Some("proxy") if container.native => {
                assert_eq!(words(&hook["exec"]["command"]), ["/ebbtide", "drain"], "{name}");
            }
            Some("proxy") => {
                let waits = ["/ebbtide", "drain", "--wait"];
                assert_eq!(words(&hook["exec"]["command"]), waits, "{name}");
            }
            // `run` drains on the SIGTERM that a hook would hold up.
            Some(_) => assert!(hook.is_null(), "{name}"),
            None => {
                assert_eq!(hook["httpGet"]["path"], "/hooks/wait", "{name}");
                assert_eq!(hook["httpGet"]["port"], 17701, "{name}");
            }
        }
    });
}

#[test]
fn nothing_asks_for_more_rights_than_it_needs() {
    with_containers(|container| {
        let Some(line) = container.line() else { return };
        let name = container.name();
        let context = &container.value["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(words(&context["capabilities"]["drop"]), ["ALL"], "{name}");
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        // Under `run` the rest is the application's business.
        if line[1] != "run" {
            assert_eq!(context["runAsNonRoot"], true, "{name}");
            assert_eq!(context["runAsUser"], 65532, "{name}: the image's user");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
        }
        if line[1] != "controller" {
            let liveness = &container.value["livenessProbe"];
            assert!(liveness.is_null(), "{name}: a restart would cut every stream");
        }
    });
}

/// A Service must lead to the proxy and never past it.
#[test]
fn every_service_leads_to_a_port_of_ours() {
    for (file, documents) in manifests() {
        let ours: BTreeSet<u16> = documents
            .iter()
            .flat_map(|document| {
                let pod = &document["spec"]["template"]["spec"];
                [list(pod, "initContainers"), list(pod, "containers")].concat()
            })
            .filter_map(|container| {
                let args = words(&container["args"]);
                let listen = args.iter().find_map(|arg| arg.strip_prefix("--listen="))?;
                let addr: std::net::SocketAddr = listen.parse().expect("an address");
                Some(addr.port())
            })
            .collect();
        let services: Vec<_> = documents.iter().filter(|it| it["kind"] == "Service").collect();
        assert_eq!(services.len(), 1, "{file}");
        for port in list(&services[0]["spec"], "ports") {
            let target = port["targetPort"].as_u64().and_then(|port| u16::try_from(port).ok());
            assert!(ours.contains(&target.expect("a number")), "{file}: {port}");
        }
    }
}

/// The one container of ours in the Deployment of a file, and its pod.
fn ours<'a>(manifests: &'a BTreeMap<String, Vec<Value>>, file: &str) -> (&'a Value, &'a Value) {
    let deployment = manifests[file].iter().find(|it| it["kind"] == "Deployment");
    let pod = &deployment.expect("a Deployment")["spec"]["template"]["spec"];
    let containers = list(pod, "initContainers").iter().chain(list(pod, "containers"));
    let mut ours =
        containers.filter(|it| it["image"].as_str().is_some_and(|it| it.starts_with("ebbtide:")));
    (ours.next().expect("a container of ours"), pod)
}

#[test]
fn a_pods_own_token_is_mounted_where_it_is_read_and_for_whom_the_controller_wants_it() {
    let manifests = manifests();
    let (sidecar, pod) = ours(&manifests, "native-sidecar-kubernetes.yaml");
    let token = &list(pod, "volumes")[0]["projected"]["sources"][0]["serviceAccountToken"];
    let file = list(sidecar, "env").iter().find(|it| it["name"] == "EBBTIDE_CONTROLLER_TOKEN_FILE");
    let mount = &list(sidecar, "volumeMounts")[0];
    assert_eq!(mount["name"], list(pod, "volumes")[0]["name"]);
    let path = [&mount["mountPath"], &token["path"]].map(|it| it.as_str().expect("a path"));
    assert_eq!(file.expect("a variable")["value"], path.join("/"));
    // Less is refused by the API server.
    assert!(token["expirationSeconds"].as_u64().expect("seconds") >= 600);

    let (controller, pod) = ours(&manifests, "controller-kubernetes.yaml");
    let args = words(&controller["args"]);
    assert!(args.contains(&"--auth=kubernetes".to_owned()), "{args:?}");
    let audience = format!("--audience={}", token["audience"].as_str().expect("an audience"));
    assert!(args.contains(&audience), "{args:?}");
    assert_ne!(pod["automountServiceAccountToken"], false);
    let documents = &manifests["controller-kubernetes.yaml"];
    let of = |kind: &str| documents.iter().find(|it| it["kind"] == kind).expect("a document");
    let (account, role) = (of("ServiceAccount"), of("ClusterRole"));
    assert_eq!(account["metadata"]["name"], pod["serviceAccountName"]);
    let binding = of("ClusterRoleBinding");
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["namespace"], account["metadata"]["namespace"]);
    for (resource, verb) in [("tokenreviews", "create"), ("pods", "get")] {
        let rule = list(role, "rules").iter().find(|it| words(&it["resources"]) == [resource]);
        assert_eq!(words(&rule.expect("a rule")["verbs"]), [verb], "no more, no less");
    }
}

/// What they say about everything else stands in the files that they replace.
#[test]
fn the_manifests_with_a_pods_own_token_differ_in_nothing_else() {
    let manifests = manifests();
    let common = |file: &str| -> Value {
        let (container, pod) = ours(&manifests, file);
        let (mut container, mut pod) = (container.clone(), pod.clone());
        let args: Vec<_> = words(&container["args"])
            .into_iter()
            .filter(|it| {
                !["--auth", "--token-file", "--audience"]
                    .contains(&it.split('=').next().unwrap_or_default())
            })
            .collect();
        container["args"] = args.into();
        for key in [
            "volumes",
            "containers",
            "initContainers",
            "serviceAccountName",
            "automountServiceAccountToken",
        ] {
            pod.as_object_mut().expect("a pod").remove(key);
        }
        let others = manifests[file].iter().filter(|it| it["kind"] == "Service").cloned();
        Value::Array([container, pod].into_iter().chain(others).collect())
    };
    assert_eq!(common("native-sidecar.yaml"), common("native-sidecar-kubernetes.yaml"));
    assert_eq!(common("controller.yaml"), common("controller-kubernetes.yaml"));
}

#[test]
fn tke_is_told_to_be_graceful() {
    let manifests = manifests();
    let service = manifests["tke.yaml"].iter().find(|it| it["kind"] == "Service");
    let annotations = &service.expect("a Service")["metadata"]["annotations"];
    for name in ["direct-access", "enable-grace-shutdown"] {
        assert_eq!(annotations[format!("service.cloud.tencent.com/{name}")], "true");
    }
}

/// The shapes of the example replace each other: one is in use, the others stand beside it.
#[test]
fn the_kustomization_lists_every_file() {
    let text = std::fs::read_to_string(deploy().join("kustomization.yaml")).expect("readable");
    let kustomization: Value = serde_saphyr::from_str(&text).expect("YAML");
    let used = words(&kustomization["resources"]);
    assert_eq!(used.len(), 2, "the controller and one shape: {used:?}");
    let beside = text.lines().filter_map(|line| line.trim().strip_prefix("# - "));
    let listed: BTreeSet<String> = beside.map(str::to_owned).chain(used).collect();
    let files: BTreeSet<String> = manifests().into_keys().collect();
    assert_eq!(listed, files);
}
