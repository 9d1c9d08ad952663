//! Buffers, lent per worker for as long as bytes are in flight.

use std::cell::RefCell;

/// Holds most requests and messages whole, and stays in the second-level cache with its copy.
const SMALL_BYTES: usize = 16 * 1024;

/// For bulk: bytes moved per system call decide what a GiB costs.
///
/// # Source
/// docs/defaults.md, bulk transfer: 0.89 s/GiB with 16 KiB, 0.42 with 256 KiB.
const LARGE_BYTES: usize = 256 * 1024;

/// Buffers of each size that a worker keeps for the next loan; more are freed when given back.
const KEPT_SMALL: usize = 16;
const KEPT_LARGE: usize = 2;

/// The two sizes that are lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
}

thread_local! {
    static SMALL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static LARGE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer on loan; dropping it gives it back to the worker that drops it.
#[derive(Debug)]
pub(super) struct Buffer(Option<Box<[u8]>>);

impl Buffer {
    pub(super) fn borrow(size: Size) -> Self {
        let (pool, bytes) = match size {
            Size::Small => (&SMALL, SMALL_BYTES),
            Size::Large => (&LARGE, LARGE_BYTES),
        };
        let kept = pool.with_borrow_mut(Vec::pop);
        Buffer(Some(kept.unwrap_or_else(|| vec![0; bytes].into_boxed_slice())))
    }

    /// Bytes that no pool lent: what a tracker made of what was read.
    pub(super) fn owned(bytes: Vec<u8>) -> Self {
        Buffer(Some(bytes.into_boxed_slice()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(bytes) = self.0.take() else { return };
        let (pool, kept) = match bytes.len() {
            LARGE_BYTES => (&LARGE, KEPT_LARGE),
            SMALL_BYTES => (&SMALL, KEPT_SMALL),
            _ => return,
        };
        // While the thread ends its pool may be gone; then the buffer is simply freed.
        let _ = pool.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < kept {
                pool.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_lent_again_and_no_more_than_a_few_are_kept() {
        let address = {
            let buffer = Buffer::borrow(Size::Small);
            buffer.bytes().as_ptr()
        };
        assert_eq!(Buffer::borrow(Size::Small).bytes().as_ptr(), address);
        let many: Vec<Buffer> = (0..100).map(|_| Buffer::borrow(Size::Small)).collect();
        drop(many);
        assert_eq!(SMALL.with_borrow(Vec::len), KEPT_SMALL);
    }

    #[test]
    fn each_size_has_its_own_pool() {
        drop(Buffer::borrow(Size::Large));
        assert_eq!(Buffer::borrow(Size::Small).bytes().len(), SMALL_BYTES);
        assert_eq!(Buffer::borrow(Size::Large).bytes().len(), LARGE_BYTES);
    }
}
