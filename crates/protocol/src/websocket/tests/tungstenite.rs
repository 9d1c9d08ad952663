//! tungstenite as the oracle: it must find the same frames' ends, and object to the same frames.

use std::io::{Cursor, Read, Write};

use proptest::collection::vec;
use proptest::prelude::*;
use tungstenite::Message;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::frame::{FrameSocket, Utf8Bytes};
use tungstenite::protocol::{Role, WebSocket};

use super::{client_frame, server_frame, tracker};
use crate::Direction::{FromClient, FromUpstream};
use crate::testing::Relay;
use crate::websocket::Extensions;
use crate::websocket::lane::{Lane, Until};
use crate::{Class, Direction};

/// Bytes to read; what is written is nobody's.
struct Tape(Cursor<Vec<u8>>);

impl Read for Tape {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Tape {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether tungstenite takes all these frames for valid ones.
fn accepts(role: Role, bytes: Vec<u8>) -> bool {
    let mut socket = WebSocket::from_raw_socket(Tape(Cursor::new(bytes)), role, None);
    loop {
        match socket.read() {
            Ok(_) => {}
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return true,
            Err(Error::Protocol(_)) => return false,
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => return true,
            Err(error) => panic!("an oracle should not say {error}"),
        }
    }
}

/// Where the frames end, by tungstenite and by our walk.
fn frame_ends(bytes: &[u8], from: Direction) -> (Vec<u64>, Vec<u64>) {
    let mut socket = FrameSocket::new(Cursor::new(bytes.to_vec()));
    let mut theirs = Vec::new();
    let mut end = 0;
    while let Ok(Some(frame)) = socket.read(None) {
        end += frame.len() as u64;
        theirs.push(end);
    }
    let mut lane = Lane::new(from);
    let mut ours = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        at += lane.walk(&bytes[at..], Until::Boundary, Extensions::None).expect("frames are valid");
        ours.push(at as u64);
    }
    (theirs, ours)
}

/// What tungstenite writes for these messages.
fn written(role: Role, payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut socket = WebSocket::from_raw_socket(Cursor::new(Vec::new()), role, None);
    for (number, payload) in payloads.iter().enumerate() {
        let message = match number % 4 {
            0 => Message::Binary(payload.clone().into()),
            1 => Message::Ping(payload[..payload.len().min(125)].to_vec().into()),
            2 => Message::Text(Utf8Bytes::from("text".repeat(payload.len()))),
            _ => Message::Pong(Vec::new().into()),
        };
        socket.send(message).expect("a buffer takes everything");
    }
    socket.into_inner().into_inner()
}

fn frame() -> impl Strategy<Value = (u8, Vec<u8>)> {
    // Mostly what is allowed, so that long runs of valid frames come too. Close has its own tests.
    let first = prop_oneof![
        12 => prop::sample::select(vec![0x82_u8, 0x02, 0x80, 0x00, 0x89, 0x8a, 0x82]),
        1 => any::<u8>().prop_filter("no Close", |first| first & 0x0f != 8),
    ];
    let length = prop_oneof![8 => 0..126_usize, 1 => 126..300_usize];
    (first, length).prop_map(|(first, length)| (first, vec![b'a'; length]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn frames_end_at_the_same_offsets(payloads in vec(vec(any::<u8>(), 0..400), 0..8)) {
        for (role, from) in [(Role::Client, FromClient), (Role::Server, FromUpstream)] {
            let bytes = written(role, &payloads);
            let (theirs, ours) = frame_ends(&bytes, from);
            prop_assert_eq!(theirs.len(), payloads.len());
            prop_assert_eq!(theirs, ours);
        }
    }

    #[test]
    fn the_same_frames_are_objected_to(frames in vec(frame(), 0..6), is_masked: bool, flip in 0_usize..20) {
        let by_client = is_masked;
        let (role, direction) = if by_client {
            (Role::Server, FromClient)
        } else {
            (Role::Client, FromUpstream)
        };
        let mut bytes = Vec::new();
        for (number, (first, payload)) in frames.iter().enumerate() {
            let wrong_mask = number == flip;
            let frame = if by_client ^ wrong_mask { client_frame } else { server_frame };
            bytes.extend(frame(*first, payload));
        }
        let mut relay = Relay::new(tracker(), false);
        relay.read(direction, &bytes);
        let ours = relay.tracker.class() == Class::WebSocket;
        prop_assert_eq!(accepts(role, bytes), ours);
    }

    #[test]
    fn garbage_passes_untouched(parts in vec((any::<bool>(), vec(any::<u8>(), 0..40)), 0..12)) {
        let mut relay = Relay::new(tracker(), false);
        let (mut from_client, mut from_upstream) = (Vec::new(), Vec::new());
        for (is_client, bytes) in parts {
            let direction = if is_client { FromClient } else { FromUpstream };
            relay.read(direction, &bytes);
            if is_client { from_client.extend(bytes) } else { from_upstream.extend(bytes) }
        }
        prop_assert_eq!(relay.to_upstream, from_client);
        prop_assert_eq!(relay.to_client, from_upstream);
    }
}
