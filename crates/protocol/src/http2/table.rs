//! The open streams that one side has begun: a sorted `Vec`, because their ids only grow.

/// Streams that one connection may have open at once; with more it becomes opaque.
///
/// Servers allow 100 to 250, gRPC servers often any number. A stream costs 4 bytes, twice that
/// while ended ones have not been swept out, and twice again in a `Vec` that has just grown: 16 at
/// most, 256 KiB for a connection that has all of them, and nothing before the first stream.
pub const MAX_STREAMS: u32 = 16_384;

/// Ended streams that may stay in a table before it is swept, however few live ones there are.
const SLACK: usize = 16;

/// Room that a table keeps, however few streams are left; what a burst needed beyond it is given back.
const KEPT_STREAMS: usize = 64;

/// Which side of a stream has ended; with both it is over.
pub(super) type Ends = u32;
pub(super) const CLIENT_ENDED: Ends = 0b01;
pub(super) const UPSTREAM_ENDED: Ends = 0b10;
pub(super) const BOTH_ENDED: Ends = 0b11;

/// Streams of one parity.
///
/// An entry is the id without its last bit (30 bits), then the two bits of [`Ends`]. Ended streams
/// stay as entries until there are more of them than live ones, so that each costs little to remove.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<u32>,
    live: u32,
    /// Live ones on which the client has not ended its side.
    sending: u32,
    highest: u32,
}

impl Table {
    pub(super) fn live(&self) -> u32 {
        self.live
    }

    pub(super) fn sending(&self) -> u32 {
        self.sending
    }

    pub(super) fn highest(&self) -> u32 {
        self.highest
    }

    /// Notes a stream that was begun but will not be served.
    pub(super) fn pass_by(&mut self, id: u32) {
        self.highest = self.highest.max(id);
    }

    /// Opens a stream, whose id is above every other of the table.
    pub(super) fn push(&mut self, id: u32, ends: Ends) {
        self.highest = id;
        self.entries.push(key(id) << 2 | ends);
        self.live += 1;
        if ends & CLIENT_ENDED == 0 {
            self.sending += 1;
        }
    }

    /// What has ended of a stream, if it is open.
    #[inline]
    pub(super) fn ends(&self, id: u32) -> Option<Ends> {
        let place = self.place(id)?;
        self.entries.get(place).map(|entry| entry & BOTH_ENDED).filter(|ends| *ends != BOTH_ENDED)
    }

    /// Ends a side of a stream, or both; of one that is not open, nothing.
    #[inline(always)]
    pub(super) fn end(&mut self, id: u32, ends: Ends) {
        if let Some(place) = self.place(id)
            && let Some(entry) = self.entries.get_mut(place)
        {
            let before = *entry;
            let after = before | ends;
            *entry = after;
            self.count(before, after);
            if after & BOTH_ENDED == BOTH_ENDED {
                self.sweep();
            }
        }
    }

    /// Ends all streams above `last`, in a table of odd ids.
    pub(super) fn end_above(&mut self, last: u32) {
        // An odd id is twice its key and one more.
        let first = self.entries.partition_point(|entry| entry >> 2 < last.div_ceil(2));
        self.end_from(first, BOTH_ENDED);
    }

    /// Ends a side, or both, of all streams.
    pub(super) fn end_all(&mut self, ends: Ends) {
        self.end_from(0, ends);
    }

    fn end_from(&mut self, first: usize, ends: Ends) {
        let mut place = first;
        while let Some(entry) = self.entries.get_mut(place) {
            let before = *entry;
            *entry |= ends;
            let after = *entry;
            self.count(before, after);
            place += 1;
        }
        self.sweep();
    }

    fn count(&mut self, before: u32, after: u32) {
        if before & CLIENT_ENDED == 0 && after & CLIENT_ENDED != 0 {
            self.sending -= 1;
        }
        if before & BOTH_ENDED != BOTH_ENDED && after & BOTH_ENDED == BOTH_ENDED {
            self.live -= 1;
        }
    }

    #[inline(always)]
    fn place(&self, id: u32) -> Option<usize> {
        // Clients count upwards by two, so the place is mostly where the newest entry lets expect it;
        // old streams that live on are followed by gaps.
        let newest = self.entries.len().checked_sub(1)?;
        let after = (self.entries.get(newest)? >> 2).checked_sub(key(id))? as usize;
        if let Some(guess) = newest.checked_sub(after)
            && self.entries.get(guess).is_some_and(|entry| entry >> 2 == key(id))
        {
            return Some(guess);
        }
        self.search(id)
    }

    #[inline(never)]
    fn search(&self, id: u32) -> Option<usize> {
        self.entries.binary_search_by_key(&key(id), |entry| entry >> 2).ok()
    }

    #[inline(always)]
    fn sweep(&mut self) {
        if self.live == 0 {
            self.entries.clear();
            if self.entries.capacity() > KEPT_STREAMS {
                self.entries.shrink_to(KEPT_STREAMS);
            }
        } else if self.entries.len() > 2 * self.live as usize + SLACK {
            self.sweep_among_live();
        }
    }

    #[inline(never)]
    fn sweep_among_live(&mut self) {
        self.entries.retain(|entry| entry & BOTH_ENDED != BOTH_ENDED);
        self.entries.shrink_to(KEPT_STREAMS.max(2 * self.entries.len()));
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<u32>()
    }
}

fn key(id: u32) -> u32 {
    id >> 1
}
