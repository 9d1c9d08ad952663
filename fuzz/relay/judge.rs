//! Whether what a peer got is what the other one said, but for the edits that are documented.

use ebbtide::protocol::Direction;

use super::peer::Peer;
use super::words::{self, PING, REASON};

/// How many of the bytes that `speaker` says have arrived at `hearer`. `None` if that got anything
/// else than those, without a gap and in their order, and the words of a farewell in their places.
pub fn arrived(from: Direction, speaker: &Peer, hearer: &Peer) -> Option<usize> {
    let (says, got) = (&speaker.says, &hearer.got);
    let as_text = lines(from, says, got);
    let as_frames = || http2(from, says, got, speaker);
    as_text.or_else(|| websocket(from, says, got, hearer)).or_else(as_frames)
}

/// HTTP/1: the lines of a head that a farewell replaces, and those that name the client.
fn lines(from: Direction, says: &[u8], got: &[u8]) -> Option<usize> {
    let (mut said, mut heard) = (0, 0);
    loop {
        let same = says[said..].iter().zip(&got[heard..]).take_while(|(a, b)| a == b).count();
        said += same;
        heard += same;
        if heard == got.len() {
            return Some(said);
        }
        let back = got[..heard].iter().rev().take_while(|&&byte| byte != b'\n').count();
        let (said_line, heard_line) = (line(&says[said - back..]), line(&got[heard - back..]));
        if !is_in_head(&got[..heard - back]) {
            return None;
        }
        let (goes, comes) = match from {
            Direction::FromClient => (is_forwarding(said_line), is_forwarding(heard_line)),
            Direction::FromUpstream => (
                has_name(said_line, "connection") || has_name(said_line, "keep-alive"),
                has_name(heard_line, "drain-deadline") || is_close(heard_line),
            ),
        };
        // What was the same of two lines that differ is taken back with them.
        match (goes, comes) {
            (false, false) => return None,
            (goes, comes) => {
                said = said - back + if goes { said_line.len() } else { 0 };
                heard = heard - back + if comes { heard_line.len() } else { 0 };
            }
        }
    }
}

fn line(bytes: &[u8]) -> &[u8] {
    bytes.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default()
}

fn has_name(line: &[u8], name: &str) -> bool {
    line.split(|&byte| byte == b':')
        .next()
        .is_some_and(|own| own.eq_ignore_ascii_case(name.as_bytes()))
}

fn is_close(line: &[u8]) -> bool {
    has_name(line, "connection") && line.windows(7).any(|word| word == b": close")
}

fn is_forwarding(line: &[u8]) -> bool {
    has_name(line, "x-forwarded-for") || has_name(line, "forwarded")
}

/// Whether a line that comes next belongs to a head of HTTP/1.
fn is_in_head(before: &[u8]) -> bool {
    let rest = |needle: &[u8]| before.windows(needle.len()).rposition(|window| window == needle);
    rest(b"HTTP/1.").is_some_and(|begin| rest(b"\r\n\r\n").is_none_or(|end| end < begin))
}

/// A WebSocket: our Close at the end of a frame, and nothing after it. Who has vanished may have got
/// only the beginning of it.
fn websocket(from: Direction, says: &[u8], got: &[u8], hearer: &Peer) -> Option<usize> {
    let whole = match from {
        Direction::FromUpstream => 2 + CLOSE_BYTES,
        Direction::FromClient => 6 + CLOSE_BYTES,
    };
    let least = if hearer.has_vanished() { 1 } else { whole };
    (least..=whole).rev().find_map(|length| {
        let (before, frame) = got.split_at_checked(got.len().checked_sub(length)?)?;
        let said = lines(from, says, before).filter(|_| begins_close(from, frame))?;
        // Whichever head was the last one, the frames behind it must end where the Close was put.
        let heads = says[..said].windows(4).enumerate().filter(|(_, end)| end == b"\r\n\r\n");
        heads.map(|(at, _)| at + 4).any(|start| end_together(&says[start..said])).then_some(said)
    })
}

/// What our Close says: a code and a reason.
const CLOSE_BYTES: usize = 2 + REASON.len();

