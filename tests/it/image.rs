//! The image: one static binary that runs where nothing else is.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::support::process::Exception;
use crate::support::{Ebbtide, connect, echo, exchange, http};

/// The user of the image and of the manifests.
const USER: &str = "65532";

/// Set where this test has started itself again in namespaces of its own.
const INSIDE: &str = "EBBTIDE_TEST_INSIDE_NAMESPACES";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The static binary: what `EBBTIDE_STATIC_BIN` names, as `make test` does; otherwise one is built,
/// without optimisation, which changes nothing of what is asked here.
fn static_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("EBBTIDE_STATIC_BIN") {
        return path.into();
    }
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let target_dir = repository("target").join("static");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--locked", "--bin", "ebbtide", "--target", &target])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(repository("."))
        .env("RUSTFLAGS", static_rustflags())
        .status()
        .expect("cargo starts");
    assert!(built.success(), "the static build failed; `make static` does the same");
    target_dir.join(target).join("debug/ebbtide")
}

/// As `make static` has them, and the image with it.
fn static_rustflags() -> String {
    let text = fs::read_to_string(repository("Makefile")).expect("readable");
    let flags = text.lines().find_map(|line| line.strip_prefix("STATIC_RUSTFLAGS := "));
    flags.expect("the static build's flags").to_owned()
}

fn succeed(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}; run tests/install.sh"));
    assert!(status.success(), "{program} {args:?}: {status}");
}

#[test]
fn the_binary_needs_no_library() {
    let binary = static_binary();
    let ldd = Command::new("ldd").arg(&binary).output().expect("ldd starts");
    let said = String::from_utf8_lossy(&[ldd.stdout, ldd.stderr].concat()).into_owned();
    let is_static = said.contains("statically linked") || said.contains("not a dynamic executable");
    assert!(is_static, "{}: {said}", binary.display());
}

/// Memory of one that has started and serves nobody, in which text that a start touches is most. A profile
/// that has come apart from the program is told by nothing else: `make profile` counts anew.
#[test]
fn the_program_takes_as_little_at_rest_as_its_profile_allows() {
    let binary = static_binary();
    let compiler = fs::read_to_string(repository("benches/profile/rustc")).expect("its name");
    let dockerfile = fs::read_to_string(repository("Dockerfile")).expect("readable");
    let same = format!("FROM --platform=$BUILDPLATFORM rust:{}-", compiler.trim());
    assert!(dockerfile.contains(&same), "the image's compiler is the profile's, {compiler}");
    let built_by = format!("rustc version {} (", compiler.trim());
    let has_profile = cfg!(target_arch = "x86_64")
        && std::env::var_os("EBBTIDE_STATIC_BIN").is_some()
        && has(&fs::read(&binary).expect("the binary"), built_by.as_bytes());
    let most_kib = if has_profile { 6 * 1024 } else { 32 * 1024 };
    let mut command = Command::new(&binary);
    command.args([
        "proxy",
        "--threads",
        "1",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "127.0.0.1:1",
    ]);
    command.args(["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    let proxy = Ebbtide::spawn(command);
    proxy.addr();
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", proxy.pid())).expect("memory");
    // What is shared too: other tests run the same file.
    let resident = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).expect("a line of it");
    let kib: usize = resident.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    println!("{kib} KiB at rest");
    assert!(kib <= most_kib, "{kib} KiB at rest, where {most_kib} are expected: make profile");
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A root that holds the binary and what a kubelet mounts into every container, served from a
/// read-only file system without /proc and /dev, as a user who has no name; names are resolved
/// through /etc/hosts and through a name server.
#[test]
fn the_binary_serves_and_drains_in_an_empty_root() {
    if std::env::var_os(INSIDE).is_some() {
        return in_an_empty_root();
    }
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    if !root {
        command.arg("--map-root-user");
    }
    let status = command
        .args(["--mount", "--net", "--"])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "image::the_binary_serves_and_drains_in_an_empty_root", "--nocapture"])
        .env(INSIDE, if root { "root" } else { "mapped" })
        .env("EBBTIDE_STATIC_BIN", static_binary())
        .status()
        .expect("unshare starts");
    assert!(status.success(), "in namespaces of its own (needs root or user namespaces): {status}");
}

/// A command line in the empty root, as the nameless user.
fn within(root: &str, args: &[&str]) -> Command {
    let mut command = if std::env::var_os(INSIDE).is_some_and(|inside| inside == "root") {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={USER}:{USER}")).arg(format!("--groups={USER}")).arg(root);
        command
    } else {
        let mut command = Command::new("unshare");
        command.arg(format!("--map-user={USER}")).arg(format!("--map-group={USER}"));
        command.arg(format!("--root={root}"));
        command
    };
    command.arg("/ebbtide").args(args);
    command
}

