//! The `h2` crate as the oracle: its client and its server, with the tracker between them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, WriteHalf, duplex, split};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::super::Http2;
use super::super::frame::{HIGHEST_STREAM, Header, Kind, PREFACE};
use super::frames::{ACK, PING};
use crate::Direction::{self, FromClient, FromUpstream};
use crate::Step;

/// More than anything that is under way, so that no writer waits for a reader that waits for it.
const PIPE_BYTES: usize = 8 << 20;

/// What the parts of one connection have in common.
struct Connection {
    tracker: Mutex<Http2>,
    /// The tracker was told something; there may be words to say.
    told: Notify,
    /// Leave for held requests to be answered.
    gate: Semaphore,
    /// The server is to leave of its own accord.
    server_leaves: Notify,
    /// The numbers of the requests that the server has seen.
    served: Mutex<BTreeSet<u32>>,
    /// What went on to the upstream and to the client.
    sent: Mutex<[Vec<u8>; 2]>,
}

impl Connection {
    fn new() -> Arc<Self> {
        Arc::new(Connection {
            tracker: Mutex::new(Http2::new(PING)),
            told: Notify::new(),
            gate: Semaphore::new(0),
            server_leaves: Notify::new(),
            served: Mutex::default(),
            sent: Mutex::default(),
        })
    }

    fn tell(&self, what: fn(&mut Http2)) {
        what(&mut self.tracker.lock().unwrap());
        self.told.notify_one();
    }

    fn open_streams(&self) -> u32 {
        let tracker = self.tracker.lock().unwrap();
        assert_eq!(tracker.surprise(), None);
        tracker.open_streams()
    }

    fn frames(&self, direction: Direction) -> Vec<(Header, Vec<u8>)> {
        let sent = self.sent.lock().unwrap();
        let mut rest = sent[direction as usize].as_slice();
        if direction == FromClient {
            rest = rest.strip_prefix(PREFACE).unwrap();
        }
        let mut frames = Vec::new();
        while let Some(first) = rest.first_chunk() {
            let header = Header::parse(first);
            let (frame, later) = rest.split_at(header.frame_bytes() as usize);
            frames.push((header, frame[9..].to_vec()));
            rest = later;
        }
        frames
    }

    /// The last streams of the GOAWAYs that the client was sent.
    fn last_streams(&self) -> Vec<u32> {
        let goaways = self.frames(FromUpstream).into_iter();
        let goaways = goaways.filter(|(header, _)| header.kind == Kind::GOAWAY);
        goaways.map(|(_, payload)| u32::from_be_bytes(*payload.first_chunk().unwrap())).collect()
    }

    fn server_saw_our_answer(&self) -> bool {
        self.frames(FromClient).iter().any(|(header, payload)| {
            header.kind == Kind::PING && header.has(ACK) && payload.as_slice() == PING
        })
    }
}

/// The relay: reads of random sizes, one connection, a close when the farewell is done.
async fn relay(
    client: DuplexStream,
    upstream: DuplexStream,
    connection: Arc<Connection>,
    seed: u64,
) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut from_client, mut to_client) = split(client);
    let (mut from_upstream, mut to_upstream) = split(upstream);
    let mut pending = [Vec::new(), Vec::new()];
    let (mut client_ended, mut upstream_ended) = (false, false);
    let mut buffers = [vec![0; 4096], vec![0; 4096]];
    while !(client_ended && upstream_ended) {
        let size = if random.bool() { random.usize(1..40) } else { random.usize(1..4096) };
        let [client_buffer, upstream_buffer] = &mut buffers;
        tokio::select! {
            read = from_client.read(&mut client_buffer[..size]), if !client_ended => {
                let count = read.unwrap();
                pending[0].extend_from_slice(&client_buffer[..count]);
                client_ended = count == 0;
                pump(FromClient, &mut pending[0], client_ended, &mut to_upstream, &connection).await;
            }
            read = from_upstream.read(&mut upstream_buffer[..size]), if !upstream_ended => {
                let count = read.unwrap();
                pending[1].extend_from_slice(&upstream_buffer[..count]);
                upstream_ended = count == 0;
                pump(FromUpstream, &mut pending[1], upstream_ended, &mut to_client, &connection).await;
            }
            () = connection.told.notified() => {}
        }
        if pending[1].is_empty() {
            let words = connection.tracker.lock().unwrap().interject(FromUpstream);
            if let Some(words) = words {
                send(FromUpstream, &words, &mut to_client, &connection).await;
            }
        }
        if connection.tracker.lock().unwrap().farewell_done() {
            let _ = to_client.shutdown().await;
            let _ = to_upstream.shutdown().await;
            return;
        }
    }
}

