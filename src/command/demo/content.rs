//! What the demo's connections carry: bytes that both ends can tell from a number.

use bytes::{Bytes, BytesMut};

/// Bytes are made in blocks of this size, so that they do not depend on how they are taken.
const BLOCK_BYTES: usize = 1024;

/// An endless sequence of bytes, the same for everybody who starts from the same seed.
#[derive(Debug)]
pub struct Content {
    random: fastrand::Rng,
    made: BytesMut,
}

impl Content {
    /// The sequence that `seed` names.
    pub fn new(seed: u64) -> Self {
        Content { random: fastrand::Rng::with_seed(seed), made: BytesMut::new() }
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Bytes {
        while self.made.len() < length {
            let mut block = [0; BLOCK_BYTES];
            self.random.fill(&mut block);
            self.made.extend_from_slice(&block);
        }
        self.made.split_to(length).freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_does_not_depend_on_how_it_is_taken() {
        let whole = Content::new(7).take(5000);
        let mut content = Content::new(7);
        let parts = [1, 1022, 3, 2000, 1974].map(|length| content.take(length)).concat();
        assert_eq!(parts, whole);
        assert_ne!(Content::new(8).take(5000), whole);
    }
}
