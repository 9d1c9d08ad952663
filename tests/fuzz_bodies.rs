//! The fuzz targets' bodies, over the corpus that `cargo fuzz` has left, and over random changes of a
//! small one. The body of `http2` is run by the unit tests.

#[path = "../fuzz/bodies.rs"]
mod bodies;
#[path = "../fuzz/relay/mod.rs"]
mod relay;

/// Acts as the bodies read them: even bytes read from the client, odd ones from the upstream.
fn act(what: u8, bytes: &str) -> Vec<u8> {
    let bytes = bytes.as_bytes();
    let length = u8::try_from(bytes.len()).expect("a short text");
    [&[what, length], bytes].concat()
}

const DRAIN: [u8; 2] = [7, 0];
const LEAVE: [u8; 2] = [255, 0];

fn corpus() -> Vec<Vec<u8>> {
    let get = act(0, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let half_get = act(0, "GET / HTTP/1.1\r\nHo");
    let ok = act(1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let chunked =
        act(1, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\nok\r\n0\r\n\r\n");
    let upgrade = act(0, "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let switched =
        act(1, "HTTP/1.1 101 A\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\u{1}\u{2}ab");
    let frames = act(0, "\u{1}\u{2}ab\u{9}\u{0}");
    vec![
        [&get[..], &ok, &half_get, &DRAIN, &ok].concat(),
        [&get[..], &get, &DRAIN, &ok, &chunked, &get].concat(),
        [&upgrade[..], &switched, &frames, &LEAVE, &frames].concat(),
        [&frames[..], &LEAVE, &frames].concat(),
    ]
}

/// Runs everything that is kept for a target.
fn replay(target: &str, body: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let inputs = std::fs::read_dir(&folder).expect("a corpus");
    let mut count = 0;
    for input in inputs {
        let path = input.expect("a file").path();
        // Captured unless the test fails, and then the last one is the finding.
        println!("{}", path.display());
        body(&std::fs::read(path).expect("its bytes"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn the_corpus_of_http1_finds_nothing() {
    replay("http1", bodies::http1);
}

#[test]
fn the_corpus_of_websocket_finds_nothing() {
    replay("websocket", bodies::websocket);
}

#[test]
fn the_corpus_of_the_relay_finds_nothing() {
    replay("relay", relay::run);
}

/// The client's bytes made the connection opaque while half a response's head was held for the
/// farewell: it stayed until the application said more, and was lost when the client was to leave.
#[test]
fn what_was_held_for_an_edit_is_passed_on_when_the_connection_becomes_opaque() {
    relay::run(&[3, 1, 2, 0, 12, 0, 5, 2, 4, 13, 14, 0]);
}

/// An idle client that was asked to leave got a FIN, but its next request went to the application,
/// whose answer was thrown away.
#[test]
fn a_request_that_crosses_the_fin_to_an_idle_client_does_not_reach_the_application() {
    relay::run(&[7, 1, 14, 0, 2, 200, 3, 8, 3, 1]);
    relay::run(&[5, 1, 2, 0, 3, 0, 14, 0, 2, 0, 3, 0]);
}

/// The client's bytes that a drain had kept back left a gap, behind which later ones were forwarded
/// when the connection had become opaque.
#[test]
fn nothing_is_forwarded_behind_a_gap() {
    relay::run(&[
        3, 2, 2, 33, 2, 3, 12, 3, 128, 2, 12, 0, 3, 74, 69, 69, 0, 143, 178, 178, 178, 178, 178,
        178, 178, 178, 3, 1, 3, 2, 3, 0,
    ]);
}

/// Conversations of two peers through the relay, drained somewhere in the middle.
#[test]
fn random_connections_find_nothing() {
    const CONNECTIONS: usize = 2_000;
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..CONNECTIONS {
        let mut input = vec![random.u8(..), random.u8(..)];
        for _ in 0..random.usize(0..30) {
            let what = match random.u8(0..10) {
                0..3 => 2,
                3..6 => 3,
                // Words out of place, and peers that vanish, end most of what is promised.
                6..9 => random.u8(6..19),
                _ => random.u8(..32),
            };
            let how = match random.u8(0..4) {
                0 => 255,
                1 => random.u8(..16),
                _ => random.u8(..),
            };
            input.extend([what | if random.bool() { 0x80 } else { 0 }, how]);
        }
        println!("{}", input.escape_ascii());
        relay::run(&input);
    }
}

#[test]
fn the_corpus_and_its_changes_find_nothing() {
    // A fixed sequence, so that a finding is found again.
    let mut random = fastrand::Rng::with_seed(3);
    for seed in corpus() {
        for _ in 0..5_000 {
            let mut input = seed.clone();
            for _ in 0..random.usize(0..6) {
                let at = random.usize(0..input.len());
                match random.u8(0..3) {
                    0 => input[at] = random.u8(..),
                    1 => drop(input.remove(at)),
                    _ => input.insert(at, *b"\r\n :,;0\x07".get(random.usize(0..8)).unwrap_or(&0)),
                }
            }
            bodies::http1(&input);
            bodies::websocket(&input);
        }
    }
}
