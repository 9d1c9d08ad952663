//! The Close frame by which a WebSocket is asked to end.

use super::frame::{CLOSE, CONTROL_LIMIT_BYTES};

/// What to say when a WebSocket is asked to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    code: u16,
    reason: String,
    mask: [u8; 4],
}

/// A reason may have this many bytes: what a control frame carries, without the code.
pub const REASON_LIMIT_BYTES: usize = CONTROL_LIMIT_BYTES as usize - 2;

impl Farewell {
    /// A farewell with this code and reason, masked towards the upstream with this key. What is
    /// too long of the reason is cut off, at a character's boundary.
    ///
    /// # Source
    /// RFC 6455 §7.4.1: 1001 is "going away"; IANA's registry adds 1012, "service restart".
    #[must_use]
    pub fn new(code: u16, reason: &str, mask: [u8; 4]) -> Farewell {
        let limit = reason.len().min(REASON_LIMIT_BYTES);
        let end = (0..=limit).rev().find(|&at| reason.is_char_boundary(at));
        Farewell {
            code,
            reason: reason.get(..end.unwrap_or(0)).unwrap_or_default().to_owned(),
            mask,
        }
    }

    /// The frame as a server sends it.
    pub(super) fn to_client(&self) -> Vec<u8> {
        let mut frame = vec![0x80 | CLOSE, self.payload_length()];
        frame.extend(self.payload());
        frame
    }

    /// The frame as a client sends it.
    pub(super) fn to_upstream(&self) -> Vec<u8> {
        let mut frame = vec![0x80 | CLOSE, 0x80 | self.payload_length()];
        frame.extend(self.mask);
        let key = self.mask.iter().cycle();
        frame.extend(self.payload().zip(key).map(|(byte, key)| byte ^ key));
        frame
    }

    fn payload(&self) -> impl Iterator<Item = u8> {
        self.code.to_be_bytes().into_iter().chain(self.reason.bytes())
    }

    fn payload_length(&self) -> u8 {
        (2 + self.reason.len()) as u8
    }
}
