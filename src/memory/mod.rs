//! Replay: which earlier samples are kept and seen again (docs/methods.md, section 3).

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::data::Label;
use crate::error::{Error, Result};
use crate::rng::{rng, shuffle};

/// A memory of constant total size M: floor(M / classes seen) samples of each class, chosen uniformly at random.
///
/// Every sample has a priority, drawn once from the run's seed and its index, and a class keeps those of the
/// smallest. So what is kept of a class is a uniform choice among all its samples ever seen, also when the class
/// shows up again in a later domain or period, and a shrinking memory keeps a part of what it had. A class with
/// fewer samples than its share keeps what it has; the rest of the share stays unused and is not given to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    capacity: usize,
    seed: u64,
    /// For every class seen, also one of which nothing is kept: indices, smallest priority first.
    kept: BTreeMap<Label, Vec<u32>>,
}

/// What a memory holds as plain lists, for the state of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryState {
    /// The classes seen, ascending.
    pub classes: Vec<Label>,
    /// How many samples of each class are kept.
    pub counts: Vec<u32>,
    /// The samples, class by class.
    pub indices: Vec<u32>,
}

impl Memory {
    /// An empty memory of M = `capacity` samples; 0 keeps none.
    pub fn new(capacity: usize, seed: u64) -> Memory {
        Memory { capacity, seed, kept: BTreeMap::new() }
    }

    /// The share of each class: floor(M / classes seen).
    pub(crate) fn share(&self) -> usize {
        self.capacity / self.kept.len().max(1)
    }

    /// What is kept of a class, smallest priority first.
    pub(crate) fn of_class(&self, class: Label) -> &[u32] {
        self.kept.get(&class).map_or(&[], Vec::as_slice)
    }

    /// All that is kept, ascending.
    pub(crate) fn indices(&self) -> Vec<u32> {
        let mut indices: Vec<u32> = self.kept.values().flatten().copied().collect();
        indices.sort_unstable();
        indices
    }

    /// Takes in the samples (index, class) of a finished step. Returns, ascending, the samples that are not
    /// kept: those that left and those that were not taken. Their state is given up. Samples that are
    /// already kept may be among `new`.
    pub fn update(&mut self, new: &[(u32, Label)]) -> Vec<u32> {
        let seed = self.seed;
        self.update_by(new, |mut samples, _| {
            samples.sort_by_cached_key(|index| (priority(seed, *index), *index));
            samples
        })
    }

    /// The same with another choice: `rank` brings the samples of a class, those kept and those new, ascending, into the order in
    /// which they are to be kept; of this many first ones it matters.
    pub(crate) fn update_by(&mut self, new: &[(u32, Label)], rank: impl Fn(Vec<u32>, usize) -> Vec<u32>) -> Vec<u32> {
        for (_, class) in new {
            self.kept.entry(*class).or_default();
        }
        let share = self.share();
        let mut candidates: BTreeMap<Label, Vec<u32>> = BTreeMap::new();
        for (index, class) in new {
            candidates.entry(*class).or_default().push(*index);
        }
        let mut released = Vec::new();
        for (class, kept) in &mut self.kept {
            if let Some(new) = candidates.remove(class) {
                let all: BTreeSet<u32> = kept.drain(..).chain(new).collect();
                *kept = rank(all.into_iter().collect(), share);
            }
            released.extend(kept.drain(share.min(kept.len())..));
        }
        released.sort_unstable();
        released
    }

    pub(crate) fn state(&self) -> MemoryState {
        MemoryState {
            classes: self.kept.keys().copied().collect(),
            counts: self.kept.values().map(|kept| kept.len() as u32).collect(),
            indices: self.kept.values().flatten().copied().collect(),
        }
    }

