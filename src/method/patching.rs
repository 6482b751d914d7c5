//! Patching (PAINT, arXiv 2208.05592): w~_t = (1 - alpha) w~_{t-1} + alpha w_t over all weights, with the alpha that does best on samples
//! that were held back.

use serde::{Deserialize, Serialize};

use super::clip::{ClipLoss, TEXTS};
use super::contrast::Contrast;
use super::{Closing, Entry, Method, Row};
use crate::error::Result;
use crate::ops::Plan;
use crate::train::{Objective, Planned, Recipe};

pub(crate) const ENTRY: Entry = Entry::new(
    Row {
        name: "patching",
        summary: "sequential, whose weights are interpolated with those before the step (PAINT)",
        ..TEXTS
    },
    |row, chosen| Box::new(Patching { row, settings: chosen.patching.clone() }),
);

/// `[patching]`: how the method chooses alpha, by which it interpolates weights (arXiv 2208.05592).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PatchingSettings {
    /// The share of every step's training samples that is held back to choose alpha on.
    pub validation: f64,
    /// Whether the step's own validation samples count beside those of earlier steps. docs/methods.md asks for earlier ones alone.
    pub own: bool,
}

impl Default for PatchingSettings {
    fn default() -> Self {
        PatchingSettings { validation: 0.1, own: false }
    }
}

struct Patching {
    row: Row,
    settings: PatchingSettings,
}

impl Recipe for Patching {
    fn keeps_start(&self) -> bool {
        true
    }

    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        Box::new(ClipLoss { contrast: Contrast::plan(plan, planned) })
    }
}

impl Method for Patching {
    fn row(&self) -> &Row {
        &self.row
    }

    fn held_back(&self) -> f64 {
        self.settings.validation
    }

    fn close(&self, closing: &mut dyn Closing) -> Result<()> {
        let step = closing.step();
        if step == 0 {
            return Ok(());
        }
        let steps = if self.settings.own { step + 1 } else { step };
        let trained = closing.trainer().parameters();
        let mut scores = Vec::new();
        for alpha in alphas() {
            closing.trainer().interpolate(&trained, alpha);
            scores.push((alpha, closing.measure(steps)?));
        }
        let alpha = choose_alpha(&scores);
        closing.trainer().interpolate(&trained, alpha);
        closing.trainer().device.health()?;
        closing.note("alpha", alpha)
    }
}

/// The alphas that are tried: 0, 0.1, ..., 1.
pub(crate) fn alphas() -> impl Iterator<Item = f64> {
    (0..=10).map(|tenth| f64::from(tenth) / 10.0)
}

/// The alpha with the best mean score over the tasks; of equals the largest, which keeps most of what was learnt. `scores` holds a
/// score for each task and alpha; tasks without one do not count. 1 where nothing can be told.
pub(crate) fn choose_alpha(scores: &[(f64, Vec<Option<f64>>)]) -> f64 {
    let mut best = (1.0, f64::NEG_INFINITY);
    for (alpha, tasks) in scores {
        let known: Vec<f64> = tasks.iter().copied().flatten().collect();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        // NaN, where no task has a score, is never better.
        if mean >= best.1 {
            best = (*alpha, mean);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_mean_wins_and_of_equals_the_largest_alpha() {
        let scores = vec![
            (0.0, vec![Some(0.5), Some(0.1)]),
            (0.5, vec![Some(0.4), Some(0.4)]),
            (0.7, vec![Some(0.6), Some(0.2)]),
            (1.0, vec![Some(0.1), Some(0.6)]),
        ];
        assert_eq!(choose_alpha(&scores), 0.7);
        assert_eq!(choose_alpha(&[(0.3, vec![None, Some(0.5)]), (0.6, vec![None, Some(0.2)])]), 0.3);
        assert_eq!(choose_alpha(&[(0.0, vec![None]), (0.5, vec![])]), 1.0, "no earlier task: all of the new weights");
        assert_eq!(alphas().collect::<Vec<_>>().len(), 11);
        assert_eq!(alphas().nth(3), Some(0.3));
    }
}
