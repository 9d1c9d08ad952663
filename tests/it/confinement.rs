//! The tests' own premise: the program runs under the restrictions of the shipped manifests.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Directory, Ebbtide, QUICK, Restrictions, confine, echo};

/// The value of a line in /proc/PID/status.
fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
}

fn limit(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
}

#[test]
fn the_program_runs_as_in_a_pod() {
    let proxy = Ebbtide::proxy(&echo().to_string(), &QUICK);
    proxy.addr();
    let pid = proxy.pid();
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Seccomp"), "2", "a filter, not the strict mode");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    let limit = limit(pid, "Max open files");
    assert_eq!(limit.split_whitespace().collect::<Vec<_>>(), ["1024", "1024", "files"]);
    if !rustix::process::geteuid().is_root() {
        println!("not as root: user, bounding set, root and control groups stay as they are");
        return;
    }
    let user = confine::USER.to_string();
    for ids in ["Uid", "Gid"] {
        let ids = status(pid, ids);
        assert!(ids.split_whitespace().all(|id| id == user), "{ids}");
    }
    assert_eq!(status(pid, "Groups"), "");
    assert_eq!(status(pid, "CapBnd"), "0000000000000000");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).expect("it runs");
    let root = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/")).expect("a root");
    let options = root.split(' ').nth(3).expect("options");
    assert!(options.split(',').any(|option| option == "ro"), "{root}");
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    if Path::new("/sys/fs/cgroup/pids").exists() {
        for controller in ["memory", "pids"] {
            let line = groups.lines().find(|line| line.split(':').nth(1) == Some(controller));
            assert!(line.is_some_and(|line| line.contains("/ebbtide-it-")), "{groups}");
        }
    } else {
        println!("control groups of the program: {groups}");
    }
}

/// What the filter refuses is refused by the kernel, to any program: seen with a shell.
#[test]
fn what_a_pod_may_not_do_fails() {
    let refused = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let _confined = Restrictions::of_a_pod().apply(&mut command);
        let output = command.output().expect("a shell");
        assert!(!output.status.success(), "{script} succeeds");
        String::from_utf8(output.stderr).expect("text")
    };
    for script in ["unshare --user true", "unshare --net true", "setpriv --reuid 0 true"] {
        let error = refused(script);
        assert!(error.contains("Operation not permitted"), "{script}: {error}");
    }
    // AF_VSOCK and AF_ALG, which the profile leaves out, and a family that it names.
    for family in ["40", "38"] {
        let error = refused(&format!("python3 -c 'import socket; socket.socket({family}, 1)'"));
        assert!(error.contains("PermissionError: [Errno 1]"), "{family}: {error}");
    }
    if rustix::process::geteuid().is_root() {
        // Not beside the program: it may be below the temporary directory, which is the tests' own.
        let error = refused("touch /usr/not-to-be");
        assert!(error.contains("Read-only file system"), "{error}");
    }
    let directory = Directory::new();
    let mut command = Command::new("touch");
    command.arg(directory.path().join("a-file-of-the-test"));
    let _confined = Restrictions::of_a_pod().descriptors(2048).apply(&mut command);
    assert!(command.status().expect("touch").success(), "the tests' files can be written");
}
