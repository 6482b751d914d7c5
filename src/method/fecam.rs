//! FeCAM (arXiv 2309.14062): a class is a Gaussian of pooled features at unit length, and the smallest Mahalanobis distance
//! (f - mu_c)^T R_c^-1 (f - mu_c) classifies. Its covariance is shrunk, Sigma_c + gamma_1 V_1 I + gamma_2 V_2 (1 - I), V_1 the mean of the
//! diagonal of Sigma_c and V_2 that of the rest, and R_c is its correlation: entry (i, j) over the roots of (i, i) and (j, j).

use rayon::prelude::*;

use super::algebra::{Cholesky, add_gram, multiply};
use super::fitted::{Classifier, FITTED, Feature, Fit, Fitted, Fitting, Sizes, unit};
use super::{Entry, Row};
use crate::error::{Error, Result};
use crate::method_settings;
use crate::ops::cpu::MatrixView;
use crate::stream::ClassId;

pub(crate) const ENTRY: Entry = Entry {
    settings: &[FecamSettings::GROUP],
    ..Entry::new(
        Row {
            name: "fecam",
            summary: "the smallest Mahalanobis distance by a shrunk, normalised covariance of each class (FeCAM)",
            ..FITTED
        },
        |row, chosen| Fitted::boxed(row, FecamSettings::of(chosen.objective)),
    )
};

method_settings! {
    FecamSettings in "fecam" {
        /// gamma_1: how much of the mean variance is added to a class's variances
        variance: f64 = 1.0, 1e-6..=1e6;
        /// gamma_2: how much of the mean covariance is added to a class's covariances, as a part of gamma_1
        covariance: f64 = 0.0, 0.0..=1.0;
    }
}

impl Fit for FecamSettings {
    fn bytes(&self, Sizes { pooled, classes, .. }: Sizes) -> usize {
        let values = pooled.saturating_mul(pooled).saturating_mul(2 * classes + 4);
        values.saturating_mul(size_of::<f64>())
    }

    fn remedy(&self) -> &'static str {
        "fewer classes, for each has a covariance of its own, or gda, where all share one"
    }

    fn open(&self, fitting: &mut Fitting) -> Box<dyn Classifier> {
        let Sizes { pooled, classes, .. } = fitting.sizes;
        let class = || Class { count: 0, sum: vec![0.0; pooled], squares: Vec::new(), precision: None };
        Box::new(Fecam { width: pooled, settings: self.clone(), classes: (0..classes).map(|_| class()).collect() })
    }
}

struct Fecam {
    width: usize,
    settings: FecamSettings,
    classes: Vec<Class>,
}

struct Class {
    count: usize,
    /// Of its features [width].
    sum: Vec<f64>,
    /// sum f f^T [width, width], its upper half; empty before the first sample.
    squares: Vec<f64>,
    /// R^-1 [width, width]; none where samples came since.
    precision: Option<Vec<f64>>,
}

impl Class {
    fn mean(&self) -> Vec<f64> {
        self.sum.iter().map(|x| x / self.count as f64).collect()
    }

    /// R [width, width], its upper half. None where its samples are all alike, or there is one: nothing is known of their spread.
    fn correlation(&self, settings: &FecamSettings) -> Option<Vec<f64>> {
        let (mean, width, count) = (self.mean(), self.sum.len(), self.count as f64);
        let squares: f64 = self.squares.iter().step_by(width + 1).sum();
        let mut matrix = self.squares.clone();
        let upper = || (0..width).flat_map(|row| (row..width).map(move |column| (row, column)));
        upper().for_each(|(row, column)| matrix[row * width + column] -= count * mean[row] * mean[column]);
        let diagonal: f64 = matrix.iter().step_by(width + 1).sum();
        if self.count < 2 || diagonal <= 1e-12 * squares {
            return None;
        }
        matrix.iter_mut().for_each(|x| *x /= count - 1.0);
        let all: f64 =
            upper().map(|(row, column)| if row == column { 0.0 } else { matrix[row * width + column] }).sum();
        let variance = diagonal / (count - 1.0) / width as f64;
        let covariance = 2.0 * all / (width * (width - 1)).max(1) as f64;
        let FecamSettings { variance: gamma, covariance: part } = *settings;
        upper().for_each(|(row, column)| {
            matrix[row * width + column] += if row == column { gamma * variance } else { gamma * part * covariance };
        });
        let deviations: Vec<f64> = matrix.iter().step_by(width + 1).map(|x| x.sqrt()).collect();
        upper().for_each(|(row, column)| matrix[row * width + column] /= deviations[row] * deviations[column]);
        Some(matrix)
    }
}

