//! Turning a connection away that the kernel has already accepted.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::policy::{RejectMode, Speaks};
use crate::net::{Accepted, Socket};
use crate::protocol::detect::Detector;
use crate::protocol::http1;
use crate::reactor;

/// How long a client that was sent away may take to see it before its socket is closed.
const LINGER_PERIOD: Duration = Duration::from_secs(2);
/// Sockets that linger at once; beyond that they are closed at once, whatever the client has sent.
const MAX_LINGERING: usize = 1024;
/// What a client may still send while it is not listening.
const LINGER_BYTES: usize = 64 * 1024;

static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// What a client that was sent away is told to wait before it comes again, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Sends a client away as the mode says.
pub(super) fn turn_away(accepted: Accepted, mode: RejectMode, speaks: Speaks) {
    // A socket that can't be watched is closed, which sends it away too.
    let Ok(client) = Socket::new(accepted.fd) else { return };
    if mode == RejectMode::Http503 && LINGERING.fetch_add(1, Ordering::Relaxed) < MAX_LINGERING {
        let farewell = async move {
            // Whatever fails, the client is gone, which is what we want.
            let _ = timeout(LINGER_PERIOD, answer(&client, speaks)).await;
            let _ = client.shutdown_write();
            let _ = timeout(LINGER_PERIOD, read_to_end(&client)).await;
            LINGERING.fetch_sub(1, Ordering::Relaxed);
        };
        // Whoever accepts is on a worker.
        let _ = reactor::spawn(farewell);
        return;
    }
    if mode == RejectMode::Http503 {
        LINGERING.fetch_sub(1, Ordering::Relaxed);
        let _ = client.shutdown_write();
    } else {
        client.reset_on_close();
    }
}

/// Answers the first request of a client that speaks HTTP/1 with 503.
async fn answer(client: &Socket, speaks: Speaks) -> std::io::Result<()> {
    if !asks(client, speaks).await? {
        return Ok(());
    }
    let answer = http1::service_unavailable(RETRY_AFTER_SECONDS);
    let mut sent = 0;
    while let Some(rest) = answer.get(sent..).filter(|rest| !rest.is_empty()) {
        sent += std::future::poll_fn(|cx| client.poll_write(cx, rest)).await?;
    }
    Ok(())
}

/// Whether a client asks for something in HTTP/1, as far as its first word tells.
async fn asks(client: &Socket, speaks: Speaks) -> std::io::Result<bool> {
    let mut buffer = [0; 1024];
    let mut detector = Detector::default();
    if !matches!(speaks, Speaks::Auto | Speaks::Http1) {
        return Ok(false);
    }
    loop {
        let read = std::future::poll_fn(|cx| client.poll_read(cx, &mut buffer)).await?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(false);
        }
        if let Some(asks) = detector.asks_http1(bytes) {
            return Ok(asks);
        }
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
