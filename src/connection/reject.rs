//! Turning a connection away that the kernel has already accepted.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::listener::RejectMode;
use crate::net::{Accepted, Socket};

/// How long a client that was sent away may take to see it before its socket is closed.
const LINGER_PERIOD: Duration = Duration::from_secs(2);
/// Sockets that linger at once; beyond that they are closed at once, whatever the client has sent.
const MAX_LINGERING: usize = 1024;
/// What a client may still send while it is not listening.
const LINGER_BYTES: usize = 64 * 1024;

static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// Sends a client away as the mode says.
pub(super) fn turn_away(accepted: Accepted, mode: RejectMode) {
    // A socket that can't be registered is closed, which sends it away too.
    let Ok(client) = Socket::new(accepted.fd) else { return };
    if mode == RejectMode::Http503 && LINGERING.fetch_add(1, Ordering::Relaxed) < MAX_LINGERING {
        tokio::spawn(async move {
            // The client may be gone already, which is what we want.
            let _ = client.shutdown_write();
            let _ = timeout(LINGER_PERIOD, read_to_end(&client)).await;
            LINGERING.fetch_sub(1, Ordering::Relaxed);
        });
        return;
    }
    if mode == RejectMode::Http503 {
        LINGERING.fetch_sub(1, Ordering::Relaxed);
        let _ = client.shutdown_write();
    } else {
        client.reset_on_close();
    }
}

/// Reads what the client still sends: closing a socket with unread bytes would reset it, and the
/// reset could overtake the FIN.
async fn read_to_end(client: &Socket) {
    let mut buffer = [0; 1024];
    let mut total = 0;
    while total < LINGER_BYTES {
        match std::future::poll_fn(|cx| client.poll_read(cx, &mut buffer)).await {
            Ok(0) | Err(_) => return,
            Ok(read) => total += read,
        }
    }
}
