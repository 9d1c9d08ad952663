//! Whether the application listens, looked up where the kernel tells, so that nobody is connected to.
//!
//! A connection would use up a server that serves one client, and a debugger or a log would see a stranger.
//!
//! # Source
//! proc_net(5): /proc/net/tcp, tcp6 and unix list the sockets of this network namespace; Linux lists those that
//! listen first.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use crate::net::Upstream;

/// Between looks at the application's port.
const PORT_INTERVAL: Duration = Duration::from_millis(50);
/// How often somebody who waits is told what for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The state of a socket that listens, as /proc/net/tcp spells it.
const LISTEN: &str = "0A";

/// Resolves when the application takes connections.
pub(super) async fn until_open(upstream: &Upstream) {
    let mut patience = Instant::now() + PATIENCE;
    while !timeout(PATIENCE, is_open(upstream)).await.unwrap_or(false) {
        if Instant::now() >= patience {
            info!(%upstream, "waiting for the application to listen");
            patience += PATIENCE;
        }
        sleep(PORT_INTERVAL).await;
    }
}

async fn is_open(upstream: &Upstream) -> bool {
    match upstream {
        Upstream::Address(addr) => is_address_open(*addr).await,
        Upstream::Name(name, port) => {
            let Ok(addrs) = lookup_host((name.as_str(), *port)).await else { return false };
            for addr in addrs {
                if is_address_open(addr).await {
                    return true;
                }
            }
            false
        }
        Upstream::Unix(path) => match listens_at_path(path) {
            Some(listens) => listens,
            None => UnixStream::connect(path).await.is_ok(),
        },
    }
}

/// By the kernel's list for an address of this host, and by a connection for another's.
async fn is_address_open(addr: SocketAddr) -> bool {
    let listed = if is_own(addr.ip()) { listens_at(addr).ok() } else { None };
    match listed {
        Some(listens) => listens,
        None => is_another(TcpStream::connect(addr).await),
    }
}

/// Whether a connection has somebody at its other end: where nobody listens, and the kernel chose the
/// very port as ours, a connection may have met itself.
fn is_another(connected: io::Result<TcpStream>) -> bool {
    connected.is_ok_and(|stream| {
        matches!((stream.local_addr(), stream.peer_addr()), (Ok(ours), Ok(theirs)) if ours != theirs)
    })
}

/// Whether an address belongs to this network namespace: only then may a socket be bound to it.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether somebody listens where a connection to this address goes.
fn listens_at(addr: SocketAddr) -> io::Result<bool> {
    let ip = addr.ip().to_canonical();
    let mut listens = false;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let file = match File::open(table) {
            // No IPv6 in this kernel.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {
                continue;
            }
            opened => opened?,
        };
        for line in BufReader::new(file).lines().skip(1) {
            let Some((listener, state)) = socket(&line?) else { continue };
            if state != State::Listens {
                break;
            }
            let own = listener.ip().to_canonical();
            // One on `::` takes IPv4 too, unless told otherwise, which is not listed.
            let takes = own == ip
                || ip.is_unspecified() && own.is_loopback()
                || own.is_unspecified() && (own.is_ipv6() || ip.is_ipv4());
            listens |= takes && listener.port() == addr.port();
        }
    }
    Ok(listens)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Listens,
    Other,
}

/// A line of /proc/net/tcp: its own address and its state.
fn socket(line: &str) -> Option<(SocketAddr, State)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ip, port) = fields.next()?.rsplit_once(':')?;
    let state = if fields.nth(1)? == LISTEN { State::Listens } else { State::Other };
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(ip)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(ip.get(index * 8..index * 8 + 8)?)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?), state))
}

/// Whether somebody listens on a Unix socket's path; `None` where only a connection tells: the socket is
/// another network namespace's, or was bound by another name.
fn listens_at_path(path: &Path) -> Option<bool> {
    /// `__SO_ACCEPTCON` of linux/net.h, as the list spells a socket's flags.
    const ACCEPTS: &str = "00010000";
    let is_socket = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if !is_socket {
        return Some(false);
    }
    let mut is_listed = false;
    for line in BufReader::new(File::open("/proc/net/unix").ok()?).lines() {
        // A path need not be text; such a line ends nothing.
        let Ok(line) = line else { continue };
        let mut fields = line.splitn(7, ' ');
        let (Some(flags), Some(rest)) = (fields.nth(3), fields.nth(2)) else { continue };
        let listed = rest.trim_start().split_once(' ').map_or("", |(_inode, path)| path);
        if Path::new(listed) == path {
            is_listed = true;
            if flags == ACCEPTS {
                return Some(true);
            }
        }
    }
    is_listed.then_some(false)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_listener_is_seen_and_nobody_is_connected_to_it() {
        for (bound, looked) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("[::]", "127.0.0.1"),
            ("[::1]", "[::1]"),
        ] {
            let listener = TcpListener::bind(format!("{bound}:0")).expect("a listener");
            let port = listener.local_addr().expect("its address").port();
            let addr = format!("{looked}:{port}").parse().expect("an address");
            assert!(listens_at(addr).expect("a list"), "{bound}");
            listener.set_nonblocking(true).expect("set");
            let error = listener.accept().expect_err("nobody");
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            drop(listener);
            assert!(!listens_at(addr).expect("a list"), "{bound}");
        }
    }

    #[test]
    fn a_bound_socket_that_does_not_listen_is_not_taken_for_one() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("bound");
        let addr = socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("its address");
        assert!(!listens_at(addr).expect("a list"));
        socket.listen(1).expect("listens");
        assert!(listens_at(addr).expect("a list"));
    }

    #[test]
    fn a_path_is_looked_up_too() {
        let path = std::env::temp_dir().join(format!("ebbtide port {}.sock", std::process::id()));
        assert_eq!(listens_at_path(&path), Some(false));
        let listener = UnixListener::bind(&path).expect("a listener");
        assert_eq!(listens_at_path(&path), Some(true));
        listener.set_nonblocking(true).expect("set");
        assert!(listener.accept().is_err(), "nobody has connected");
        drop(listener);
        // What is left of it is in no list: only a connection tells.
        assert_eq!(listens_at_path(&path), None);
        std::fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn a_host_that_is_not_ours_is_told_apart() {
        assert!(is_own(IpAddr::from([127, 0, 0, 1])));
        assert!(!is_own(IpAddr::from([192, 0, 2, 1])));
    }

    /// RFC 9293 §3.5: a socket that connects to its own address opens to itself.
    #[tokio::test]
    async fn a_connection_to_itself_is_no_application() {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let addr = socket.local_addr().expect("its address");
        let connected = socket.connect(addr).await;
        assert!(connected.is_ok());
        assert!(!is_another(connected));
    }
}