/// Whether a frame is our Close, or begins as it does.
fn begins_close(from: Direction, frame: &[u8]) -> bool {
    let close = [&1001_u16.to_be_bytes()[..], REASON.as_bytes()].concat();
    let (bit, mask): (u8, &[u8]) = match from {
        Direction::FromUpstream => (0, &[0]),
        Direction::FromClient => (0x80, frame.get(2..6).unwrap_or(&[0])),
    };
    let head_bytes = if bit == 0 { 2 } else { 6 };
    let Ok(length) = u8::try_from(CLOSE_BYTES) else { return false };
    let head = [0x88, bit | length];
    let payload = frame.get(head_bytes..).unwrap_or_default();
    frame.iter().zip(head).all(|(byte, own)| *byte == own)
        && payload.iter().zip(mask.iter().cycle()).zip(close).all(|((a, b), own)| a ^ b == own)
}

/// Whether bytes are whole WebSocket frames.
fn end_together(mut bytes: &[u8]) -> bool {
    while let Some(&second) = bytes.get(1) {
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let number = |range| {
            bytes.get(range).map(|bytes: &[u8]| {
                bytes.iter().fold(0_usize, |sum, &byte| (sum << 8) | usize::from(byte))
            })
        };
        let size = match second & 0x7f {
            126 => number(2..4).map(|length| 4 + length),
            127 => number(2..10).map(|length| length.saturating_add(10)),
            short => Some(2 + usize::from(short)),
        };
        match size.and_then(|size| bytes.get(size.saturating_add(mask)..)) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    bytes.is_empty()
}

/// HTTP/2: our own frames between two others, one that is clamped, and what is taken out.
fn http2(from: Direction, says: &[u8], got: &[u8], speaker: &Peer) -> Option<usize> {
    let preface = match from {
        Direction::FromClient => 24,
        Direction::FromUpstream => 0,
    };
    let same = says.get(..preface)? == got.get(..preface)?;
    let mut said = words::frames(&says[preface..]).peekable();
    let mut count = preface;
    // Who has vanished may have been told the last stream, and not have read it.
    let is_last = |frame| is_goaway(frame) && last(frame) < u32::MAX >> 1;
    let has_last = speaker.has_vanished() || words::frames(&speaker.got).any(is_last);
    for heard in words::frames(&got[preface..]) {
        loop {
            let next = said.peek().copied().unwrap_or_default();
            if next.starts_with(heard)
                || (from == Direction::FromUpstream && is_clamped(next, heard))
            {
                said.next();
                count += heard.len();
                break;
            }
            if from == Direction::FromUpstream && (is_ours(heard) || is_ours_cut(heard)) {
                break;
            }
            let may_go = from == Direction::FromClient
                && (next == words::frame(6, 1, 0, &PING)
                    || (has_last && words::stream(next).is_some_and(|id| id > 0)));
            if !may_go {
                return None;
            }
            said.next();
            count += next.len();
        }
    }
    same.then_some(count)
}

fn is_goaway(frame: &[u8]) -> bool {
    frame.get(3) == Some(&7) && frame.ends_with(b"draining")
}

fn last(goaway: &[u8]) -> u32 {
    let id = goaway.get(9..13).and_then(|id| id.try_into().ok());
    id.map_or(u32::MAX, u32::from_be_bytes)
}

fn is_ours(frame: &[u8]) -> bool {
    is_goaway(frame)
        || frame == words::frame(6, 0, 0, &PING)
        || (frame.get(3) == Some(&3) && frame.ends_with(&[0, 0, 0, 7]))
        || (frame.get(3) == Some(&8) && words::stream(frame) == Some(0))
}

/// Whether a frame is the beginning of one of ours: a client that has vanished may have got no more.
fn is_ours_cut(frame: &[u8]) -> bool {
    let whole = [
        words::frame(7, 0, 0, b"\0\0\0\0\0\0\0\0draining"),
        words::frame(6, 0, 0, &PING),
        words::frame(3, 0, 1, &[0, 0, 0, 7]),
        words::frame(8, 0, 0, &[0, 0, 0, 0]),
    ];
    let rests = whole.iter().filter_map(|whole| whole.get(frame.len()..));
    rests.filter(|rest| !rest.is_empty()).any(|rest| is_ours(&[frame, rest].concat()))
}

fn is_clamped(said: &[u8], heard: &[u8]) -> bool {
    said.get(3) == Some(&7)
        && said.len() == heard.len()
        && said.get(..9) == heard.get(..9)
        && said.get(13..) == heard.get(13..)
        && last(heard) < last(said) & (u32::MAX >> 1)
}
