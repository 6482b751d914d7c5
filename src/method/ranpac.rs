//! RanPAC (arXiv 2307.02251): ridge regression on random features h = relu(f V) of the pooled f, V drawn once from N(0, 1); the class of the
//! largest h W, W = (G + lambda I)^-1 Q over all tasks. Each task chooses lambda of 1e-8, 1e-7, ..., 1e8: fitted on four fifths of it alone,
//! the lowest squared error on the rest.

use std::sync::Arc;

use super::fitted::{Classifier, FITTED, Feature, Fit, Fitted, Fitting, Sizes};
use super::ridge::{Map, Ridge, predict};
use super::{Entry, Row};
use crate::error::{Error, Result};
use crate::method_settings;
use crate::rng::{rng, shuffle};
use crate::stream::ClassId;

pub(crate) const ENTRY: Entry = Entry {
    settings: &[RanPacSettings::GROUP],
    ..Entry::new(
        Row {
            name: "ranpac",
            summary: "ridge regression on random projections of pooled features, lambda chosen by each task (RanPAC)",
            ..FITTED
        },
        |row, chosen| Fitted::boxed(row, RanPacSettings::of(chosen.objective)),
    )
};

method_settings! {
    RanPacSettings in "ranpac" {
        /// values that the pooled feature is projected to; 0 for ridge regression on the feature itself
        width: usize = 10000, 0.0..=1e6;
    }
}

/// 1e-8 to 1e8.
fn lambdas() -> impl Iterator<Item = f64> {
    (-8..=8).map(|power| 10f64.powi(power))
}

impl Fit for RanPacSettings {
    fn bytes(&self, Sizes { pooled, classes, samples, .. }: Sizes) -> usize {
        // The choice of lambda has a system of its own.
        Ridge::bytes(pooled, self.width, classes, samples).saturating_mul(2)
    }

    fn remedy(&self) -> &'static str {
        "a smaller objective.ranpac.width"
    }

    fn open(&self, fitting: &mut Fitting) -> Box<dyn Classifier> {
        let Sizes { pooled, classes, .. } = fitting.sizes;
        let map = Arc::new(Map::drawn(pooled, self.width, fitting.seed));
        Box::new(RanPac {
            inputs: pooled,
            classes,
            ridge: Ridge::new(Arc::clone(&map), classes),
            map,
            seed: fitting.seed,
            steps: 0,
            last: (Vec::new(), Vec::new()),
            weights: Vec::new(),
        })
    }
}

struct RanPac {
    inputs: usize,
    classes: usize,
    map: Arc<Map>,
    ridge: Ridge,
    seed: u64,
    steps: u64,
    /// The last task's features [samples, inputs] and classes.
    last: (Vec<f32>, Vec<ClassId>),
    /// [width, classes]
    weights: Vec<f64>,
}

impl RanPac {
    /// The last task's lambda; 1 where it has too few samples for a choice.
    fn choose(&self) -> f64 {
        let (rows, labels) = &self.last;
        let mut order: Vec<usize> = (0..labels.len()).collect();
        shuffle(&mut order, &mut rng(self.seed, "ridge", &[self.steps]));
        let (first, rest) = order.split_at(labels.len() * 4 / 5);
        // Other classes are targets of 0, whatever lambda is.
        let mut present: Vec<ClassId> = labels.clone();
        present.sort_unstable();
        present.dedup();
        let part = |chosen: &[usize]| -> (Vec<f32>, Vec<ClassId>) {
            let rows = chosen.iter().flat_map(|place| &rows[place * self.inputs..][..self.inputs]).copied();
            let place = |class| ClassId(present.binary_search(class).expect("it is one of them") as u32);
            (rows.collect(), chosen.iter().map(|sample| place(&labels[*sample])).collect())
        };
        let ((rows, labels), (held_out, truth)) = (part(first), part(rest));
        if labels.is_empty() || truth.is_empty() {
            return 1.0;
        }
        let mut ridge = Ridge::new(Arc::clone(&self.map), present.len());
        ridge.take_in(&rows, &labels);
        let grid: Vec<f64> = lambdas().collect();
        let error = |weights: Vec<f64>| -> f64 {
            let found = predict(&self.map, &held_out, &weights);
            let rows = found.chunks_exact(present.len()).zip(&truth);
            let square = |(row, class): (&[f64], &ClassId)| -> f64 {
                row.iter().enumerate().map(|(at, x)| (x - f64::from(u8::from(at == class.index()))).powi(2)).sum()
            };
            rows.map(square).sum()
        };
        let solutions = grid.iter().zip(ridge.solve(&grid));
        let errors = solutions.filter_map(|(lambda, weights)| Some((*lambda, error(weights?))));
        let best = errors.filter(|(_, error)| error.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or(1.0, |(lambda, _)| lambda)
    }
}

impl Classifier for RanPac {
    fn take_in(&mut self, samples: &[(Feature, ClassId)]) {
        let rows: Vec<f32> = samples.iter().flat_map(|(feature, _)| feature.pooled).copied().collect();
        let labels: Vec<ClassId> = samples.iter().map(|(_, class)| *class).collect();
        self.ridge.take_in(&rows, &labels);
        self.last = (rows, labels);
        self.steps += 1;
    }

    fn fit(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let chosen = self.choose();
        // Over all tasks the smallest may be too small for f64: then the next that is not.
        for lambda in lambdas().filter(|lambda| *lambda >= chosen) {
            if let Some(weights) = self.ridge.solve(&[lambda]).pop().flatten() {
                self.weights = weights;
                return Ok(vec![("lambda", lambda)]);
            }
        }
        Err(Error::run(
            "ranpac: its ridge system has no solution even at lambda 1e8: the features are too large for f64",
        ))
    }

