//! Which samples go into which batch of a step.

use crate::rng::{rng, shuffle};

/// The batches of one step: epochs over a pool, each in an order of its own, until the budget of samples is spent.
/// Batch i depends on the seed, the step and i alone, so a resumed step needs nothing but i.
#[derive(Clone, Debug)]
pub struct Order {
    pool: Vec<u32>,
    /// Batches of an epoch; their sizes differ by at most one, so that no epoch ends in a crumb.
    per_epoch: usize,
    iterations: usize,
    seed: u64,
    step: u64,
    /// The last epoch that was asked for, shuffled.
    epoch: Option<(usize, Vec<u32>)>,
}

impl Order {
    /// `budget` samples of `pool` in batches of at most `batch`. Panics without samples: the caller checks its steps.
    pub fn new(pool: Vec<u32>, budget: usize, batch: usize, seed: u64, step: usize) -> Order {
        assert!(!pool.is_empty() && batch > 0, "a step trains on at least one sample");
        let per_epoch = pool.len().div_ceil(batch);
        // Whole epochs, and as much of one more as the rest allows; at least one batch.
        let (epochs, rest) = (budget / pool.len(), budget % pool.len());
        let iterations = epochs * per_epoch + (rest * per_epoch + pool.len() / 2) / pool.len();
        Order { pool, per_epoch, iterations: iterations.max(1), seed, step: step as u64, epoch: None }
    }

    /// What it draws from.
    pub(crate) fn pool(&self) -> &[u32] {
        &self.pool
    }

    /// Batches of the whole step.
    pub fn iterations(&self) -> usize {
        self.iterations
    }

    /// Epochs, the last perhaps a part.
    pub(crate) fn epochs(&self) -> usize {
        self.iterations.div_ceil(self.per_epoch)
    }

    /// The epoch of an iteration.
    pub fn epoch_of(&self, iteration: usize) -> usize {
        iteration / self.per_epoch
    }

    /// The samples of one batch.
    pub fn batch(&mut self, iteration: usize) -> Vec<u32> {
        let (epoch, batch) = (iteration / self.per_epoch, iteration % self.per_epoch);
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            let mut samples = self.pool.clone();
            shuffle(&mut samples, &mut rng(self.seed, "order", &[self.step, epoch as u64]));
            self.epoch = Some((epoch, samples));
        }
        let samples = &self.epoch.as_ref().expect("the epoch was just made").1;
        let edge = |batch: usize| batch * samples.len() / self.per_epoch;
        samples[edge(batch)..edge(batch + 1)].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn every_epoch_holds_every_sample_once() {
        let mut order = Order::new((100..203).collect(), 309, 10, 7, 2);
        assert_eq!((order.iterations(), order.epochs()), (33, 3));
        for epoch in 0..3 {
            let mut seen: Vec<u32> = (0..11).flat_map(|batch| order.batch(epoch * 11 + batch)).collect();
            let shuffled = seen.clone();
            seen.sort_unstable();
            assert_eq!(seen, (100..203).collect::<Vec<_>>());
            assert_ne!(seen, shuffled);
        }
        assert_ne!(order.batch(0), order.batch(11), "epochs differ");
    }

    #[test]
    fn batches_can_be_asked_for_in_any_order() {
        let make = || Order::new((0..50).collect(), 120, 7, 1, 0);
        let mut forward = make();
        let batches: Vec<_> = (0..forward.iterations()).map(|i| forward.batch(i)).collect();
        let mut backward = make();
        for i in (0..batches.len()).rev() {
            assert_eq!(backward.batch(i), batches[i]);
        }
        assert!(batches.iter().all(|batch| batch.len() == 6 || batch.len() == 7), "no crumbs");
    }

    #[test]
    fn the_budget_is_kept_to_within_a_batch() {
        for (pool, budget, batch) in [(64, 1000, 64), (37, 5, 16), (500, 333, 64), (10, 10, 10)] {
            let mut order = Order::new((0..pool).collect(), budget, batch, 0, 0);
            let spent: usize = (0..order.iterations()).map(|i| order.batch(i).len()).sum();
            assert!(spent.abs_diff(budget) <= batch, "{spent} of {budget}");
        }
    }
}
