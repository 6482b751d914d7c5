//! RAIL (arXiv 2406.18868): ridge regression on unit embeddings f, whose answer joins the texts' where these name a class that was learnt:
//! p = softmax(s f T) over all classes; where its largest is of a learnt class, p = (1 - fusion) p + fusion h(f) W.
//!
//! Primal: h(f) = relu(f V), V drawn once. The paper's recursion, R <- R - R h^T (I + h R h^T)^-1 h R, W <- W + R h^T (Y - h W), comes to
//! W = (H^T H + lambda I)^-1 H^T Y over all steps, and this is what is solved. Dual: h(f) W = k(f, F) (K + lambda I)^-1 Y with
//! k(f, g) = exp(-kernel |f - g|^2), for which the embeddings of all samples are kept.

use std::sync::Arc;

use super::algebra::{Cholesky, multiply};
use super::fitted::{Classifier, FITTED, Feature, Fit, Fitted, Fitting, Sizes, inner_products, unit};
use super::ridge::{Map, Ridge, predict};
use super::{Entry, Row};
use crate::error::{Error, Result};
use crate::method_settings;
use crate::ops::cpu::MatrixView;
use crate::stream::ClassId;

pub(crate) const ENTRY: Entry = Entry {
    settings: &[RailSettings::GROUP],
    ..Entry::new(
        Row {
            name: "rail",
            summary: "ridge regression on random projections of embeddings, joined with the texts (RAIL)",
            ..FITTED
        },
        |row, chosen| Fitted::boxed(row, RailSettings::of(chosen.objective)),
    )
};

method_settings! {
    RailSettings in "rail" {
        /// values that the embedding is projected to; 0 for ridge regression on the embedding itself
        width: usize = 15000, 0.0..=1e6;
        /// lambda of the ridge regression
        lambda: f64 = 0.1, 1e-6..=1e8;
        /// weight of the regression where the texts name a class that was learnt
        fusion: f64 = 0.8, 0.0..=1.0;
        /// above 0 the dual form: the kernel exp(-kernel d^2) of embeddings at a distance d, in place of the projection
        kernel: f64 = 0.0, 0.0..=1e3;
    }
}

impl Fit for RailSettings {
    fn bytes(&self, Sizes { projected, classes, samples, .. }: Sizes) -> usize {
        match self.kernel > 0.0 {
            true => {
                let values = samples.saturating_mul(samples).saturating_mul(2);
                values.saturating_add(samples * (projected + classes)).saturating_mul(size_of::<f64>())
            }
            false => Ridge::bytes(projected, self.width, classes, samples),
        }
    }

    fn remedy(&self) -> &'static str {
        match self.kernel > 0.0 {
            true => "the form without a kernel, objective.rail.kernel 0",
            false => "a smaller objective.rail.width",
        }
    }

    fn open(&self, fitting: &mut Fitting) -> Box<dyn Classifier> {
        let Sizes { projected, classes, .. } = fitting.sizes;
        let regression: Box<dyn Regression> = match self.kernel > 0.0 {
            true => Box::new(Dual {
                gamma: self.kernel,
                width: projected,
                classes,
                rows: Vec::new(),
                labels: Vec::new(),
                weights: Vec::new(),
            }),
            false => {
                let map = Arc::new(Map::drawn(projected, self.width, fitting.seed));
                Box::new(Primal { ridge: Ridge::new(Arc::clone(&map), classes), map, weights: Vec::new() })
            }
        };
        Box::new(Rail {
            settings: self.clone(),
            classes,
            learnt: vec![false; classes],
            scale: fitting.scale,
            texts: (fitting.texts)().iter().map(|x| f64::from(*x)).collect(),
            regression,
        })
    }
}

struct Rail {
    settings: RailSettings,
    classes: usize,
    /// Which classes have had samples.
    learnt: Vec<bool>,
    /// s
    scale: f64,
    /// [classes, D]
    texts: Vec<f64>,
    regression: Box<dyn Regression>,
}

/// Ridge regression in either form, on unit embeddings [rows, D].
trait Regression: Send {
    fn take_in(&mut self, rows: &[f32], labels: &[ClassId]);
    /// Whether the system could be solved.
    fn solve(&mut self, lambda: f64) -> bool;
    /// [rows, classes]
    fn predict(&self, rows: &[f32]) -> Vec<f64>;
}

impl Classifier for Rail {
    fn take_in(&mut self, samples: &[(Feature, ClassId)]) {
        let labels: Vec<ClassId> = samples.iter().map(|(_, class)| *class).collect();
        labels.iter().for_each(|class| self.learnt[class.index()] = true);
        let rows: Vec<f32> =
            samples.iter().flat_map(|(feature, _)| unit(feature.projected)).map(|x| x as f32).collect();
        self.regression.take_in(&rows, &labels);
    }

    fn fit(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let lambda = self.settings.lambda;
        match self.regression.solve(lambda) {
            true => Ok(Vec::new()),
            false => Err(Error::run(format!(
                "rail: its ridge system is singular at objective.rail.lambda {lambda}: a larger one makes it regular"
            ))),
        }
    }

