//! Arbitrary connections, garbage and cuts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::frame::HEADER_BYTES;
use super::super::fuzz::{self, Vectors};
use super::super::{Http2, Surprise};
use super::frames::*;
use crate::Direction::{self, FromClient, FromUpstream};
use crate::Step;

/// What a frame of a valid connection does; the number chooses the stream.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Open { ends: u8, continuations: u8 },
    Body(Direction, usize),
    End(Direction, usize),
    Trailers(Direction, usize),
    Reset(Direction, usize),
    Promise(usize),
    Other(Direction),
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(FromClient), Just(FromUpstream)]
}

fn deed() -> impl Strategy<Value = Deed> {
    let which = any::<usize>();
    prop_oneof![
        4 => (0..2_u8, 0..3_u8).prop_map(|(ends, continuations)| Deed::Open { ends, continuations }),
        2 => (direction(), which).prop_map(|(direction, which)| Deed::Body(direction, which)),
        4 => (direction(), which).prop_map(|(direction, which)| Deed::End(direction, which)),
        2 => (direction(), which).prop_map(|(direction, which)| Deed::Trailers(direction, which)),
        1 => (direction(), which).prop_map(|(direction, which)| Deed::Reset(direction, which)),
        1 => which.prop_map(Deed::Promise),
        1 => direction().prop_map(Deed::Other),
    ]
}

/// The streams as RFC 9113 §5.1 tells them, kept the slow way.
#[derive(Default)]
struct Model {
    /// Whether the client and the upstream have ended it.
    open: BTreeMap<u32, (bool, bool)>,
    next: u32,
    next_promised: u32,
}

impl Model {
    /// A stream on which this side may still send.
    fn choose(&self, direction: Direction, which: usize) -> Option<u32> {
        let able: Vec<u32> = self
            .open
            .iter()
            .filter(|(_, ended)| if direction == FromClient { !ended.0 } else { !ended.1 })
            .map(|(id, _)| *id)
            .collect();
        able.get(which.checked_rem(able.len())?).copied()
    }

    fn end(&mut self, direction: Direction, id: u32) {
        if let Some(ended) = self.open.get_mut(&id) {
            match direction {
                FromClient => ended.0 = true,
                FromUpstream => ended.1 = true,
            }
            if *ended == (true, true) {
                self.open.remove(&id);
            }
        }
    }

    /// The bytes of a deed, if it can be done now.
    fn write(&mut self, deed: Deed) -> Option<(Direction, Vec<u8>)> {
        match deed {
            Deed::Open { ends, continuations } => {
                let id = 2 * self.next + 1;
                self.next += 1;
                self.open.insert(id, (ends == 1, false));
                Some((FromClient, block(id, ends, continuations)))
            }
            Deed::Body(direction, which) => {
                Some((direction, data(self.choose(direction, which)?, 0)))
            }
            Deed::End(direction, which) => {
                let id = self.choose(direction, which)?;
                self.end(direction, id);
                Some((direction, data(id, END_STREAM)))
            }
            Deed::Trailers(direction, which) => {
                let id = self.choose(direction, which)?;
                self.end(direction, id);
                Some((direction, block(id, END_STREAM, which as u8 % 3)))
            }
            Deed::Reset(direction, which) => {
                let id = self.choose(direction, which)?;
                self.open.remove(&id);
                Some((direction, reset(id)))
            }
            Deed::Promise(which) => {
                let id = self.choose(FromUpstream, which).filter(|id| id % 2 == 1)?;
                self.next_promised += 1;
                let promised = 2 * self.next_promised;
                self.open.insert(promised, (true, false));
                Some((FromUpstream, promise(id, promised, END_HEADERS)))
            }
            Deed::Other(direction) => {
                Some((direction, [ping(*b"somebody", 0), credit(0, 1)].concat()))
            }
        }
    }
}

