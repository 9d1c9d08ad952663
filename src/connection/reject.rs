//! Turning a connection away that the kernel has already accepted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::policy::{ListenerProtocol, RejectMode};
use crate::net::{Accepted, Socket};
use crate::protocol::detect::Detector;
use crate::protocol::http1;
use crate::reactor;

/// How long a client may take to ask, and then to see the answer, before its socket is closed.
const LINGER_PERIOD: Duration = Duration::from_secs(2);
/// Clients that may be silent at once. One more, and the one that has been silent for longest is closed:
/// silent clients must not keep an answer from those that ask.
const MAX_SILENT: usize = 256;
/// Clients that have their answer and have not ended yet. Beyond that they are closed at once, whatever
/// they have sent.
const MAX_LINGERING: usize = 256;
/// What a client may still send after its answer.
const LINGER_BYTES: usize = 64 * 1024 * 1024;

static SILENT: Mutex<VecDeque<oneshot::Sender<()>>> = Mutex::new(VecDeque::new());
static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// What a client that was sent away is told to wait before it comes again, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Sends a client away as the mode says.
pub(super) fn turn_away(accepted: Accepted, mode: RejectMode, speaks: ListenerProtocol) {
    // A socket that can't be watched is closed, which sends it away too.
    let Ok(client) = Socket::new(accepted.fd) else { return };
    if mode != RejectMode::Http503 {
        client.reset_on_close();
        return;
    }
    let give_way = wait_in_line();
    let farewell = async move {
        tokio::select! {
            biased;
            // Whatever fails, the client is gone, which is what we want.
            _ = timeout(LINGER_PERIOD, answer(&client, speaks)) => {}
            _ = give_way => {}
        }
        let _ = client.shutdown_write();
        if LINGERING.fetch_add(1, Ordering::Relaxed) < MAX_LINGERING {
            let _ = timeout(LINGER_PERIOD, read_to_end(&client)).await;
        }
        LINGERING.fetch_sub(1, Ordering::Relaxed);
    };
    // Whoever accepts is on a worker.
    let _ = reactor::spawn(farewell);
}

/// A place among the silent clients; what it returns is ready when a later client needs the place.
fn wait_in_line() -> oneshot::Receiver<()> {
    let (sender, give_way) = oneshot::channel();
    let mut silent = SILENT.lock().unwrap_or_else(PoisonError::into_inner);
    if silent.len() >= MAX_SILENT {
        // It may have its answer already; then nobody listens.
        let _ = silent.pop_front().map(|oldest| oldest.send(()));
    }
    silent.push_back(sender);
    give_way
}

/// Answers the first request of a client that speaks HTTP/1 with 503.
async fn answer(client: &Socket, speaks: ListenerProtocol) -> std::io::Result<()> {
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
async fn asks(client: &Socket, speaks: ListenerProtocol) -> std::io::Result<bool> {
    let mut buffer = [0; 1024];
    let mut detector = Detector::default();
    if !matches!(speaks, ListenerProtocol::Auto | ListenerProtocol::Http1) {
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
    let mut buffer = vec![0; 16 * 1024];
    let mut total = 0;
    while total < LINGER_BYTES {
        match std::future::poll_fn(|cx| client.poll_read(cx, &mut buffer)).await {
            Ok(0) | Err(_) => return,
            Ok(read) => total += read,
        }
    }
}
