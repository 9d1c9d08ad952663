//! A path with delay between clients and servers: two network namespaces of the test's own, joined by a
//! thread that carries every packet over after a while.
//!
//! On undelayed loopback a handshake takes microseconds, and what a drain does to handshakes under way
//! can't be seen. A thread between two TUN devices needs no queueing discipline, which not every kernel has.
//! It can hold handshakes half open too: what such a client sends behind its SYN waits until it is let go.

use std::collections::{HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::PATIENCE;
use super::namespace::Namespace;

/// The servers' addresses.
pub const SERVER_V4: &str = "10.77.1.1";
pub const SERVER_V6: &str = "fd77:1::1";

/// The clients' addresses are that many in each family: no source runs out of ports.
const SOURCES: u16 = 32;

/// How long the thread sleeps at most, and so until it sees that it is told something.
const LOOK: Duration = Duration::from_millis(5);

/// The two namespaces and what joins them, until it is dropped. Needs root.
pub struct DelayedPath {
    servers: Namespace,
    clients: Namespace,
    told: Arc<Told>,
    carrier: Option<JoinHandle<()>>,
}

/// What the thread is told, and tells.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    hold: AtomicBool,
    /// Handshakes whose last packet is held back.
    half_open: AtomicUsize,
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Servers,
    Clients,
}

impl DelayedPath {
    /// A path on which every packet takes `delay` each way. `setup` is run by a shell in the servers' namespace.
    pub fn new(delay: Duration, setup: &str) -> Self {
        let servers = Namespace::new(setup);
        let clients = Namespace::new("");
        let server_side = servers.enter(|| {
            device(&[SERVER_V4.to_owned()], &[SERVER_V6.to_owned()], "10.77.2.0/24", "fd77:2::/64")
        });
        let [v4, v6] = [sources_v4(), sources_v6()]
            .map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        let client_side = clients.enter(|| device(&v4, &v6, "10.77.1.0/24", "fd77:1::/64"));
        let told = Arc::new(Told::default());
        let carrier = Carrier {
            delay,
            told: Arc::clone(&told),
            server_side,
            client_side,
            under_way: VecDeque::new(),
            held: Vec::new(),
            half_open: HashSet::new(),
        };
        let carrier = std::thread::spawn(move || carrier.run());
        DelayedPath { servers, clients, told, carrier: Some(carrier) }
    }

    /// Runs something on a thread among the servers; what it starts is there too.
    pub fn at_servers<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.servers.enter(act)
    }

    /// Runs something on a thread among the clients; sockets that it makes are there.
    pub fn at_clients<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.clients.enter(act)
    }

    /// From now on the handshake of each new client stays half open: the server's SYN and ACK arrives, so
    /// that the client is connected, and all that the client says after it is held back.
    pub fn hold_handshakes(&self) {
        self.told.hold.store(true, Ordering::SeqCst);
    }

    /// Waits until so many handshakes are half open.
    pub fn until_half_open(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.told.half_open.load(Ordering::SeqCst) < count {
            assert!(Instant::now() < deadline, "fewer than {count} handshakes are half open");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets go what was held back, in its order.
    pub fn release_handshakes(&self) {
        self.told.hold.store(false, Ordering::SeqCst);
    }
}

impl Drop for DelayedPath {
    fn drop(&mut self) {
        self.told.stop.store(true, Ordering::SeqCst);
        let ended = self.carrier.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("a thread").expect("the packets' thread ends well");
        }
    }
}

/// The addresses that clients may bind.
pub fn sources_v4() -> Vec<IpAddr> {
    (1..=SOURCES).map(|last| IpAddr::from([10, 77, 2, last as u8])).collect()
}

/// The same of IPv6.
pub fn sources_v6() -> Vec<IpAddr> {
    (1..=SOURCES).map(|last| IpAddr::from([0xfd77, 2, 0, 0, 0, 0, 0, last])).collect()
}

/// The carrier's thread.
struct Carrier {
    delay: Duration,
    told: Arc<Told>,
    server_side: File,
    client_side: File,
    /// The delay is one for all, so what entered first leaves first.
    under_way: VecDeque<(Instant, To, Vec<u8>)>,
    held: Vec<Vec<u8>>,
    half_open: HashSet<Flow>,
}

impl Carrier {
    fn run(mut self) {
        while !self.told.stop.load(Ordering::SeqCst) {
            self.wait();
            if !self.told.hold.load(Ordering::SeqCst) {
                self.let_go();
            }
            self.take(To::Clients);
            self.take(To::Servers);
            self.deliver();
        }
    }