    fn scores(&self, pictures: &[Feature], classes: usize) -> Vec<f32> {
        let rows: Vec<f32> = pictures.iter().flat_map(|picture| picture.pooled).copied().collect();
        let scores = predict(&self.map, &rows, &self.weights);
        scores.chunks_exact(self.classes).flat_map(|row| &row[..classes]).map(|score| *score as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::algebra::tests::eliminate;
    use crate::method::fitted::tests::{Data, open, scores_by_steps};
    use crate::rng::normal;

    const WIDTH: usize = 40;

    /// h = relu(f V), or f itself, in f64 [rows, width].
    fn widened(data: &Data, rows: impl Iterator<Item = usize>, inputs: usize, width: usize) -> Vec<Vec<f64>> {
        let mut generator = rng(5, "random projection", &[]);
        let projection: Vec<f64> = (0..inputs * width).map(|_| normal(&mut generator)).collect();
        let wide = |row: usize| -> Vec<f64> {
            let f: Vec<f64> = data.pooled(row).iter().map(|x| f64::from(*x)).collect();
            let sum = |at: usize| f.iter().enumerate().map(|(k, x)| x * projection[k * width + at]).sum::<f64>();
            if width == 0 { f } else { (0..width).map(|at| sum(at).max(0.0)).collect() }
        };
        rows.map(wide).collect()
    }

    /// W by rows of classes [classes, width] of the normal equations, by elimination.
    fn batch_ridge(wide: &[Vec<f64>], labels: &[usize], classes: usize, lambda: f64) -> Vec<f64> {
        let width = wide[0].len();
        let (mut gram, mut products) = (vec![0.0; width * width], vec![0.0; classes * width]);
        for (row, label) in wide.iter().zip(labels) {
            for (i, x) in row.iter().enumerate() {
                products[label * width + i] += x;
                row.iter().enumerate().for_each(|(j, y)| gram[i * width + j] += x * y);
            }
        }
        (0..width).for_each(|i| gram[i * width + i] += lambda);
        eliminate(&gram, width, &products)
    }

    fn dots(wide: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
        let width = wide[0].len();
        let row = |row: &Vec<f64>| -> Vec<f64> {
            weights.chunks_exact(width).map(|weights| weights.iter().zip(row).map(|(x, y)| x * y).sum()).collect()
        };
        wide.iter().flat_map(row).collect()
    }

    /// The lambda that a task chooses, with every solution by elimination.
    fn chosen(
        data: &Data,
        task: std::ops::Range<usize>,
        number: u64,
        inputs: usize,
        width: usize,
        classes: usize,
    ) -> f64 {
        let mut order: Vec<usize> = task.collect();
        shuffle(&mut order, &mut rng(5, "ridge", &[number]));
        let (first, rest) = order.split_at(order.len() * 4 / 5);
        let wide = |rows: &[usize]| widened(data, rows.iter().copied(), inputs, width);
        let labels: Vec<usize> = first.iter().map(|row| data.label(*row)).collect();
        let error = |lambda: f64| -> f64 {
            let found = dots(&wide(rest), &batch_ridge(&wide(first), &labels, classes, lambda));
            let truth = |at: usize| f64::from(u8::from(data.label(rest[at / classes]) == at % classes));
            found.iter().enumerate().map(|(at, x)| (x - truth(at)).powi(2)).sum()
        };
        lambdas().min_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap()
    }

    #[test]
    fn it_is_the_batch_ridge_of_all_tasks_at_the_last_tasks_lambda() {
        // Below and above the width: the last two go over from one system to the other on the way, the first two never do.
        for (count, inputs, width) in [(36, 8, WIDTH), (90, 8, 0), (120, 8, WIDTH), (150, 12, 60)] {
            let (classes, data) = (4, Data::drawn(count, 4, [inputs, 5]));
            let steps = [0..count / 3, count / 3..count / 2, count / 2..count];
            let settings = RanPacSettings { width };
            let mut classifier = open(&settings, &data);
            steps.iter().for_each(|step| classifier.take_in(&data.samples(step.clone())));
            let lambda = classifier.fit().unwrap()[0].1;
            assert_eq!(lambda, chosen(&data, steps[2].clone(), 3, inputs, width, classes), "{count}");
            let wide = widened(&data, 0..count, inputs, width);
            let labels: Vec<usize> = (0..count).map(|row| data.label(row)).collect();
            let expected = dots(&wide, &batch_ridge(&wide, &labels, classes, lambda));
            let scores = scores_by_steps(&settings, &data, &steps);
            // Scores of size 1, rounded to f32; a condition of 1e6 leaves 1e-10 of f64 beside that.
            scores.iter().zip(&expected).for_each(|(a, b)| assert!((f64::from(*a) - b).abs() < 2e-7, "{a} {b}"));
        }
    }

    #[test]
    fn a_task_too_small_for_a_choice_and_one_without_a_spread_are_solved() {
        let data = Data::drawn(30, 2, [6, 5]);
        for step in [0..1, 0..2] {
            let mut classifier = open(&RanPacSettings { width: 16 }, &data);
            classifier.take_in(&data.samples(step));
            classifier.fit().unwrap();
        }
        // The same picture a hundred times: H H^T has rank 1.
        let mut classifier = open(&RanPacSettings { width: 16 }, &data);
        (0..100).for_each(|_| classifier.take_in(&data.samples(0..1)));
        assert!(classifier.fit().unwrap()[0].1 >= 1e-8);
        assert!(classifier.scores(&data.pictures(0..3), 2).iter().all(|score| score.is_finite()));
    }
}
