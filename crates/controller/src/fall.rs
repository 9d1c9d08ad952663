//! How the connections of a drain became fewer: a bounded history for a small picture.

/// Points of the picture; a screen shows hardly more in the width of a word.
const MAX_POINTS: usize = 120;

/// The remaining connections over the time of a drain, a look after the other. When it is full, every
/// other point goes and looks become half as frequent, so that it always shows the whole drain.
#[derive(Clone, Debug)]
pub(super) struct Fall {
    points: Vec<u32>,
    /// Looks per point.
    stride: u32,
    skipped: u32,
}

impl Default for Fall {
    fn default() -> Self {
        Fall { points: Vec::new(), stride: 1, skipped: 0 }
    }
}

impl Fall {
    /// A look at what remains.
    pub(super) fn note(&mut self, remaining: u64) {
        self.skipped += 1;
        if self.skipped < self.stride && !self.points.is_empty() {
            return;
        }
        self.skipped = 0;
        if self.points.len() == MAX_POINTS {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride = self.stride.saturating_mul(2);
        }
        self.points.push(u32::try_from(remaining).unwrap_or(u32::MAX));
    }

    /// Forgets everything: there is no drain.
    pub(super) fn clear(&mut self) {
        if !self.points.is_empty() {
            *self = Fall::default();
        }
    }

    /// The points, oldest first.
    pub(super) fn points(&self) -> &[u32] {
        &self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_whole_of_a_long_drain_in_few_points() {
        let mut fall = Fall::default();
        for remaining in (0..10_000_u64).rev() {
            fall.note(remaining);
        }
        let points = fall.points();
        assert!(points.len() <= MAX_POINTS && points.len() >= MAX_POINTS / 2, "{}", points.len());
        assert_eq!(points[0], 9_999);
        assert!(points.windows(2).all(|pair| pair[1] < pair[0]), "{points:?}");
        assert!(*points.last().expect("points") < 300, "{points:?}");
    }
}
