//! Random messages whose boundaries the generator knows, and random garbage.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{tracker, tracker_with};
use crate::Class;
use crate::Direction::{FromClient, FromUpstream};
use crate::http1::{DrainOptions, Forwarding, HEAD_LIMIT_BYTES, Options};
use crate::testing::Relay;

/// One message and where its first head ends.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) head_bytes: usize,
    pub(super) body_bytes: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) request: Message,
    pub(super) response: Message,
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Length(Vec<u8>),
    Chunked(Vec<(Vec<u8>, &'static str)>, &'static str),
}

fn body() -> impl Strategy<Value = Body> {
    let extension = prop::sample::select(vec!["", ";a", ";a=\"b;c\"", " ;d=e"]);
    let trailer = prop::sample::select(vec!["", "A: b\r\n", "A: b\r\nC:\r\n"]);
    prop_oneof![
        Just(Body::None),
        vec(any::<u8>(), 0..200).prop_map(Body::Length),
        (vec((vec(any::<u8>(), 1..40), extension), 0..5), trailer)
            .prop_map(|(chunks, trailer)| Body::Chunked(chunks, trailer)),
    ]
}

fn fields() -> impl Strategy<Value = String> {
    let field = "[X-Z][a-z!#$%&'*+.^_`|~0-9-]{0,8}:[ \t]{0,2}[!-~\u{e0}-\u{ff}]{0,12}[ ]{0,2}\r\n";
    vec(field, 0..5).prop_map(|lines| lines.concat())
}

fn message(start: &str, fields: &str, body: &Body) -> Message {
    let framing = match body {
        Body::None => String::new(),
        Body::Length(bytes) => format!("content-length: {}\r\n", bytes.len()),
        Body::Chunked(..) => "Transfer-Encoding: chunked\r\n".to_owned(),
    };
    let mut bytes = format!("{start}\r\n{fields}{framing}\r\n").into_bytes();
    let head_bytes = bytes.len();
    let mut body_bytes = 0;
    match body {
        Body::None => {}
        Body::Length(body) => {
            body_bytes = body.len();
            bytes.extend(body);
        }
        Body::Chunked(chunks, trailer) => {
            for (chunk, extension) in chunks {
                body_bytes += chunk.len();
                bytes.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(format!("0\r\n{trailer}\r\n").bytes());
        }
    }
    Message { bytes, head_bytes, body_bytes }
}

fn request() -> impl Strategy<Value = (bool, Message)> {
    let method = prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "DELETE", "REPORT"]);
    let start = (method, "/[a-z?=&%0-9]{0,20}");
    (start, fields(), body()).prop_map(|((method, target), fields, body)| {
        let start = format!("{method} {target} HTTP/1.1\r\nHost: a.example");
        (method == "HEAD", message(&start, &fields, &body))
    })
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let status = prop::sample::select(vec![200, 201, 204, 304, 404, 500]);
    let interim = prop::sample::select(vec!["", "HTTP/1.1 103 \r\nLink: a\r\n\r\n"]);
    let response = (status, interim, fields(), body());
    (request(), response).prop_map(|((is_head, request), (status, interim, fields, body))| {
        // A response without any framing would go on until close.
        let body = if matches!(body, Body::None) { Body::Length(Vec::new()) } else { body };
        let mut response = message(&format!("HTTP/1.1 {status} Fine"), &fields, &body);
        if is_head || matches!(status, 204 | 304) {
            response.bytes.truncate(response.head_bytes);
        }
        response.bytes.splice(0..0, interim.bytes());
        Exchange { request, response }
    })
}

pub(super) fn exchanges() -> impl Strategy<Value = Vec<Exchange>> {
    vec(exchange(), 1..8)
}