    fn scores(&self, pictures: &[Feature], classes: usize) -> Vec<f32> {
        let width = self.texts.len() / self.classes;
        let embeddings: Vec<f64> = pictures.iter().flat_map(|picture| unit(picture.projected)).collect();
        let rows: Vec<f32> = embeddings.iter().map(|x| *x as f32).collect();
        let logits = inner_products(&embeddings, &self.texts, width, classes);
        let found = self.regression.predict(&rows);
        let mut scores = Vec::with_capacity(logits.len());
        for (logits, found) in logits.chunks_exact(classes).zip(found.chunks_exact(self.classes)) {
            let (best, highest) = logits.iter().enumerate().fold((0, f64::NEG_INFINITY), |best, (class, logit)| {
                if *logit > best.1 { (class, *logit) } else { best }
            });
            let parts: Vec<f64> = logits.iter().map(|logit| (self.scale * (logit - highest)).exp()).collect();
            let all: f64 = parts.iter().sum();
            let fusion = if self.learnt[best] { self.settings.fusion } else { 0.0 };
            scores.extend(parts.iter().zip(found).map(|(p, found)| ((1.0 - fusion) * p / all + fusion * found) as f32));
        }
        scores
    }

    fn knows_names(&self) -> bool {
        true
    }
}

struct Primal {
    map: Arc<Map>,
    ridge: Ridge,
    weights: Vec<f64>,
}

impl Regression for Primal {
    fn take_in(&mut self, rows: &[f32], labels: &[ClassId]) {
        self.ridge.take_in(rows, labels);
    }

    fn solve(&mut self, lambda: f64) -> bool {
        let solution = self.ridge.solve(&[lambda]).pop().flatten();
        solution.map(|weights| self.weights = weights).is_some()
    }

    fn predict(&self, rows: &[f32]) -> Vec<f64> {
        predict(&self.map, rows, &self.weights)
    }
}

struct Dual {
    gamma: f64,
    width: usize,
    classes: usize,
    /// Unit embeddings of all samples [samples, width].
    rows: Vec<f64>,
    labels: Vec<ClassId>,
    /// (K + lambda I)^-1 Y by rows of classes [classes, samples].
    weights: Vec<f64>,
}

impl Dual {
    /// k of rows [count, width] and all samples [count, samples].
    fn kernel(&self, rows: &[f64]) -> Vec<f64> {
        let (count, samples) = (rows.len() / self.width, self.labels.len());
        let squares = |rows: &[f64]| -> Vec<f64> {
            rows.chunks_exact(self.width).map(|row| row.iter().map(|x| x * x).sum()).collect()
        };
        let (own, others) = (squares(rows), squares(&self.rows));
        let mut kernel = vec![0.0; count * samples];
        let (rows, all) = (MatrixView::rows(rows, self.width), MatrixView::rows(&self.rows, self.width).transposed());
        multiply([count, samples, self.width], rows, all, &mut kernel, false);
        for (row, own) in kernel.chunks_exact_mut(samples).zip(&own) {
            let distance = |dot: f64, other: &f64| (own + other - 2.0 * dot).max(0.0);
            row.iter_mut().zip(&others).for_each(|(k, other)| *k = (-self.gamma * distance(*k, other)).exp());
        }
        kernel
    }
}

impl Regression for Dual {
    fn take_in(&mut self, rows: &[f32], labels: &[ClassId]) {
        self.rows.extend(rows.iter().map(|x| f64::from(*x)));
        self.labels.extend_from_slice(labels);
    }

    fn solve(&mut self, lambda: f64) -> bool {
        let samples = self.labels.len();
        let Some(factor) = Cholesky::of(self.kernel(&self.rows), samples, lambda) else { return false };
        self.weights = vec![0.0; self.classes * samples];
        for (sample, class) in self.labels.iter().enumerate() {
            self.weights[class.index() * samples + sample] = 1.0;
        }
        factor.solve(&mut self.weights);
        true
    }

