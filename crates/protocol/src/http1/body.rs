//! Where a body ends. Bodies are counted, never kept: a counter for Content-Length, and a dozen
//! places for the chunked coding, whose data is counted too.
//!
//! # Source
//! RFC 9112 §6.3 (lengths), §7.1 (chunked coding).

use super::Surprise;

/// How far a body goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    /// This many bytes more.
    Length(u64),
    /// Until the chunked coding says so.
    Chunked(Chunked),
    /// Until the upstream closes.
    UntilClose,
}

/// What a body took of the bytes it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advance {
    pub(super) used: usize,
    pub(super) ended: bool,
}

impl Body {
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Advance, Surprise> {
        match self {
            Body::Length(left) => Ok(Advance { used: skip(left, bytes.len()), ended: *left == 0 }),
            Body::Chunked(chunked) => chunked.advance(bytes),
            Body::UntilClose => Ok(Advance { used: bytes.len(), ended: false }),
        }
    }

    /// How many of the next bytes say nothing: all but a body's last, and none of chunks.
    pub(super) fn unseen_bytes(&self) -> u64 {
        match self {
            Body::Length(left) => left.saturating_sub(1),
            Body::Chunked(_) => 0,
            Body::UntilClose => u64::MAX,
        }
    }

    /// Whether the next byte is one of an extension or a trailer, which say nothing either, and need
    /// not end.
    pub(super) fn is_in_filler(&self) -> bool {
        use Place::{AfterSize, Extension, Trailer, TrailerLineFeed, TrailerStart};
        match self {
            Body::Chunked(chunked) => matches!(
                chunked.place,
                AfterSize | Extension | Trailer | TrailerLineFeed | TrailerStart
            ),
            Body::Length(_) | Body::UntilClose => false,
        }
    }

    /// Counts off bytes that said nothing.
    pub(super) fn skip(&mut self, bytes: u64) {
        if let Body::Length(left) = self {
            *left = left.saturating_sub(bytes);
        }
    }
}

/// Counts off as much of `left` as `shown` bytes hold, and says how much that is.
fn skip(left: &mut u64, shown: usize) -> usize {
    let used = usize::try_from(*left).map_or(shown, |left| left.min(shown));
    *left -= used as u64;
    used
}

/// A place within the chunked coding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    place: Place,
    digits: u8,
    left: u64,
}

/// Sixteen hexadecimal digits fill a `u64`; a longer size is no size.
const SIZE_DIGITS: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Size,
    AfterSize,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    TrailerStart,
    Trailer,
    TrailerLineFeed,
    LastLineFeed,
}

impl Chunked {
    pub(super) fn new() -> Chunked {
        Chunked { place: Place::Size, digits: 0, left: 0 }
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<Advance, Surprise> {
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            if self.place == Place::Data {
                used += skip(&mut self.left, bytes.len() - used);
                if self.left == 0 {
                    self.place = Place::DataReturn;
                }
                continue;
            }
            used += 1;
            if self.place == Place::LastLineFeed && byte == b'\n' {
                return Ok(Advance { used, ended: true });
            }
            self.place = self.next(byte)?;
        }
        Ok(Advance { used, ended: false })
    }

    fn next(&mut self, byte: u8) -> Result<Place, Surprise> {
        use Place::{
            AfterSize, Data, DataLineFeed, DataReturn, Extension, LastLineFeed, Size, SizeLineFeed,
            Trailer, TrailerLineFeed, TrailerStart,
        };
        match (self.place, byte) {
            (Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < SIZE_DIGITS => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                self.digits += 1;
                Ok(Size)
            }
            (Size, b'\r' | b';' | b' ' | b'\t') if self.digits == 0 => {
                Err(Surprise::MalformedChunk)
            }
            (Size | AfterSize | Extension, b'\r') => Ok(SizeLineFeed),
            (Size | AfterSize, b';') => Ok(Extension),
            (Size | AfterSize, b' ' | b'\t') => Ok(AfterSize),
            (SizeLineFeed, b'\n') if self.left == 0 => Ok(TrailerStart),
            (SizeLineFeed, b'\n') => Ok(Data),
            (DataReturn, b'\r') => Ok(DataLineFeed),
            (DataLineFeed, b'\n') => {
                self.digits = 0;
                Ok(Size)
            }
            (TrailerStart, b'\r') => Ok(LastLineFeed),
            (Trailer, b'\r') => Ok(TrailerLineFeed),
            (TrailerLineFeed, b'\n') => Ok(TrailerStart),
            (_, b'\n') => Err(Surprise::BareLineFeed),
            (Extension, _) => Ok(Extension),
            (TrailerStart | Trailer, _) => Ok(Trailer),
            _ => Err(Surprise::MalformedChunk),
        }
    }
}