/// Cuts a text at these places, each a part of 2^16.
pub(super) fn pieces(bytes: &[u8], cuts: &[u16]) -> Vec<Vec<u8>> {
    let at = |cut: &u16| (usize::from(*cut) * bytes.len()) >> 16;
    let mut cuts: Vec<usize> = cuts.iter().map(at).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let pairs = cuts.windows(2);
    pairs.map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

/// Where, as single bytes pass, a count of events grows; and what the tracker passes.
fn offsets(
    count: impl Fn(&Relay<super::Tracker>) -> u32,
    relay: &mut Relay<super::Tracker>,
    from_upstream: bool,
    bytes: &[u8],
) -> Vec<usize> {
    let direction = if from_upstream { FromUpstream } else { FromClient };
    let mut offsets = Vec::new();
    for (offset, byte) in bytes.iter().enumerate() {
        let before = count(relay);
        relay.read(direction, &[*byte]);
        offsets.extend((before < count(relay)).then_some(offset + 1));
    }
    offsets
}

fn chatter() -> impl Strategy<Value = Vec<u8>> {
    let phrase = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
        "\r\n",
        "\n",
        "\r",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 101 A\r\n",
        "HTTP/1.1 100 A\r\n\r\n",
        "HTTP/1.0 200 A\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "5;a\r\nhello\r\n",
        "0\r\n\r\n",
        "Connection: close\r\n",
        "Connection: Upgrade\r\n",
        "Upgrade: websocket\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "Connection: keep-alive, a\r\n",
        "Expect: 100-continue\r\n",
        "\u{1}\u{2}hi",
        "HEAD / HTTP/1.0\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ]);
    let noise = vec(any::<u8>(), 0..20);
    let part = prop_oneof![8 => phrase.prop_map(|text| text.as_bytes().to_vec()), 1 => noise];
    vec(part, 0..20).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn boundaries_are_where_the_generator_put_them(exchanges in exchanges()) {
        let mut relay = Relay::new(tracker(), false);
        let (mut heads, mut ends) = (Vec::new(), Vec::new());
        let (mut requests, mut responses) = (Vec::new(), Vec::new());
        for exchange in &exchanges {
            heads.push(requests.len() + exchange.request.head_bytes);
            requests.extend(&exchange.request.bytes);
            responses.extend(&exchange.response.bytes);
            ends.push(responses.len());
        }
        let begun = offsets(|relay| relay.events().requests_begun, &mut relay, false, &requests);
        prop_assert_eq!(begun, heads);
        let ended = |relay: &Relay<_>| relay.events().responses_ended.iter().sum();
        let ended = offsets(ended, &mut relay, true, &responses);
        prop_assert_eq!(ended, ends);
        prop_assert_eq!(relay.tracker.class(), Class::Idle);
        prop_assert_eq!(relay.to_client, responses);
        prop_assert_eq!(relay.to_upstream, requests);
    }

    #[test]
    fn a_drain_loses_no_byte_of_a_body(exchanges in exchanges(), cuts in vec(any::<u16>(), 0..8)) {
        let mut relay = Relay::new(tracker(), true);
        let mut expected: Vec<u8> = Vec::new();
        for (number, exchange) in exchanges.iter().enumerate() {
            relay.read(FromClient, &exchange.request.bytes);
            if number + 1 < exchanges.len() {
                expected.extend(&exchange.response.bytes);
            }
        }
        relay.tracker.begin_drain(&DrainOptions::default());
        let responses: Vec<u8> = exchanges.iter().flat_map(|e| e.response.bytes.clone()).collect();
        for piece in pieces(&responses, &cuts) {
            relay.read(FromUpstream, &piece);
        }
        prop_assert!(relay.tracker.farewell_done());
        let last = &exchanges[exchanges.len() - 1].response.bytes;
        let (before, after) = relay.to_client.split_at(expected.len());
        prop_assert_eq!(before, &expected);
        let close = b"Connection: close\r\n";
        let at = after.windows(close.len()).position(|window| window == close);
        let mut without = after.to_vec();
        without.drain(at.unwrap()..at.unwrap() + close.len());
        prop_assert_eq!(&without, last);
    }

    #[test]
    fn garbage_passes_untouched(
        parts in vec((any::<bool>(), chatter(), vec(any::<u16>(), 0..4)), 0..12),
    ) {
        let mut relay = Relay::new(tracker(), false);
        let (mut from_client, mut from_upstream) = (Vec::new(), Vec::new());
        for (is_client, bytes, cuts) in parts {
            let direction = if is_client { FromClient } else { FromUpstream };
            for piece in pieces(&bytes, &cuts) {
                relay.read(direction, &piece);
            }
            prop_assert!(relay.tracker.kept_bytes() <= 2 * HEAD_LIMIT_BYTES);
            if is_client { from_client.extend(bytes) } else { from_upstream.extend(bytes) }
        }
        prop_assert_eq!(relay.to_upstream, from_client);
        prop_assert_eq!(relay.to_client, from_upstream);
    }

    #[test]
    fn garbage_in_a_drain_harms_nobody(
        parts in vec((0_u8..6, chatter(), vec(any::<u16>(), 0..4)), 0..16),
        forwarding in prop::sample::select(vec![None, Some(Forwarding::Both)]),
    ) {
        let options = Options { forwarding, ..Options::default() };
        let mut relay = Relay::new(tracker_with(options), true);
        for (act, bytes, cuts) in parts {
            match act {
                0 => relay.tracker.begin_drain(&DrainOptions::default()),
                1 => relay.tracker.end_drain(),
                2 if bytes.is_empty() => relay.end(FromUpstream),
                3 if bytes.is_empty() => relay.end(FromClient),
                _ => {
                    let direction = if act % 2 == 0 { FromClient } else { FromUpstream };
                    for piece in pieces(&bytes, &cuts) {
                        relay.read(direction, &piece);
                    }
                }
            }
            prop_assert!(relay.tracker.kept_bytes() <= 2 * HEAD_LIMIT_BYTES);
        }
    }
}
