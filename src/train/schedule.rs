//! The learning rate over a step: linear warm-up, then a cosine to zero.

/// The schedule of one step of a run (docs/methods.md section 6).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The learning rate after the warm-up, the highest.
    pub maximum: f64,
    /// Iterations of warm-up; 0 where a step has none.
    pub warmup: usize,
    /// Iterations in all.
    pub total: usize,
}

impl Schedule {
    /// The learning rate of iteration `iteration`, counted from 0: open_clip's rule.
    pub fn at(&self, iteration: usize) -> f64 {
        if iteration < self.warmup {
            return self.maximum * (iteration + 1) as f64 / self.warmup as f64;
        }
        let part = (iteration - self.warmup) as f64 / (self.total.max(self.warmup + 1) - self.warmup) as f64;
        0.5 * (1.0 + (std::f64::consts::PI * part).cos()) * self.maximum
    }
}

#[cfg(test)]
mod tests {
    use approx::abs_diff_eq;

    use super::Schedule;

    #[test]
    fn rises_in_a_line_and_falls_by_a_cosine() {
        let schedule = Schedule { maximum: 2.0, warmup: 4, total: 12 };
        let rates: Vec<f64> = (0..12).map(|iteration| schedule.at(iteration)).collect();
        assert_eq!(rates[..5], [0.5, 1.0, 1.5, 2.0, 2.0]);
        assert!(abs_diff_eq!(rates[8], 1.0, epsilon = 1e-12), "half way down the cosine");
        assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]) && rates[11] > 0.0);
    }

    #[test]
    fn without_warmup_it_starts_at_the_maximum() {
        assert_eq!(Schedule { maximum: 1.0, warmup: 0, total: 10 }.at(0), 1.0);
    }
}
