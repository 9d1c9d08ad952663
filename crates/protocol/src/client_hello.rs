//! How far a TLS client's first message has come: its ClientHello, which may take several records.
//!
//! Nothing else of TLS is looked at. What is not framed as a ClientHello counts as whole: nobody
//! waits for the rest of something that is not understood.
//!
//! # Source
//! RFC 8446 §5.1 (records: type, version, length of two bytes), §4 (a handshake message: type, length
//! of three bytes).

/// A record of handshake messages.
const HANDSHAKE_RECORD: u8 = 22;
/// The first message of a client.
const CLIENT_HELLO: u8 = 1;
/// Bytes in front of a record's payload.
const RECORD_HEADER_BYTES: u8 = 5;
/// Bytes in front of a handshake message.
const MESSAGE_HEADER_BYTES: u8 = 4;

/// Counts a ClientHello's bytes as they pass.
#[derive(Debug, Default)]
pub struct ClientHello {
    /// How many bytes of the record's header have passed.
    record_header_bytes: u8,
    record_left: u16,
    /// How many bytes of the message's header have passed.
    message_header_bytes: u8,
    message_left: u32,
    is_over: bool,
}

impl ClientHello {
    /// Counts the next bytes of the client.
    pub fn pass(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first().filter(|_| !self.is_over) {
            if self.record_header_bytes < RECORD_HEADER_BYTES {
                self.record_header(byte);
                rest = after;
            } else if self.message_header_bytes < MESSAGE_HEADER_BYTES {
                self.message_header(byte);
                rest = after;
            } else {
                let inside = self.message_left.min(u32::from(self.record_left));
                let skipped = usize::try_from(inside).unwrap_or(usize::MAX).min(rest.len());
                rest = rest.get(skipped..).unwrap_or_default();
                self.count(skipped as u32); // no more than message_left, by the line above
            }
        }
    }

    /// Whether nothing more of it is to come, or it is none.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    fn record_header(&mut self, byte: u8) {
        match self.record_header_bytes {
            0 => self.is_over = byte != HANDSHAKE_RECORD,
            3 | 4 => self.record_left = self.record_left << 8 | u16::from(byte),
            _ => {}
        }
        self.record_header_bytes += 1;
        let is_whole = self.record_header_bytes == RECORD_HEADER_BYTES;
        self.is_over |= is_whole && self.record_left == 0;
    }

    fn message_header(&mut self, byte: u8) {
        match self.message_header_bytes {
            0 => self.is_over = byte != CLIENT_HELLO,
            _ => self.message_left = self.message_left << 8 | u32::from(byte),
        }
        self.message_header_bytes += 1;
        self.record_left -= 1; // not 0: count() ends the record with its last byte
        self.end_record();
        let is_whole = self.message_header_bytes == MESSAGE_HEADER_BYTES;
        self.is_over |= is_whole && self.message_left == 0;
    }

    fn count(&mut self, bytes: u32) {
        self.message_left -= bytes;
        self.record_left -= bytes as u16; // no more than record_left, by the caller
        self.is_over = self.message_left == 0;
        self.end_record();
    }

    fn end_record(&mut self) {
        if self.record_left == 0 {
            self.record_header_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello of so many bytes, in records of at most so many.
    fn hello(message_bytes: u32, record_bytes: usize) -> Vec<u8> {
        let [_, l0, l1, l2] = message_bytes.to_be_bytes();
        let mut message = vec![CLIENT_HELLO, l0, l1, l2];
        message.resize(4 + message_bytes as usize, 7);
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).expect("a short record").to_be_bytes();
            [&[HANDSHAKE_RECORD, 3, 1], &length[..], part].concat()
        };
        message.chunks(record_bytes).flat_map(record).collect()
    }

    proptest! {
        #[test]
        fn is_over_with_its_last_byte_however_it_is_cut(
            message_bytes in 1..700_u32,
            record_bytes in 1..300_usize,
            read_bytes in 1..50_usize,
        ) {
            let bytes = hello(message_bytes, record_bytes);
            let [all_but_one, last] = bytes.split_at(bytes.len() - 1).into();
            let mut tracked = ClientHello::default();
            for part in all_but_one.chunks(read_bytes) {
                tracked.pass(part);
            }
            prop_assert!(!tracked.is_over());
            tracked.pass(last);
            prop_assert!(tracked.is_over());
        }

        #[test]
        fn arbitrary_bytes_end_or_go_on(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            ClientHello::default().pass(&bytes);
            ClientHello::default().pass(&[&[22, 3, 1, 0, 9, 1], &bytes[..]].concat());
        }
    }

    #[test]
    fn what_is_no_client_hello_is_not_waited_for() {
        for bytes in [&b"\x17"[..], b"\x16\x03\x01\0\0", b"\x16\x03\x01\0\x05\x02"] {
            let mut tracked = ClientHello::default();
            tracked.pass(bytes);
            assert!(tracked.is_over(), "{bytes:?}");
        }
    }
}