async fn pump(
    direction: Direction,
    pending: &mut Vec<u8>,
    ended: bool,
    to: &mut WriteHalf<DuplexStream>,
    connection: &Connection,
) {
    while !pending.is_empty() {
        let step = connection.tracker.lock().unwrap().step(direction, pending);
        match step {
            Step::Pass(count) => {
                let passed: Vec<u8> = pending.drain(..count).collect();
                send(direction, &passed, to, connection).await;
            }
            Step::Drop(count) => drop(pending.drain(..count)),
            Step::Insert(words) => send(direction, &words, to, connection).await,
            Step::Hold => break,
        }
    }
    if ended {
        connection.tracker.lock().unwrap().end(direction);
        let _ = to.shutdown().await;
    }
}

async fn send(
    direction: Direction,
    bytes: &[u8],
    to: &mut WriteHalf<DuplexStream>,
    connection: &Connection,
) {
    connection.sent.lock().unwrap()[direction as usize].extend_from_slice(bytes);
    let _ = to.write_all(bytes).await; // a side that has gone is no fault of the relay
}

/// How a request goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// The server waits for leave before it answers.
    Held,
    Plain,
    Trailers,
    /// The server answers and ends before it has read the body.
    Early,
    ServerResets,
    ClientResets,
}

const MANNERS: [Manner; 6] = [
    Manner::Held,
    Manner::Plain,
    Manner::Trailers,
    Manner::Early,
    Manner::ServerResets,
    Manner::ClientResets,
];

async fn serve(io: DuplexStream, connection: Arc<Connection>) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(32).initial_window_size(1 << 20);
    builder.initial_connection_window_size(4 << 20);
    let mut server: h2::server::Connection<_, Bytes> = builder.handshake(io).await.unwrap();
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            request = server.accept() => {
                let Some(request) = request else { break };
                let (request, respond) = request.expect("the server finds nothing wrong");
                answers.spawn(answer(request, respond, Arc::clone(&connection)));
            }
            () = connection.server_leaves.notified() => server.graceful_shutdown(),
        }
    }
    while answers.join_next().await.is_some() {}
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    connection: Arc<Connection>,
) {
    let number = |name: &str| request.headers()[name].to_str().unwrap().parse::<usize>().unwrap();
    connection.served.lock().unwrap().insert(number("number") as u32);
    let (manner, size) = (MANNERS[number("manner")], number("size"));
    let mut body = request.into_body();
    match manner {
        Manner::Held => connection.gate.acquire().await.unwrap().forget(),
        Manner::ServerResets => return respond.send_reset(h2::Reason::INTERNAL_ERROR),
        _ => {}
    }
    if manner != Manner::Early {
        while let Some(Ok(part)) = body.data().await {
            let _ = body.flow_control().release_capacity(part.len());
        }
        let _ = body.trailers().await;
    }
    let Ok(mut stream) = respond.send_response(Response::new(()), size == 0) else { return };
    for part in vec![b'x'; size].chunks(3000) {
        let _ = stream.send_data(Bytes::copy_from_slice(part), false);
        tokio::task::yield_now().await;
    }
    if size > 0 && manner == Manner::Trailers {
        let _ = stream.send_trailers(headers("after", "all"));
    } else if size > 0 {
        let _ = stream.send_data(Bytes::new(), true);
    }
}

fn headers(name: &'static str, value: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value.parse().unwrap());
    headers
}

/// What became of a request.
#[derive(Debug)]
enum Outcome {
    Answered,
    /// As it was meant to be.
    Reset,
    /// The connection is leaving, and the request may be made again elsewhere.
    Unprocessed,
}