    /// The memory that had this state. It is an error of input if the lists do not fit one another or the capacity.
    pub(crate) fn restore(capacity: usize, seed: u64, state: &MemoryState) -> Result<Memory> {
        let wrong = |what: &str| Err(Error::input(format!("the state of the memory is damaged: {what}")));
        let mut memory = Memory::new(capacity, seed);
        if state.classes.len() != state.counts.len() {
            return wrong("there are not as many counts as classes");
        }
        if state.counts.iter().map(|count| *count as u64).sum::<u64>() != state.indices.len() as u64 {
            return wrong("the counts do not add up to the number of samples");
        }
        if state.indices.iter().collect::<BTreeSet<_>>().len() != state.indices.len() {
            return wrong("a sample is kept twice");
        }
        let mut rest = state.indices.as_slice();
        for (class, count) in state.classes.iter().zip(&state.counts) {
            let (mine, others) = rest.split_at(*count as usize);
            if memory.kept.insert(*class, mine.to_vec()).is_some() {
                return wrong("a class occurs twice");
            }
            rest = others;
        }
        if memory.kept.values().any(|kept| kept.len() > memory.share()) {
            return wrong("a class keeps more than its share of the capacity");
        }
        Ok(memory)
    }
}

/// A sample's place in the queue for the memory.
fn priority(seed: u64, index: u32) -> u64 {
    rng(seed, "memory", &[index as u64]).random()
}

/// How much of the earlier steps a time-continual step sees again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayRule {
    /// Every earlier sample.
    All,
    /// D in all: half for the step before, a quarter for the one before that, ..., the oldest two equal.
    Exp,
    /// D in all, in equal parts.
    Equal,
}

/// How many samples of each earlier step are seen again at step t = `earlier.len()` + 1 (docs/methods.md, section 3;
/// TiC-CLIP, arXiv 2310.16226). `earlier` are the sizes of the steps 1 to t - 1, and `step_size` is D, the size of
/// one step. Where D does not divide, the later steps have one more. A step gives no more than it has; the rest is
/// not taken from others.
pub fn replay_counts(rule: ReplayRule, step_size: usize, earlier: &[usize]) -> Vec<usize> {
    let steps = earlier.len();
    let mut rest = step_size;
    let mut counts = vec![0; steps];
    for (step, count) in counts.iter_mut().enumerate().rev() {
        *count = match rule {
            ReplayRule::All => usize::MAX,
            ReplayRule::Exp if step == 0 => rest,
            ReplayRule::Exp => rest.div_ceil(2),
            ReplayRule::Equal => rest.div_ceil(step + 1),
        };
        rest = rest.saturating_sub(*count);
    }
    counts.iter().zip(earlier).map(|(count, size)| *count.min(size)).collect()
}

