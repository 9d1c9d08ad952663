//! The fuzz targets' bodies, over a small corpus and what random changes make of it.

#[path = "../fuzz/bodies.rs"]
mod bodies;

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