fn block(id: u32, flags: u8, continuations: u8) -> Vec<u8> {
    if continuations == 0 {
        return headers(id, flags);
    }
    let mut out = headers_begun(id, flags);
    for left in (0..continuations).rev() {
        out.extend(continuation(id, if left == 0 { END_HEADERS } else { 0 }));
    }
    out
}

fn read_in_parts(
    vectors: &mut Vectors,
    direction: Direction,
    bytes: &[u8],
    cuts: &mut impl Iterator<Item = usize>,
) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = cuts.next().unwrap_or(rest.len()).clamp(1, rest.len());
        vectors.read(direction, &rest[..size]);
        rest = &rest[size..];
    }
}

/// The frames in bytes that begin and end at a frame boundary, our own words left out.
fn frames_but_ours(bytes: &[u8]) -> Vec<u8> {
    let ours = [first_words(), ping(PING, 0)];
    let mut rest = bytes;
    let mut out = Vec::new();
    while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
        let size = HEADER_BYTES + u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let (frame, later) = rest.split_at(size);
        let is_ours =
            frame.ends_with(b"draining") || ours.iter().any(|ours| ours.as_slice() == frame);
        if !is_ours {
            out.extend_from_slice(frame);
        }
        rest = later;
    }
    assert!(rest.is_empty(), "a word was said inside a frame");
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_connections_are_counted(
        deeds in prop::collection::vec(deed(), 0..120),
        cuts in prop::collection::vec(1..40_usize, 0..400),
    ) {
        let mut vectors = Vectors::new(PING);
        let mut model = Model::default();
        let mut cuts = cuts.into_iter();
        read_in_parts(&mut vectors, FromClient, &preface(), &mut cuts);
        read_in_parts(&mut vectors, FromUpstream, &settings(), &mut cuts);
        for deed in deeds {
            if let Some((direction, bytes)) = model.write(deed) {
                read_in_parts(&mut vectors, direction, &bytes, &mut cuts);
                prop_assert_eq!(vectors.tracker.surprise(), None);
                prop_assert_eq!(vectors.tracker.open_streams() as usize, model.open.len());
            }
        }
    }

    /// Whenever a drain begins: everything passes but our own words and their answer.
    #[test]
    fn a_drain_loses_nothing(
        before in prop::collection::vec(deed(), 0..40),
        between in prop::collection::vec(deed(), 0..20),
        after in prop::collection::vec(deed(), 0..60),
        cut in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(1..40_usize, 0..400),
    ) {
        let mut vectors = Vectors::new(PING);
        let mut model = Model::default();
        let mut cuts = cuts.into_iter();
        let mut sent: [Vec<u8>; 2] = [preface(), settings()];
        vectors.read(FromClient, &preface());
        vectors.read(FromUpstream, &settings());
        for deed in before {
            if let Some((direction, bytes)) = model.write(deed) {
                sent[direction as usize].extend_from_slice(&bytes);
                read_in_parts(&mut vectors, direction, &bytes, &mut cuts);
            }
        }
        // The drain begins in the middle of a frame.
        let (direction, bytes) = model.write(Deed::Other(FromUpstream)).expect("always possible");
        sent[direction as usize].extend_from_slice(&bytes);
        let middle = cut.index(bytes.len());
        vectors.read(direction, &bytes[..middle]);
        vectors.begin_drain();
        vectors.read(direction, &bytes[middle..]);
        for deed in between {
            if let Some((direction, bytes)) = model.write(deed) {
                sent[direction as usize].extend_from_slice(&bytes);
                read_in_parts(&mut vectors, direction, &bytes, &mut cuts);
            }
        }
        prop_assert!(vectors.tracker.awaits_ping());
        read_in_parts(&mut vectors, FromClient, &answer(), &mut cuts);
        prop_assert!(!vectors.tracker.awaits_ping());
        // The client obeys: it opens nothing any more.
        for deed in after {
            if matches!(deed, Deed::Open { .. }) {
                continue;
            }
            if let Some((direction, bytes)) = model.write(deed) {
                sent[direction as usize].extend_from_slice(&bytes);
                read_in_parts(&mut vectors, direction, &bytes, &mut cuts);
                prop_assert_eq!(vectors.tracker.open_streams() as usize, model.open.len());
                prop_assert_eq!(vectors.tracker.farewell_done(), model.open.is_empty());
            }
        }
        prop_assert_eq!(vectors.tracker.surprise(), None);
        prop_assert!(vectors.take_sent(FromClient) == sent[0]);
        let to_client = vectors.take_sent(FromUpstream);
        let last = if model.next == 0 { 0 } else { 2 * model.next - 1 };
        let words = to_client.windows(last_words(last).len()).filter(|words| *words == last_words(last)).count();
        // It is said when nobody is sending a request any more.
        let is_sending = model.choose(FromClient, 0).is_some();
        prop_assert_eq!(words, usize::from(!is_sending));
        prop_assert!(frames_but_ours(&to_client) == sent[1]);
    }

    /// Whatever comes after valid beginnings, it passes in one answer while there is no drain.
    #[test]
    fn garbage_passes(
        reads in prop::collection::vec((direction(), prop::collection::vec(any::<u8>(), 1..80)), 0..20),
        begun in 0..3_u8,
    ) {
        let mut http2 = Http2::new(PING);
        if begun > 0 {
            http2.step(FromClient, &preface());
            http2.step(FromUpstream, &settings());
        }
        if begun > 1 {
            http2.step(FromClient, &headers(1, 0));
        }
        for (direction, bytes) in reads {
            prop_assert_eq!(http2.step(direction, &bytes), Step::Pass(bytes.len()));
        }
    }

    /// Short frames with small numbers in them reach more than noise does.
    #[test]
    fn frames_in_any_order_keep_the_contract(
        acts in prop::collection::vec(prop_oneof![
            6 => (0..12_u8, any::<u8>(), 0..10_u32, 0..20_usize).prop_map(|(kind, flags, stream, size)| {
                let mut out = vec![9 + size as u8, 0, 0, size as u8, kind, flags];
                out.extend(stream.to_be_bytes());
                out.extend([0, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].iter().take(size));
                out
            }),
            1 => Just([vec![17], answer()].concat()),
            2 => (0xf9..=0xff_u8).prop_map(|act| vec![act]),
            2 => Just(vec![0x80]),
        ], 0..60),
    ) {
        fuzz::run(&[vec![0xfa, 0xf9], acts.concat()].concat());
    }

    #[test]
    fn noise_keeps_the_contract(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz::run(&data);
    }
}