/// A random choice of `count` of `samples`, ascending; all of them if there are no more. `place` names the draw,
/// for instance [step, earlier step].
pub(crate) fn subsample(samples: &[u32], count: usize, seed: u64, place: &[u64]) -> Vec<u32> {
    let mut chosen = samples.to_vec();
    if count < samples.len() {
        shuffle(&mut chosen, &mut rng(seed, "replay", place));
        chosen.truncate(count);
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples `range` in turn of `classes` classes from `first` on.
    fn samples(range: std::ops::Range<u32>, first: u32, classes: u32) -> Vec<(u32, Label)> {
        range.map(|index| (index, Label(first + index % classes))).collect()
    }

    #[test]
    fn every_class_keeps_its_share_and_the_rest_is_released() {
        let mut memory = Memory::new(10, 1);
        let released = memory.update(&samples(0..40, 0, 2));
        assert_eq!((memory.of_class(Label(0)).len(), memory.of_class(Label(1)).len()), (5, 5));
        assert_eq!(released.len(), 30);
        let before = memory.clone();
        let released = memory.update(&samples(40..60, 2, 1));
        assert_eq!([0, 1, 2].map(|class| memory.of_class(Label(class)).len()), [3, 3, 3]);
        assert_eq!(released.len(), 2 + 2 + 17);
        for class in [0, 1] {
            assert_eq!(memory.of_class(Label(class)), &before.of_class(Label(class))[..3]);
        }
        let indices = memory.indices();
        assert!(indices.is_sorted() && indices.iter().all(|index| released.binary_search(index).is_err()));
    }

    #[test]
    fn the_total_never_exceeds_the_capacity() {
        for capacity in [0, 1, 7, 50] {
            let mut memory = Memory::new(capacity, 3);
            let (mut seen, mut previous) = (BTreeSet::new(), BTreeSet::new());
            for step in 0..12 {
                let new = samples(step * 30..step * 30 + 30, step, 3);
                let released = memory.update(&new);
                let kept: BTreeSet<u32> = memory.indices().into_iter().collect();
                assert!(kept.len() <= capacity, "{} of {capacity}", kept.len());
                // Kept and released are what was there and what came.
                seen.extend(new.iter().map(|(_, class)| *class));
                let came: BTreeSet<u32> = previous.iter().copied().chain(new.iter().map(|(index, _)| *index)).collect();
                let after: BTreeSet<u32> = kept.iter().copied().chain(released.iter().copied()).collect();
                assert_eq!((came, kept.len() + released.len()), (after.clone(), after.len()));
                assert!(seen.iter().all(|class| memory.of_class(*class).len() <= capacity / seen.len()));
                previous = kept;
            }
        }
    }

    #[test]
    fn a_class_with_few_samples_keeps_them_all() {
        let mut memory = Memory::new(100, 0);
        assert_eq!(memory.update(&[(5, Label(0)), (6, Label(0)), (7, Label(1))]), [0u32; 0]);
        assert_eq!(memory.indices(), [5, 6, 7]);
    }

    #[test]
    fn a_sample_that_comes_again_is_kept_once() {
        let mut memory = Memory::new(4, 0);
        let class = Label(0);
        memory.update(&[(1, class), (2, class), (2, class)]);
        assert_eq!(memory.update(&[(2, class), (1, class)]), [0u32; 0]);
        assert_eq!(memory.indices(), [1, 2]);
    }

    #[test]
    fn a_class_that_comes_again_is_kept_as_if_it_had_come_at_once() {
        let mut at_once = Memory::new(20, 9);
        at_once.update(&samples(0..300, 0, 2));
        let mut in_parts = Memory::new(20, 9);
        for part in 0..3 {
            in_parts.update(&samples(part * 100..part * 100 + 100, 0, 2));
        }
        assert_eq!(at_once, in_parts);
    }

    #[test]
    fn another_choice_keeps_the_first_of_its_order() {
        let mut memory = Memory::new(6, 0);
        let largest_first = |mut samples: Vec<u32>, _: usize| {
            samples.reverse();
            samples
        };
        memory.update_by(&samples(0..20, 0, 2), largest_first);
        assert_eq!((memory.of_class(Label(0)), memory.of_class(Label(1))), (&[18, 16, 14][..], &[19, 17, 15][..]));
        let released = memory.update_by(&samples(20..24, 2, 1), largest_first);
        assert_eq!((memory.of_class(Label(0)), memory.of_class(Label(2))), (&[18, 16][..], &[23, 22][..]));
        assert_eq!(released, [14, 15, 20, 21]);
    }

    #[test]
    fn the_choice_is_uniform() {
        // 40 samples come in two halves, 10 are kept, 2000 seeds: each sample is kept 500 times on average. Drawing
        // without replacement, (n - 1) / n sum (kept - 500)^2 / (500 * 3/4) is chi-square with n - 1 = 39 degrees
        // of freedom: mean 39, standard deviation 8.8. Six of them above: 92.
        let mut kept = [0u32; 40];
        for seed in 0..2000 {
            let mut memory = Memory::new(10, seed);
            memory.update(&samples(0..20, 0, 1));
            memory.update(&samples(20..40, 0, 1));
            memory.indices().iter().for_each(|index| kept[*index as usize] += 1);
        }
        let chi_square: f64 =
            kept.iter().map(|count| (*count as f64 - 500.0).powi(2) / (500.0 * 0.75)).sum::<f64>() * 39.0 / 40.0;
        assert!(chi_square < 92.0, "{chi_square}: {kept:?}");
    }

    #[test]
    fn the_seed_decides() {
        let kept = |seed| {
            let mut memory = Memory::new(10, seed);
            memory.update(&samples(0..100, 0, 2));
            memory.indices()
        };
        assert_eq!(kept(1), kept(1));
        assert_ne!(kept(1), kept(2));
    }

    #[test]
    fn a_restored_memory_goes_on_as_the_original() {
        let mut memory = Memory::new(9, 4);
        memory.update(&samples(0..30, 0, 3));
        let mut restored = Memory::restore(9, 4, &memory.state()).unwrap();
        assert_eq!(restored, memory);
        assert_eq!(restored.update(&samples(30..60, 3, 2)), memory.update(&samples(30..60, 3, 2)));
        assert_eq!(restored, memory);
        // Nothing of any class is kept, but the classes have been seen.
        let mut empty = Memory::new(0, 4);
        empty.update(&samples(0..30, 0, 3));
        assert_eq!(Memory::restore(0, 4, &empty.state()).unwrap(), empty);
    }

    #[test]
    fn a_damaged_state_is_refused() {
        let wrong = |classes: &[u32], counts: &[u32], indices: &[u32]| {
            let state = MemoryState {
                classes: classes.iter().copied().map(Label).collect(),
                counts: counts.to_vec(),
                indices: indices.to_vec(),
            };
            Memory::restore(4, 0, &state).unwrap_err().to_string()
        };
        assert!(wrong(&[0], &[], &[]).contains("not as many counts as classes"));
        assert!(wrong(&[0], &[3], &[1, 2]).contains("do not add up"));
        assert!(wrong(&[0, 1], &[1, 1], &[5, 5]).contains("a sample is kept twice"));
        assert!(wrong(&[0, 0], &[1, 1], &[5, 6]).contains("a class occurs twice"));
        assert!(wrong(&[0, 1], &[3, 1], &[5, 6, 7, 8]).contains("more than its share"));
    }

    #[test]
    fn replay_counts_are_exact() {
        let counts = |rule, t: usize| replay_counts(rule, 64, &vec![64; t - 1]);
        let exp: [&[usize]; 7] =
            [&[], &[64], &[32, 32], &[16, 16, 32], &[8, 8, 16, 32], &[4, 4, 8, 16, 32], &[2, 2, 4, 8, 16, 32]];
        let equal: [&[usize]; 7] =
            [&[], &[64], &[32, 32], &[21, 21, 22], &[16, 16, 16, 16], &[12, 13, 13, 13, 13], &[10, 10, 11, 11, 11, 11]];
        for t in 1..=7 {
            assert_eq!(counts(ReplayRule::All, t), vec![64; t - 1]);
            assert_eq!(counts(ReplayRule::Exp, t), exp[t - 1]);
            assert_eq!(counts(ReplayRule::Equal, t), equal[t - 1]);
        }
    }

    #[test]
    fn replay_takes_no_more_than_there_is() {
        assert_eq!(replay_counts(ReplayRule::All, 64, &[5, 1000, 0]), [5, 1000, 0]);
        assert_eq!(replay_counts(ReplayRule::Exp, 64, &[5, 1000, 30]), [5, 16, 30]);
        assert_eq!(replay_counts(ReplayRule::Equal, 64, &[5, 1000, 0]), [5, 21, 0]);
        // Odd sizes: D in all, and the later steps have the larger parts.
        assert_eq!(replay_counts(ReplayRule::Exp, 7, &[9; 4]), [0, 1, 2, 4]);
        assert_eq!(replay_counts(ReplayRule::Equal, 7, &[9; 4]), [1, 2, 2, 2]);
    }

    #[test]
    fn a_subsample_is_a_random_part() {
        let samples: Vec<u32> = (100..200).collect();
        let chosen = subsample(&samples, 20, 1, &[3, 1]);
        assert!(chosen.len() == 20 && chosen.is_sorted_by(|a, b| a < b));
        assert!(chosen.iter().all(|index| samples.contains(index)));
        assert_eq!(chosen, subsample(&samples, 20, 1, &[3, 1]));
        assert_ne!(chosen, subsample(&samples, 20, 1, &[3, 2]));
        assert_eq!(subsample(&samples, 500, 1, &[]), samples);
    }
}
