//! Random numbers that depend on nothing but the run's seed and the place where they are used.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

/// A portable generator: the same numbers on every platform and in every version.
pub type Rng = ChaCha8Rng;

/// The generator of one place: `purpose` names it, `indices` say which of its kind (step, epoch, sample, ...). Nothing has
/// to be saved for a resume, and no use of one place shifts the numbers of another.
pub fn rng(seed: u64, purpose: &str, indices: &[u64]) -> Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((purpose.len() as u64).to_le_bytes());
    hash.update(purpose.as_bytes());
    for index in indices {
        hash.update(index.to_le_bytes());
    }
    Rng::from_seed(hash.finalize().into())
}

/// Shuffles in place (Fisher-Yates), spelled out because its order of draws is part of our results.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last as u64 + 1) as usize);
    }
}

/// A uniform integer in [0, bound), by rejection.
pub fn below(rng: &mut Rng, bound: u64) -> u64 {
    let zone = u64::MAX - u64::MAX % bound;
    loop {
        let draw: u64 = rng.random();
        if draw < zone {
            return draw % bound;
        }
    }
}

/// A uniform number in [0, 1) with 53 random bits.
pub fn unit(rng: &mut Rng) -> f64 {
    (rng.random::<u64>() >> 11) as f64 / (1u64 << 53) as f64
}

/// A normal number by Box and Muller.
pub fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(rng)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_independent_and_reproducible() {
        let draw = |purpose, indices: &[u64]| rng(7, purpose, indices).random::<u64>();
        assert_eq!(draw("shuffle", &[1, 2]), draw("shuffle", &[1, 2]));
        assert_ne!(draw("shuffle", &[1, 2]), draw("shuffle", &[2, 1]));
        assert_ne!(draw("shuffle", &[1]), draw("crop", &[1]));
    }

    #[test]
    fn shuffle_permutes_evenly() {
        let mut counts = [[0; 4]; 4];
        for trial in 0..4000 {
            let mut items = [0, 1, 2, 3];
            shuffle(&mut items, &mut rng(0, "test", &[trial]));
            for (place, item) in items.into_iter().enumerate() {
                counts[place][item] += 1;
            }
        }
        // 4000 trials, probability 1/4: standard deviation 27; six of them either way.
        assert!(counts.iter().flatten().all(|&count: &i32| (count - 1000).abs() < 165), "{counts:?}");
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut generator = rng(1, "normal", &[]);
        let draws: Vec<f64> = (0..40_000).map(|_| normal(&mut generator)).collect();
        let mean = draws.iter().sum::<f64>() / 40_000.0;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / 40_000.0;
        // Standard errors 0.005 and 0.0071; five of them.
        assert!(mean.abs() < 0.025 && (variance - 1.0).abs() < 0.036, "mean {mean}, variance {variance}");
    }
}