fn in_an_empty_root() {
    succeed("ip", &["link", "set", "lo", "up"]);
    let root = std::env::temp_dir().join(format!("ebbtide-root-{}", std::process::id()));
    fs::create_dir(&root).expect("a mount point");
    let at = root.to_str().expect("a path of letters");
    succeed("mount", &["-t", "tmpfs", "-o", "mode=0755", "tmpfs", at]);
    let echo = echo();
    name_server();
    fs::copy(static_binary(), root.join("ebbtide")).expect("the binary");
    fs::set_permissions(root.join("ebbtide"), fs::Permissions::from_mode(0o555)).expect("a mode");
    fs::create_dir(root.join("etc")).expect("etc");
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n127.0.0.1 listed\n").expect("hosts");
    fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n").expect("resolv.conf");
    let port = echo.port();
    let config = format!(
        "listeners:\n\
         - {{listen: '127.0.0.1:8080', upstream: 'listed:{port}'}}\n\
         - {{listen: '127.0.0.1:8081', upstream: '{NAME}:{port}'}}\n\
         - {{listen: '127.0.0.1:8082', upstream: 'unknown.test:{port}'}}\n\
         upstream-wait: 100ms\ndrain-delay: 0ms\nsettled-for: 0ms\nsettle-period: 100ms\n"
    );
    fs::write(root.join("etc/ebbtide.yaml"), config).expect("a configuration");
    // The mount alone: a user namespace may not set the options of the file system itself.
    succeed("mount", &["-o", "remount,bind,ro", at]);
    let refused = fs::write(root.join("file"), "").expect_err("read-only");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    let proxy = Ebbtide::spawn_with_privileges(
        Exception::EntersFirst,
        within(at, &["proxy", "--config", "/etc/ebbtide.yaml"]),
    );
    let addrs = proxy.addrs(3);
    runs_as_nobody(&proxy);
    let mut streams: Vec<_> = addrs[..2].iter().map(|addr| connect(*addr)).collect();
    for stream in &mut streams {
        exchange(stream, b"before");
    }
    // A name that nobody knows ends the connection, not the process.
    let lost = connect(addrs[2]).read(&mut [0; 1]);
    assert!(!matches!(lost, Ok(1..)), "{lost:?}");
    let livez = http::request(proxy.admin(), "GET", "/livez").expect("an answer");
    assert_eq!((livez.status, livez.body.as_str()), (200, "ok\n"));
    // As an exec hook would, in an image without a shell.
    let status = within(at, &["status", "--json"]).output().expect("it starts");
    assert!(status.status.success(), "{status:?}");
    without_authorities(at);

    proxy.signal(Signal::TERM);
    proxy.says("listener closed");
    for stream in &mut streams {
        exchange(stream, b"while draining");
    }
    drop(streams);
    assert_eq!(proxy.finish().code(), Some(0));
    succeed("umount", &[at]);
    fs::remove_dir(&root).expect("the mount point");
}

/// Read off the kernel: who it is, and what it may.
fn runs_as_nobody(proxy: &Ebbtide) {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).expect("its status");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a field");
        line.split_whitespace().skip(1).collect::<Vec<_>>()
    };
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == "root") {
        assert_eq!(field("Uid:"), [USER; 4]);
        assert_eq!(field("Gid:"), [USER; 4]);
    }
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    let root = fs::read_link(format!("/proc/{}/root", proxy.pid())).expect("its root");
    let mut entries: Vec<OsString> = fs::read_dir(root)
        .expect("a directory")
        .map(|it| it.expect("an entry").file_name())
        .collect();
    entries.sort();
    assert_eq!(entries, ["ebbtide", "etc"]);
}

/// There are no certificate authorities in the image, and that is said at the start.
fn without_authorities(root: &str) {
    let line = ["proxy", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"];
    let https = ["--admin", "127.0.0.1:0", "--control", "127.0.0.1:0", "--controller"];
    let line = [&line[..], &https[..], &["https://controller.test"]].concat();
    let output = within(root, &line).output().expect("it starts");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("give --controller-ca FILE"), "{said}");
}

/// The one name that the name server knows.
const NAME: &str = "cart.shop.test";