    fn predict(&self, rows: &[f32]) -> Vec<f64> {
        let rows: Vec<f64> = rows.iter().map(|x| f64::from(*x)).collect();
        let (count, samples) = (rows.len() / self.width, self.labels.len());
        let mut found = vec![0.0; count * self.classes];
        let kernel = self.kernel(&rows);
        let weights = MatrixView::rows(&self.weights, samples).transposed();
        multiply([count, self.classes, samples], MatrixView::rows(&kernel, samples), weights, &mut found, false);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::algebra::tests::eliminate;
    use crate::method::fitted::tests::{Data, scores_by_steps};
    use crate::rng::{normal, rng};

    /// p of the texts, joined with `found` where their first is one of `learnt`.
    fn joined(data: &Data, row: usize, classes: usize, fusion: f64, found: &[f64]) -> Vec<f64> {
        let f = data.embedding(row);
        let logit = |class: usize| -> f64 {
            10.0 * data.texts[class * f.len()..].iter().zip(&f).map(|(x, y)| f64::from(*x) * y).sum::<f64>()
        };
        let parts: Vec<f64> = (0..classes).map(|class| logit(class).exp()).collect();
        let all: f64 = parts.iter().sum();
        let best = (0..classes).max_by(|a, b| parts[*a].total_cmp(&parts[*b])).unwrap();
        let fusion = if (0..40).any(|row| data.label(row) == best) { fusion } else { 0.0 };
        parts.iter().zip(found).map(|(p, found)| (1.0 - fusion) * p / all + fusion * found).collect()
    }

    /// The paper's recursion over batches, R by its own updates, on h = relu(f V) of the first 40 samples.
    #[test]
    fn it_is_the_papers_recursion_joined_with_the_texts() {
        let (inputs, classes) = (6, 5);
        let data = Data::drawn(60, classes, [3, inputs]);
        // More columns than samples, and fewer.
        for width in [70, 24] {
            let settings = RailSettings { width, ..RailSettings::default() };
            let mut generator = rng(5, "random projection", &[]);
            let projection: Vec<f64> = (0..inputs * width).map(|_| normal(&mut generator)).collect();
            let wide = |row: usize| -> Vec<f64> {
                let f: Vec<f64> = data.embedding(row).iter().map(|x| f64::from(*x as f32)).collect();
                let sum = |at: usize| f.iter().enumerate().map(|(k, x)| x * projection[k * width + at]).sum::<f64>();
                (0..width).map(|at| sum(at).max(0.0)).collect()
            };
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            let mut inverse: Vec<Vec<f64>> = (0..width)
                .map(|i| (0..width).map(|j| if i == j { 1.0 / settings.lambda } else { 0.0 }).collect())
                .collect();
            let mut weights = vec![vec![0.0; width]; classes];
            // One sample at a time: I + h R h^T is a number.
            for row in 0..40 {
                let h = wide(row);
                let turned: Vec<f64> = inverse.iter().map(|row| dot(row, &h)).collect();
                let divisor = 1.0 + dot(&turned, &h);
                for (i, row) in inverse.iter_mut().enumerate() {
                    row.iter_mut().zip(&turned).for_each(|(x, y)| *x -= turned[i] * y / divisor);
                }
                let gain: Vec<f64> = inverse.iter().map(|row| dot(row, &h)).collect();
                for (class, weights) in weights.iter_mut().enumerate() {
                    let off = f64::from(u8::from(data.label(row) == class)) - dot(weights, &h);
                    weights.iter_mut().zip(&gain).for_each(|(w, gain)| *w += gain * off);
                }
            }
            let scores = scores_of(&settings, &data);
            for row in 0..60 {
                let found: Vec<f64> = weights.iter().map(|weights| dot(weights, &wide(row))).collect();
                let expected = joined(&data, row, classes, settings.fusion, &found);
                for (score, expected) in scores[row * classes..].iter().zip(expected) {
                    // f32, and forty steps of a recursion whose condition is below 1e5.
                    assert!((f64::from(*score) - expected).abs() < 2e-7, "{score} {expected}");
                }
            }
        }
    }

    fn scores_of(settings: &RailSettings, data: &Data) -> Vec<f32> {
        scores_by_steps(settings, data, &[0..13, 13..30, 30..40])
    }

    #[test]
    fn the_dual_form_is_kernel_ridge_regression() {
        let (inputs, classes) = (6, 5);
        let data = Data::drawn(60, classes, [3, inputs]);
        let settings = RailSettings { kernel: 0.1, fusion: 0.6, ..RailSettings::default() };
        let kernel = |a: usize, b: usize| -> f64 {
            let [a, b] = [a, b].map(|row| data.embedding(row));
            (-0.1 * a.iter().zip(&b).map(|(x, y)| (x - y).powi(2)).sum::<f64>()).exp()
        };
        let mut system: Vec<f64> = (0..1600).map(|at| kernel(at / 40, at % 40)).collect();
        (0..40).for_each(|at| system[at * 41] += settings.lambda);
        let hot: Vec<f64> = (0..40 * classes).map(|at| f64::from(u8::from(data.label(at % 40) == at / 40))).collect();
        let dual = eliminate(&system, 40, &hot);
        let scores = scores_of(&settings, &data);
        for row in 0..60 {
            let against: Vec<f64> = (0..40).map(|sample| kernel(row, sample)).collect();
            let found: Vec<f64> =
                dual.chunks_exact(40).map(|dual| dual.iter().zip(&against).map(|(x, y)| x * y).sum()).collect();
            for (score, expected) in scores[row * classes..].iter().zip(joined(&data, row, classes, 0.6, &found)) {
                // Embeddings in f32 move a kernel by 1e-8, its inverse by 1 / lambda times that, for each of 40 samples.
                assert!((f64::from(*score) - expected).abs() < 1e-5, "{score} {expected}");
            }
        }
    }
}