    /// Sleeps until there is something to read, or to deliver.
    fn wait(&self) {
        let next = self.under_way.front();
        let wait = next.map_or(LOOK, |(due, ..)| due.saturating_duration_since(Instant::now()));
        let wait = Timespec::try_from(wait.min(LOOK)).expect("a short time");
        let mut files = [
            PollFd::new(&self.server_side, PollFlags::IN),
            PollFd::new(&self.client_side, PollFlags::IN),
        ];
        // Interrupted, at worst: then it looks again.
        let _ = poll(&mut files, Some(&wait));
    }

    /// Takes what has come for one side.
    fn take(&mut self, to: To) {
        let mut buffer = [0; 2048];
        loop {
            let from = if to == To::Servers { &self.client_side } else { &self.server_side };
            let mut from: &File = from;
            let Ok(length @ 1..) = from.read(&mut buffer) else { return };
            let packet = buffer[..length].to_vec();
            if to == To::Servers && self.is_held(&packet) {
                self.held.push(packet);
                continue;
            }
            self.under_way.push_back((Instant::now() + self.delay, to, packet));
        }
    }

    /// Whether a client's packet stays here: all of a handshake that began since, but its SYN.
    fn is_held(&mut self, packet: &[u8]) -> bool {
        const SYN: u8 = 2;
        let Some((flow, flags)) = Flow::of(packet) else { return false };
        if flags & SYN != 0 {
            if self.told.hold.load(Ordering::SeqCst) {
                self.half_open.insert(flow);
            }
            return false;
        }
        let held = self.half_open.contains(&flow);
        if held && !self.held.iter().any(|other| Flow::of(other).is_some_and(|it| it.0 == flow)) {
            self.told.half_open.fetch_add(1, Ordering::SeqCst);
        }
        held
    }

    fn let_go(&mut self) {
        self.half_open.clear();
        self.told.half_open.store(0, Ordering::SeqCst);
        let due = Instant::now() + self.delay;
        self.under_way.extend(self.held.drain(..).map(|packet| (due, To::Servers, packet)));
    }

    fn deliver(&mut self) {
        while self.under_way.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
            let Some((_, to, packet)) = self.under_way.pop_front() else { return };
            let mut side: &File =
                if to == To::Servers { &self.server_side } else { &self.client_side };
            // A packet that the kernel does not take is lost, as packets are.
            let _ = side.write(&packet);
        }
    }
}

/// The two ends of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    from: SocketAddr,
    to: SocketAddr,
}

impl Flow {
    /// A packet's connection, and its flags; none if it is not TCP's.
    fn of(packet: &[u8]) -> Option<(Self, u8)> {
        const TCP: u8 = 6;
        let address = |at: usize, length: usize| -> Option<IpAddr> {
            let bytes = packet.get(at..at + length)?;
            let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
            let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok();
            if length == 4 { v4() } else { v6() }
        };
        let (protocol, header, from, to) = match packet.first()? >> 4 {
            4 => (
                *packet.get(9)?,
                usize::from(packet[0] & 0x0f) * 4,
                address(12, 4)?,
                address(16, 4)?,
            ),
            6 => (*packet.get(6)?, 40, address(8, 16)?, address(24, 16)?),
            _ => return None,
        };
        let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        let (from, to) = ((from, port(header)?).into(), (to, port(header + 2)?).into());
        (protocol == TCP).then_some((Flow { from, to }, *packet.get(header + 13)?))
    }
}

/// A TUN device in this thread's namespace, with these addresses and a way to the others.
fn device(v4: &[String], v6: &[String], others_v4: &str, others_v6: &str) -> File {
    let device = open_device();
    let mut script = vec![
        "ip link set path mtu 1500 txqueuelen 10000 up".to_owned(),
        format!("ip route add {others_v4} dev path"),
        format!("ip -6 route add {others_v6} dev path"),
    ];
    script.extend(v4.iter().map(|address| format!("ip addr add {address}/32 dev path")));
    script.extend(v6.iter().map(|address| format!("ip -6 addr add {address}/128 dev path nodad")));
    super::namespace::shell(&script.join("\n"));
    device
}

#[expect(
    unsafe_code,
    reason = "a TUN device is made by an ioctl of which no crate has a safe wrapper"
)]
fn open_device() -> File {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("/dev/net/tun");
    // SAFETY: all zeros are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"path".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is a TUN device's, and the kernel reads and writes one `ifreq`.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "a TUN device: {}", std::io::Error::last_os_error());
    device
}
