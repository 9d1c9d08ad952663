//! The restrictions under which users' pods run the program: user 65532 without capabilities, no new
//! privileges, a read-only root, the container runtime's filter of system calls, limits.
//!
//! The shipped manifests ask for all of this (`deploy/`), so every test of the program runs under it, and
//! what a kernel refuses to a pod it refuses in the tests too. Where the tests themselves run without
//! root, the user stays as it is, and there are neither a read-only root nor control groups.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::UNIX_EPOCH;

use libc::{c_int, c_long, sock_filter, sock_fprog};

use super::seccomp;

/// The user and group of the image and of the shipped manifests.
pub const USER: u32 = 65532;

/// A pod has a limit of descriptors; this is the runtimes' usual one.
const DESCRIPTORS: u64 = 1024;
/// The sidecars' memory limit in the shipped manifests.
const MEMORY: u64 = 256 << 20;
/// A node's limit for a pod, of the smaller ones.
const PIDS: u64 = 256;

/// How the names of the tests' control groups begin.
const GROUP: &str = "ebbtide-it-";

/// What a process is held to.
#[derive(Clone, Debug)]
pub struct Restrictions {
    descriptors: u64,
}

/// A command that was confined; keep this as long as its process lives: the control groups end with it.
#[derive(Debug)]
pub struct Confined {
    groups: Vec<PathBuf>,
}

impl Restrictions {
    /// As in a pod of the shipped manifests.
    pub fn of_a_pod() -> Self {
        Restrictions { descriptors: DESCRIPTORS }
    }

    /// More descriptors than that, for a test of thousands of connections.
    pub fn descriptors(mut self, most: u64) -> Self {
        self.descriptors = most;
        self
    }

    /// Makes a command start its program under these restrictions, in the namespaces of the caller.
    #[expect(unsafe_code, reason = "what runs between fork and exec can be said in no other way")]
    pub fn apply(&self, command: &mut Command) -> Confined {
        let root = rustix::process::geteuid().is_root();
        let groups = if root { control_groups() } else { Vec::new() };
        let mut entries: Vec<File> =
            groups.iter().filter_map(|group| open_entry(&group.join("cgroup.procs"))).collect();
        let writable: Vec<CString> = writable().collect();
        let filter = seccomp::filter();
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        // Not every root may raise a limit: tests of thousands of connections ask for what there is.
        let descriptors = most.unwrap_or(u64::MAX).min(self.descriptors);
        // SAFETY: the child calls the kernel alone, with what was made before the fork; it takes no lock and
        // allocates nothing.
        unsafe {
            command.pre_exec(move || {
                for entry in &mut entries {
                    entry.write_all(b"0")?;
                }
                libc::umask(0o022);
                let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: descriptors };
                check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
                if root {
                    read_only_root(&writable)?;
                    become_nobody()?;
                }
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
                load(&filter)
            });
        }
        Confined { groups }
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        for group in &self.groups {
            // Not empty while a child of the program still ends: then it stays behind, empty soon.
            let _ = fs::remove_dir(group);
        }
    }
}

