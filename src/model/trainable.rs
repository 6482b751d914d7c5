//! Which parameters are trained: a set of stretches of the arena.

use std::ops::Range;

/// Stretches of a parameter arena, ascending and apart. Gradients and moments are planned for these alone, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trainable {
    ranges: Vec<Range<usize>>,
}

/// A stretch that is trained, and where its gradients and moments lie in theirs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Where its parameters lie in the arena.
    pub arena: Range<usize>,
    /// Where its gradients and moments lie in the arenas of what can be trained: of the same length.
    pub gradients: Range<usize>,
}

impl Trainable {
    /// The union of `ranges`, in any order; those that touch are joined.
    pub(crate) fn new(ranges: impl IntoIterator<Item = Range<usize>>) -> Trainable {
        let mut given: Vec<Range<usize>> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        given.sort_by_key(|range| range.start);
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for range in given {
            match ranges.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => ranges.push(range),
            }
        }
        Trainable { ranges }
    }

    /// One stretch.
    pub fn stretch(range: Range<usize>) -> Trainable {
        Trainable::new(std::iter::once(range))
    }

    /// Elements in all.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(Range::len).sum()
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn contains(&self, offset: usize) -> bool {
        self.ranges.iter().any(|range| range.contains(&offset))
    }

    /// Where the gradient of the element at `offset` lies; none where it is not trained.
    pub(crate) fn place(&self, offset: usize) -> Option<usize> {
        let mut before = 0;
        for range in &self.ranges {
            if range.contains(&offset) {
                return Some(before + offset - range.start);
            }
            before += range.len();
        }
        None
    }

    /// The part `some` of what can be trained. Panics where `some` leaves it: a bug of the caller.
    pub(crate) fn pieces(&self, some: &Trainable) -> Vec<Piece> {
        let piece = |range: &Range<usize>| {
            let whole = self.ranges.iter().any(|known| known.start <= range.start && range.end <= known.end);
            assert!(whole, "{range:?} is to be trained and was not planned for");
            let start = self.place(range.start).expect("it lies inside");
            Piece { arena: range.clone(), gradients: start..start + range.len() }
        };
        some.ranges.iter().map(piece).collect()
    }

    /// The values of these stretches, out of those of a whole arena.
    pub(crate) fn select(&self, arena: &[f32]) -> Vec<f32> {
        self.ranges.iter().flat_map(|range| &arena[range.clone()]).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_joined_and_their_gradients_lie_one_after_the_other() {
        let all = Trainable::new([64..128, 0..64, 256..320, 300..330, 5..5]);
        assert_eq!(all.ranges, [0..128, 256..330]);
        assert_eq!((all.len(), all.is_empty()), (128 + 74, false));
        assert_eq!(
            [0, 127, 128, 256, 329, 330].map(|offset| all.place(offset)),
            [Some(0), Some(127), None, Some(128), Some(201), None]
        );
        let some = Trainable::new([64..128, 300..310]);
        let expected = [(64..128, 64..128), (300..310, 172..182)];
        assert_eq!(all.pieces(&some), expected.map(|(arena, gradients)| Piece { arena, gradients }));
        let arena: Vec<f32> = (0..330).map(|i| i as f32).collect();
        assert_eq!(some.select(&arena)[62..66], [126.0, 127.0, 300.0, 301.0]);
    }

    #[test]
    #[should_panic(expected = "was not planned for")]
    fn what_was_not_planned_for_is_not_trained() {
        Trainable::stretch(0..64).pieces(&Trainable::stretch(32..96));
    }
}