#[test]
fn the_fuzz_corpus_keeps_the_contract() {
    let read = |bytes: &[u8]| [&[bytes.len() as u8], bytes].concat();
    let turn = vec![0x80];
    let corpus = [
        vec![],
        vec![0xfa, 0xf9, 0xff, 17],
        [vec![0xfa, 0xf9], read(&headers(1, 0)), turn.clone(), read(&headers(1, END_STREAM))]
            .concat(),
        [vec![0xfa, 0xf9, 0xff], read(&answer()), read(&headers(1, END_STREAM)), turn.clone()]
            .concat(),
        [vec![0xfa, 0xf9, 0xff, 0x80], read(&goaway(1, 0, b"bye")), vec![0xfb, 0xfe]].concat(),
        [vec![0xfa], read(&data(0, 0)), vec![0xff, 0xf9], turn, read(&answer()[..3])].concat(),
    ];
    for data in corpus {
        fuzz::run(&data);
    }
}

/// What `cargo fuzz run http2` has left.
#[test]
fn the_kept_corpus_keeps_the_contract() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/http2");
    let inputs: Vec<_> = std::fs::read_dir(folder).expect("a corpus").collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        let path = input.expect("a file").path();
        println!("{}", path.display());
        fuzz::run(&std::fs::read(path).expect("its bytes"));
    }
}

#[test]
fn names_are_distinct() {
    use Surprise::*;
    let names: Vec<_> =
        [Preface, HeaderBlock, StreamId, FrameSize, TooManyStreams].map(Surprise::name).into();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
}