/// The program's path, or that of a copy in the tests' directory if user 65532 can't come to the program
/// where it is: below /root, for example.
pub fn reachable(program: String) -> String {
    let may = |path: &Path, mode: u32| {
        fs::metadata(path).is_ok_and(|found| found.permissions().mode() & mode == mode)
    };
    let path = Path::new(&program);
    let is_open = may(path, 0o5) && path.ancestors().skip(1).all(|above| may(above, 0o1));
    if is_open || !rustix::process::geteuid().is_root() {
        return program;
    }
    let found = fs::metadata(path).expect("the program");
    let written = found.modified().expect("a time").duration_since(UNIX_EPOCH).expect("after 1970");
    let name = format!("ebbtide-it-program-{}-{}", written.as_nanos(), found.len());
    let copy = std::env::temp_dir().join(name);
    if !copy.exists() {
        // Tests in other processes make the same: each finds a whole one.
        let part = copy.with_extension(std::process::id().to_string());
        fs::copy(path, &part).expect("a copy of the program");
        fs::set_permissions(&part, fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::rename(&part, &copy).expect("renamed");
    }
    copy.into_os_string().into_string().expect("text")
}

/// The paths below which the program may write as far as their modes let it: the tests' own files, and
/// what a runtime mounts beside the root.
fn writable() -> impl Iterator<Item = CString> {
    let temporary = std::env::temp_dir();
    let paths = [temporary.as_path(), Path::new("/dev"), Path::new("/proc")];
    paths.map(|path| CString::new(path.as_os_str().as_bytes()).expect("a path")).into_iter()
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A mount namespace of its own in which nothing can be written but below `writable`. Root without
/// CAP_SYS_ADMIN can't have one, and goes without.
#[expect(unsafe_code, reason = "no crate has the mount calls")]
fn read_only_root(writable: &[CString]) -> io::Result<()> {
    use std::ptr::null;
    // SAFETY: the strings end in NUL and outlive the calls.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) != 0 {
            return Ok(());
        }
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(null(), c"/".as_ptr(), null(), private, null()))?;
        for path in writable {
            let bind = libc::MS_BIND | libc::MS_REC;
            check(libc::mount(path.as_ptr(), path.as_ptr(), null(), bind, null()))?;
        }
    }
    set_attributes(c"/", libc::MOUNT_ATTR_RDONLY, 0)?;
    for path in writable {
        set_attributes(path, 0, libc::MOUNT_ATTR_RDONLY)?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "no crate has mount_setattr")]
fn set_attributes(path: &std::ffi::CStr, set: u64, clear: u64) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the path ends in NUL; the structure is the kernel's, and its size is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check_call(result)
}

/// Gives up every capability, the bounding set first, and becomes the image's user.
#[expect(
    unsafe_code,
    reason = "rustix changes one thread, which is what a child is, but only in unsafe calls"
)]
fn become_nobody() -> io::Result<()> {
    // SAFETY: plain numbers; `capset` reads two structures that outlive it.
    unsafe {
        for capability in 0.. {
            // The kernel knows no more of them.
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                break;
            }
        }
        // The calls themselves: the C library's would tell other threads, of which a child has none.
        check_call(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        check_call(libc::syscall(libc::SYS_setresgid, USER, USER, USER))?;
        check_call(libc::syscall(libc::SYS_setresuid, USER, USER, USER))?;
        let version_3: [u32; 2] = [0x2008_0522, 0];
        let none = [0_u32; 6];
        check_call(libc::syscall(libc::SYS_capset, version_3.as_ptr(), none.as_ptr()))
    }
}

fn check_call(result: c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "no crate loads a filter of system calls")]
fn load(filter: &[sock_filter]) -> io::Result<()> {
    let length = libc::c_ushort::try_from(filter.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, which outlives the call and is `length` long.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    check_call(result)
}

/// A control group for memory and one for the number of processes, where the kernel lets us make them:
/// version 1, one hierarchy each, or version 2, whose root has handed both controllers down.
fn control_groups() -> Vec<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    static SWEPT: Once = Once::new();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{GROUP}{}-{count}", std::process::id());
    let root = Path::new("/sys/fs/cgroup");
    SWEPT.call_once(|| ["", "memory", "pids"].iter().for_each(|below| sweep(&root.join(below))));
    let controllers = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
    let limits = if ["memory", "pids"].iter().all(|it| controllers.contains(it)) {
        vec![(root.join(&name), [("memory.max", MEMORY), ("pids.max", PIDS)].to_vec())]
    } else {
        vec![
            (root.join("memory").join(&name), [("memory.limit_in_bytes", MEMORY)].to_vec()),
            (root.join("pids").join(&name), [("pids.max", PIDS)].to_vec()),
        ]
    };
    let made = limits.into_iter().filter(|(group, limits)| {
        let write = |(file, limit): &(&str, u64)| fs::write(group.join(file), limit.to_string());
        let made = fs::create_dir(group).and_then(|()| limits.iter().try_for_each(write));
        if made.is_err() {
            let _ = fs::remove_dir(group);
        }
        made.is_ok()
    });
    made.map(|(group, _)| group).collect()
}

/// Removes the groups of tests that were killed.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(GROUP)?.split('-').next());
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            // Not empty: somebody is still in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn open_entry(path: &Path) -> Option<File> {
    fs::OpenOptions::new().write(true).open(path).ok()
}