/// A name server on 127.0.0.1:53 that knows `NAME`, and denies everything else.
///
/// # Source
/// RFC 1035 §4.1: the header, the question as it was asked, and for an answer a pointer to it.
fn name_server() {
    let socket = UdpSocket::bind("127.0.0.1:53").expect("the port, in a network of our own");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            let mut end = 12;
            let mut labels = Vec::new();
            while query[end] != 0 {
                let label = &query[end + 1..][..usize::from(query[end])];
                labels.push(String::from_utf8_lossy(label).into_owned());
                end += 1 + label.len();
            }
            let question = &query[12..end + 5];
            let is_known = labels.join(".") == NAME;
            let answers = u8::from(is_known && question.ends_with(&[0, 1, 0, 1]));
            let code = if is_known { 0 } else { 3 };
            // Its number; an answer, recursion wished and had; one question, the answers.
            let mut reply = query[..2].to_vec();
            reply.extend([0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
            reply.extend(question);
            if answers == 1 {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&reply, client).expect("sent");
        }
    });
}

/// The Dockerfile's instructions, continued lines joined, comments left out.
fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string(repository("Dockerfile")).expect("readable");
    let lines: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let instruction = |line: &str| {
        let (name, rest) = line.trim().split_once(' ')?;
        Some((name.to_uppercase(), rest.trim().to_owned()))
    };
    joined.lines().filter_map(instruction).collect()
}

#[test]
fn the_image_holds_one_binary_and_no_shell() {
    let all = instructions();
    let stages: Vec<usize> = (0..all.len()).filter(|index| all[*index].0 == "FROM").collect();
    assert!(stages.len() >= 2, "built in one stage, shipped in another");
    let last = &all[*stages.last().expect("a stage")..];
    assert_eq!(last[0].1, "scratch");
    let of = |name: &str| -> Vec<&str> {
        let named = last.iter().filter(|(it, _)| it == name);
        named.map(|(_, rest)| rest.as_str()).collect()
    };
    assert_eq!(of("COPY"), ["--from=build /ebbtide /ebbtide"], "one binary");
    assert_eq!(of("USER"), [format!("{USER}:{USER}")], "a number: nothing there knows names");
    for name in ["RUN", "ADD", "SHELL", "HEALTHCHECK"] {
        assert!(of(name).is_empty(), "{name} has no shell to run in");
    }
    for (_, rest) in all.iter().filter(|(name, _)| name == "FROM") {
        let image = rest.split(' ').find(|word| !word.starts_with("--")).expect("an image");
        let tag = image.split_once(':').map_or("", |(_, tag)| tag);
        let pinned = tag.split('-').next().is_some_and(|tag| tag.split('.').count() == 3);
        assert!(image == "scratch" || pinned && tag.ends_with("bookworm"), "{image} may change");
    }
}

#[test]
fn the_image_starts_what_the_command_line_understands() {
    let all = instructions();
    let of = |name: &str| all.iter().rfind(|(it, _)| it == name).map(|(_, rest)| rest.as_str());
    let words = |json: &str| -> Vec<String> {
        serde_json::from_str(json)
            .unwrap_or_else(|error| panic!("{json} is a shell's form: {error}"))
    };
    let mut line = words(of("ENTRYPOINT").expect("an entry point"));
    assert_eq!(line[0], "/ebbtide");
    line.extend(of("CMD").map(words).unwrap_or_default());
    // What a manifest or `docker run` appends; the image's own part must not stand in its way.
    line.extend(["proxy", "--listen=0.0.0.0:8080", "--upstream=127.0.0.1:3000"].map(str::to_owned));
    ebbtide::command::check(line.into_iter().map(OsString::from), &[]).expect("understood");
    assert!(of("EXPOSE").is_some_and(|ports| ports == "17701"), "the admin port's default");
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(of("LABEL").is_some_and(|labels| labels.contains(&version)), "{version}");
}

/// Without the sources that the build reads, `COPY . .` copies too little.
#[test]
fn the_build_gets_what_it_reads() {
    let text = fs::read_to_string(repository(".dockerignore")).expect("readable");
    let kept: Vec<_> = text.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(text.lines().any(|line| line == "*"), "target/ alone is gigabytes");
    for needed in ["Cargo.toml", "Cargo.lock", "Makefile", "src", "crates", "docs/openapi.yaml"] {
        assert!(kept.contains(&needed), "{needed}");
    }
    let manifest = fs::read_to_string(repository("Cargo.toml")).expect("readable");
    // A target that is declared must be there, or cargo reads no further.
    for (section, dir) in [("[[bench]]", "benches"), ("[[test]]", "tests")] {
        assert!(!manifest.contains(section) || kept.contains(&dir), "Cargo.toml has {section}");
    }
}