impl Classifier for Fecam {
    fn take_in(&mut self, samples: &[(Feature, ClassId)]) {
        let width = self.width;
        self.classes.par_iter_mut().enumerate().for_each(|(number, class)| {
            let own = samples.iter().filter(|(_, class)| class.index() == number);
            let rows: Vec<f64> = own.flat_map(|(feature, _)| unit(feature.pooled)).collect();
            if rows.is_empty() {
                return;
            }
            class.count += rows.len() / width;
            class.precision = None;
            class.squares.resize(width * width, 0.0);
            add_gram(&rows, width, &mut class.squares);
            for row in rows.chunks_exact(width) {
                class.sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        });
    }

    fn fit(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let (width, settings) = (self.width, &self.settings);
        let new = self.classes.par_iter_mut().filter(|class| class.count > 0 && class.precision.is_none());
        new.try_for_each(|class| {
            // Where nothing is known, features do not go together.
            let one = || {
                let mut one = vec![0.0; width * width];
                one.iter_mut().step_by(width + 1).for_each(|x| *x = 1.0);
                one
            };
            let matrix = class.correlation(settings).unwrap_or_else(one);
            let factor = Cholesky::of(matrix, width, 0.0).ok_or_else(|| {
                Error::run(
                    "fecam: a class's covariance has no inverse: more of the mean variance (objective.fecam.variance), or less of the mean \
                     covariance (objective.fecam.covariance), gives it one",
                )
            })?;
            class.precision = Some(factor.inverse());
            Ok(())
        })?;
        Ok(Vec::new())
    }

    fn scores(&self, pictures: &[Feature], classes: usize) -> Vec<f32> {
        let (count, width) = (pictures.len(), self.width);
        let features: Vec<f64> = pictures.iter().flat_map(|picture| unit(picture.pooled)).collect();
        let mut scores = vec![0.0; count * classes];
        for (place, class) in self.classes[..classes].iter().enumerate() {
            let Some(precision) = &class.precision else { continue };
            let mean = class.mean();
            let off: Vec<f64> =
                features.chunks_exact(width).flat_map(|row| row.iter().zip(&mean).map(|(x, m)| x - m)).collect();
            let mut turned = vec![0.0; count * width];
            let (from, by) = (MatrixView::rows(&off, width), MatrixView::rows(precision, width));
            multiply([count, width, width], from, by, &mut turned, false);
            for (picture, (turned, off)) in turned.chunks_exact(width).zip(off.chunks_exact(width)).enumerate() {
                scores[picture * classes + place] = -turned.iter().zip(off).map(|(x, y)| x * y).sum::<f64>() as f32;
            }
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::algebra::tests::eliminate;
    use crate::method::fitted::tests::{Data, open, scores_by_steps};

    fn direction(row: &[f32]) -> Vec<f64> {
        let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.into_iter().map(|x| x / norm).collect()
    }

    #[test]
    fn it_is_the_distance_by_a_shrunk_correlation_of_each_class() {
        let (count, classes, width) = (90, 3, 6);
        let data = Data::drawn(count, classes, [width, 3]);
        for settings in [FecamSettings::default(), FecamSettings { variance: 0.5, covariance: 0.4 }] {
            let scores = scores_by_steps(&settings, &data, &[0..40, 40..51, 51..count]);
            for class in 0..classes {
                let rows: Vec<Vec<f64>> = data.of_class(class).map(|row| direction(data.pooled(row))).collect();
                let n = rows.len() as f64;
                let mean: Vec<f64> = (0..width).map(|at| rows.iter().map(|row| row[at]).sum::<f64>() / n).collect();
                let at = |i: usize, j: usize| -> f64 {
                    rows.iter().map(|row| (row[i] - mean[i]) * (row[j] - mean[j])).sum::<f64>() / (n - 1.0)
                };
                let variance = (0..width).map(|i| at(i, i)).sum::<f64>() / width as f64;
                let pairs = || (0..width * width).map(|k| (k / width, k % width));
                let covariance = pairs().filter(|(i, j)| i != j).map(|(i, j)| at(i, j)).sum::<f64>();
                let covariance = covariance / (width * (width - 1)) as f64;
                let (gamma_1, gamma_2) = (settings.variance, settings.variance * settings.covariance);
                let shrunk =
                    |i: usize, j: usize| at(i, j) + if i == j { gamma_1 * variance } else { gamma_2 * covariance };
                let correlation: Vec<f64> =
                    pairs().map(|(i, j)| shrunk(i, j) / (shrunk(i, i) * shrunk(j, j)).sqrt()).collect();
                for picture in 0..count {
                    let f = direction(data.pooled(picture));
                    let off: Vec<f64> = f.iter().zip(&mean).map(|(x, m)| x - m).collect();
                    let turned = eliminate(&correlation, width, &off);
                    let expected: f64 = -turned.iter().zip(&off).map(|(x, y)| x * y).sum::<f64>();
                    let score = f64::from(scores[picture * classes + class]);
                    // Rounded to f32.
                    assert!((score - expected).abs() < 1e-7 * expected.abs().max(1.0), "{score} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_class_of_one_picture_has_plain_distances() {
        let data = Data::drawn(12, 4, [5, 3]);
        let mut classifier = open(&FecamSettings::default(), &data);
        classifier.take_in(&data.samples(0..4));
        classifier.fit().unwrap();
        let scores = classifier.scores(&data.pictures(8..9), 4);
        let f = direction(data.pooled(8));
        for row in 0..4 {
            let square: f64 = direction(data.pooled(row)).iter().zip(&f).map(|(x, y)| (x - y).powi(2)).sum();
            assert!((f64::from(scores[data.label(row)]) + square).abs() < 1e-6);
        }
    }
}
