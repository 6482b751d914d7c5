//! The permutations of numpy's legacy generator, by which published orders of classes were drawn:
//! `numpy.random.seed(1993); numpy.random.permutation(100)`.
//!
//! The generator is MT19937 (Matsumoto and Nishimura, 1998), seeded by Knuth's recurrence; a number up to a bound is drawn by masks and
//! rejection, and the shuffle is that of Fisher and Yates from the end on.

use crate::error::{Error, Result};

const WORDS: usize = 624;
const SHIFT: usize = 397;

struct Mt19937 {
    state: [u32; WORDS],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Mt19937 {
        let mut state = [seed; WORDS];
        for place in 1..WORDS {
            let last = state[place - 1];
            state[place] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(place as u32);
        }
        Mt19937 { state, next: WORDS }
    }

    fn renew(&mut self) {
        for place in 0..WORDS {
            let joined = (self.state[place] & 0x8000_0000) | (self.state[(place + 1) % WORDS] & 0x7fff_ffff);
            let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[place] = self.state[(place + SHIFT) % WORDS] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }

    fn draw(&mut self) -> u32 {
        if self.next == WORDS {
            self.renew();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number from 0 to `most`, 1 at least.
    fn up_to(&mut self, most: u32) -> u32 {
        let mask = u32::MAX >> most.leading_zeros();
        loop {
            let number = self.draw() & mask;
            if number <= most {
                return number;
            }
        }
    }
}

/// What numpy's `random.seed(seed)` and `random.permutation(count)` give: the numbers 0 to `count` - 1.
pub(crate) fn permutation(seed: u32, count: usize) -> Vec<u32> {
    let mut generator = Mt19937::new(seed);
    let mut order: Vec<u32> = (0..count as u32).collect();
    for place in (1..count).rev() {
        order.swap(place, generator.up_to(place as u32) as usize);
    }
    order
}

/// The seed that `numpy:SEED` names; `None` where `name` is no such thing. Fails when the seed is none of numpy's.
pub(crate) fn seed_of(name: &str) -> Option<Result<u32>> {
    let seed = name.strip_prefix("numpy:")?;
    Some(seed.trim().parse().map_err(|_| {
        Error::input(format!(
            "found '{name}', expected numpy: and a whole number from 0 to {}, as numpy:1993",
            u32::MAX
        ))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_those_that_numpy_draws() {
        let text = include_str!("../../tests/fixtures/numpy/permutations.json");
        let rows: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        assert_eq!(rows.len(), 10);
        for row in rows {
            let order: Vec<u32> = serde_json::from_value(row["order"].clone()).unwrap();
            let seed = row["seed"].as_u64().unwrap() as u32;
            assert_eq!(permutation(seed, order.len()), order, "seed {seed}");
        }
    }

    #[test]
    fn a_seed_is_a_number_of_32_bits() {
        assert!(seed_of("cifar100").is_none());
        assert_eq!(seed_of("numpy:1993").unwrap().unwrap(), 1993);
        for wrong in ["numpy:", "numpy:-1", "numpy:4294967296", "numpy:x"] {
            let message = seed_of(wrong).unwrap().unwrap_err().to_string();
            assert!(message.contains("a whole number from 0 to 4294967295"), "{message}");
        }
    }
}