async fn request(
    sender: h2::client::SendRequest<Bytes>,
    number: u32,
    manner: Manner,
    seed: u64,
) -> (u32, Outcome) {
    let mut random = fastrand::Rng::with_seed(seed);
    let size = if random.bool() { random.usize(0..20_000) } else { 0 };
    let place = MANNERS.iter().position(|other| *other == manner).unwrap();
    let request = Request::post("http://example.com/")
        .header("number", number.to_string())
        .header("manner", place.to_string())
        .header("size", size.to_string())
        .header(format!("x-{}", random.u8(..)), "grows the dynamic table")
        .body(())
        .unwrap();
    let Ok(mut sender) = sender.ready().await else { return (number, Outcome::Unprocessed) };
    let has_body = random.bool() || manner == Manner::ClientResets;
    let Ok((response, mut stream)) = sender.send_request(request, !has_body) else {
        return (number, Outcome::Unprocessed);
    };
    drop(sender);
    if has_body {
        for _ in 0..random.usize(0..4) {
            let _ = stream.send_data(Bytes::from(vec![b'y'; random.usize(0..9000)]), false);
            tokio::task::yield_now().await;
        }
        match manner {
            Manner::ClientResets => stream.send_reset(h2::Reason::CANCEL),
            Manner::Trailers => drop(stream.send_trailers(headers("before", "you ask"))),
            _ => drop(stream.send_data(Bytes::new(), true)),
        }
    }
    let outcome = match read_answer(response, size).await {
        Ok(()) => Outcome::Answered,
        Err(error) if error.is_go_away() => Outcome::Unprocessed,
        Err(error) if error.is_reset() || manner == Manner::ClientResets => {
            assert!(
                matches!(manner, Manner::ServerResets | Manner::ClientResets)
                    || error.reason() == Some(h2::Reason::NO_ERROR),
                "{manner:?}: {error}"
            );
            Outcome::Reset
        }
        Err(error) => panic!("request {number}, {manner:?}: {error}"),
    };
    (number, outcome)
}

async fn read_answer(response: h2::client::ResponseFuture, size: usize) -> Result<(), h2::Error> {
    let mut body = response.await?.into_body();
    let mut read = 0;
    while let Some(part) = body.data().await {
        let part = part?;
        read += part.len();
        body.flow_control().release_capacity(part.len())?;
    }
    body.trailers().await?;
    assert_eq!(read, size, "the whole body");
    Ok(())
}

/// A client, a relay and a server; the client's handle and its connection's end.
async fn connect(
    connection: &Arc<Connection>,
    seed: u64,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let (client, near) = duplex(PIPE_BYTES);
    let (far, server) = duplex(PIPE_BYTES);
    tokio::spawn(relay(near, far, Arc::clone(connection), seed));
    tokio::spawn(serve(server, Arc::clone(connection)));
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(4 << 20);
    builder.max_concurrent_reset_streams(0); // a stream that it has reset is not active
    let (sender, client) = builder.handshake(client).await.unwrap();
    (sender, tokio::spawn(client))
}

/// With a paused clock, time goes on only when nobody has anything left to do.
async fn quiet() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn streams_are_counted_as_h2_counts_them() {
    for seed in 0..24 {
        let connection = Connection::new();
        let mut random = fastrand::Rng::with_seed(seed);
        let (sender, client) = connect(&connection, seed).await;
        let mut requests = JoinSet::new();
        let mut held = 0;
        for number in 0..60 {
            let manner = random.choice(MANNERS).unwrap();
            held += u32::from(manner == Manner::Held);
            requests.spawn(request(sender.clone(), number, manner, random.u64(..)));
            if random.u8(..4) == 0 {
                // All that is not held has come to its end.
                quiet().await;
                assert_eq!(connection.open_streams(), held, "seed {seed}");
                assert_eq!(sender.num_active_streams() as u32, held, "seed {seed}");
            }
            if held > 0 && (held > 8 || random.u8(..3) == 0) {
                connection.gate.add_permits(1);
                held -= 1;
            }
        }
        connection.gate.add_permits(60);
        let outcomes = requests.join_all().await;
        assert!(outcomes.iter().all(|(_, outcome)| !matches!(outcome, Outcome::Unprocessed)));
        quiet().await;
        assert_eq!(connection.open_streams(), 0);
        assert!(!connection.tracker.lock().unwrap().farewell_done());
        drop(sender);
        client.await.unwrap().unwrap();
        assert_eq!(connection.last_streams().iter().max().copied().unwrap_or_default(), 0);
    }
}

fn is_refusal(header: &Header, payload: &[u8]) -> bool {
    header.kind == Kind::RST_STREAM && payload == 7_u32.to_be_bytes()
}

/// Eighty requests, some of them after the acts at `drain_at` and `server_leaves_at`; the connection
/// is over, and what each side believes of it agrees.
async fn play_to_the_end(
    connection: &Arc<Connection>,
    seed: u64,
    drain_at: u32,
    server_leaves_at: u32,
) -> u32 {
    let mut random = fastrand::Rng::with_seed(seed);
    let (sender, client) = connect(connection, seed).await;
    quiet().await;
    let mut requests = JoinSet::new();
    for number in 0..80 {
        if number == drain_at {
            connection.tell(Http2::begin_drain);
        }
        if number == server_leaves_at {
            connection.server_leaves.notify_one();
        }
        let manner = random.choice(MANNERS).unwrap();
        requests.spawn(request(sender.clone(), number, manner, random.u64(..)));
        for _ in 0..random.u8(..6) {
            tokio::task::yield_now().await;
        }
    }
    quiet().await;
    connection.gate.add_permits(80);
    drop(sender);
    let outcomes = requests.join_all().await;
    let ended = client.await.unwrap();
    assert!(ended.is_ok(), "seed {seed}: {ended:?}");
    assert_eq!(connection.open_streams(), 0);
    let mut unprocessed = 0;
    let served = connection.served.lock().unwrap();
    for (number, outcome) in outcomes {
        match outcome {
            Outcome::Answered => assert!(served.contains(&number)),
            Outcome::Reset => {}
            // What the client was told was not done has not been done.
            Outcome::Unprocessed => {
                unprocessed += 1;
                assert!(!served.contains(&number), "seed {seed}, request {number}");
            }
        }
    }
    unprocessed
}

#[tokio::test(start_paused = true)]
async fn a_drain_in_the_middle_loses_no_stream() {
    let (mut unprocessed, mut refused) = (0, 0);
    for seed in 0..48 {
        let connection = Connection::new();
        let drain_at = fastrand::Rng::with_seed(!seed).u32(0..80);
        unprocessed += play_to_the_end(&connection, seed, drain_at, u32::MAX).await;
        let last_streams = connection.last_streams();
        assert_eq!(last_streams.len(), 2, "seed {seed}: {last_streams:?}");
        assert_eq!(last_streams[0], HIGHEST_STREAM);
        let opened = connection.frames(FromClient).into_iter();
        let opened = opened.filter(|(header, _)| header.kind == Kind::HEADERS);
        let highest = opened.map(|(header, _)| header.stream).max().unwrap_or_default();
        assert_eq!(last_streams[1], highest, "seed {seed}");
        assert!(!connection.server_saw_our_answer());
        let words = connection.frames(FromUpstream).into_iter();
        refused += words.filter(|(header, payload)| is_refusal(header, payload)).count();
    }
    assert!(unprocessed > 0, "some requests came after the drain");
    assert!(refused > 0, "h2 had requests queued, which it sends after the PING's answer");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_too_is_not_contradicted() {
    for seed in 0..48 {
        let connection = Connection::new();
        let mut random = fastrand::Rng::with_seed(!seed);
        let (drain_at, server_leaves_at) = (random.u32(0..80), random.u32(0..80));
        play_to_the_end(&connection, seed, drain_at, server_leaves_at).await;
        let last_streams = connection.last_streams();
        assert!(
            last_streams.is_sorted_by(|one, next| one >= next),
            "seed {seed}: {last_streams:?}"
        );
        assert!(!connection.server_saw_our_answer());
    }
}
