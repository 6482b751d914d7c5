//! Methods that train nothing: the towers stay as they are, and a classifier is fitted to their features in closed form, step by step
//! (docs/methods.md, "Frozen features").
//!
//! Such a method's file has its settings and a [`Classifier`]; [`Fitted`] makes a method of them.

use super::algebra::multiply;
use super::{Classifies, Method, Row, Spends, Start};
use crate::error::Result;
use crate::model::parameters::ParameterList;
use crate::model::trainable::Trainable;
use crate::ops::cpu::MatrixView;
use crate::ops::{Device, Plan};
use crate::stream::ClassId;
use crate::train::{Loaded, Models, Objective, Path, Planned, Recipe, StageView, TrainBatch, key_of};

/// What these methods have in common: the first model, never trained, and a classifier on its features.
pub(crate) const FITTED: Row =
    Row { starts: Start::First, spends: Spends::Nothing, classifies: Classifies::ByFit, ..Row::DEFAULT };

/// What the image tower says of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feature<'a> {
    /// The class token after the last layer norm, before the projection `[width]`.
    pub pooled: &'a [f32],
    /// Its projection, not brought to unit length `[D]`.
    pub projected: &'a [f32],
}

/// How much a classifier is fitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Values of [`Feature::pooled`].
    pub pooled: usize,
    /// Values of [`Feature::projected`].
    pub projected: usize,
    /// Classes of the stream.
    pub classes: usize,
    /// Training samples of all steps.
    pub samples: usize,
}

/// What a run lends to a classifier as it begins.
pub struct Fitting<'a> {
    /// How much there will be.
    pub sizes: Sizes,
    /// The run's, for what a classifier draws.
    pub seed: u64,
    /// exp(logit_scale): what similarities are multiplied by.
    pub scale: f64,
    /// The mean direction of every class's prompts, in the order of the stream `[classes, D]`; encoded as it is asked for.
    pub texts: &'a mut dyn FnMut() -> Vec<f32>,
}

/// A method's settings as what a classifier is made of.
pub trait Fit: Send + Sync {
    /// Bytes that the classifier takes at most, beside the features.
    fn bytes(&self, sizes: Sizes) -> usize;

    /// What would take less, for the message where that is more than there is.
    fn remedy(&self) -> &'static str {
        "a machine with more memory"
    }

    /// The classifier before it has seen a sample.
    fn open(&self, fitting: &mut Fitting) -> Box<dyn Classifier>;
}

/// A classifier that takes in a step after the other. All that it knows follows from the steps and their order, bit for bit: a run that goes
/// on makes it anew from the features that it has kept.
pub trait Classifier: Send {
    /// Takes in a step's training samples, in ascending order.
    fn take_in(&mut self, samples: &[(Feature, ClassId)]);

    /// Prepares for [`Classifier::scores`] on what was taken in. Returns numbers for the log. May be left out behind all steps but the last.
    fn fit(&mut self) -> Result<Vec<(&'static str, f64)>>;

    /// Scores of pictures among the first `classes` of the stream `[pictures, classes]`, the largest for the likeliest.
    fn scores(&self, pictures: &[Feature], classes: usize) -> Vec<f32>;

    /// Whether it knows classes by their names, so that it can tell those that have had no samples yet. Others' scores of those are not heard.
    fn knows_names(&self) -> bool {
        false
    }
}

/// The method that is a classifier alone.
pub(crate) struct Fitted<F> {
    row: Row,
    fit: F,
}

impl<F: Fit + 'static> Fitted<F> {
    pub(crate) fn boxed(row: Row, fit: F) -> Box<dyn Method> {
        Box::new(Fitted { row, fit })
    }
}

impl<F: Fit> Recipe for Fitted<F> {
    fn trainable(&self, _: &ParameterList) -> Trainable {
        Trainable::default()
    }

    fn plan(&self, _: &mut Plan, _: &Planned) -> Box<dyn Objective> {
        Box::new(NoObjective)
    }
}

impl<F: Fit> Method for Fitted<F> {
    fn row(&self) -> &Row {
        &self.row
    }

    fn fit(&self) -> Option<&dyn Fit> {
        Some(&self.fit)
    }
}

/// Nothing is minimised.
struct NoObjective;

impl Objective for NoObjective {
    fn enter(&mut self, _: &mut dyn Device, _: Models, _: &StageView) {}

    fn path(&self) -> Path {
        Path::OwnAlone
    }

    fn load(&mut self, _: &mut dyn Device, _: &TrainBatch, _: Loaded) {}

    fn forward_backward(&self, _: &mut dyn Device, _: Models, _: Loaded) {}

    fn loss(&self, _: &dyn Device) -> f32 {
        0.0
    }

    fn key(&self) -> u64 {
        key_of(())
    }
}

/// Inner products `[rows, classes]` of rows `[rows, width]` and the first `classes` of `directions [_, width]`.
pub(crate) fn inner_products(rows: &[f64], directions: &[f64], width: usize, classes: usize) -> Vec<f64> {
    let count = rows.len() / width;
    let mut products = vec![0.0; count * classes];
    let directions = MatrixView::rows(&directions[..classes * width], width).transposed();
    multiply([count, classes, width], MatrixView::rows(rows, width), directions, &mut products, false);
    products
}

/// `row` in f64, at unit length; zeros stay zeros.
pub(crate) fn unit(row: &[f32]) -> impl Iterator<Item = f64> {
    let norm = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    row.iter().map(move |x| f64::from(*x) / norm)
}

#[cfg(test)]
pub(super) mod tests {
    use std::ops::Range;

    use super::*;
    use crate::rng::{below, normal, rng};

    /// Features of classes that lie apart, and texts.
    pub(crate) struct Data {
        widths: [usize; 2],
        classes: usize,
        rows: Vec<[Vec<f32>; 2]>,
        labels: Vec<usize>,
        pub texts: Vec<f32>,
    }

    impl Data {
        /// `count` samples of `classes` classes, of each at least three; the widths of pooled and projected features.
        pub(crate) fn drawn(count: usize, classes: usize, widths: [usize; 2]) -> Data {
            let mut generator = rng(11, "features", &[count as u64]);
            let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| normal(&mut generator) as f32).collect() };
            let centres: Vec<[Vec<f32>; 2]> = (0..classes).map(|_| widths.map(&mut draw)).collect();
            let texts = draw(classes * widths[1]);
            let texts = texts.chunks_exact(widths[1]).flat_map(unit).map(|x| x as f32).collect();
            let noise: Vec<[Vec<f32>; 2]> = (0..count).map(|_| widths.map(&mut draw)).collect();
            let labels: Vec<usize> = (0..count)
                .map(
                    |row| {
                        if row < 3 * classes { row % classes } else { below(&mut generator, classes as u64) as usize }
                    },
                )
                .collect();
            let near = |(noise, class): (&[Vec<f32>; 2], &usize)| {
                [0, 1].map(|kind| noise[kind].iter().zip(&centres[*class][kind]).map(|(x, y)| x + y).collect())
            };
            let rows = noise.iter().zip(&labels).map(near).collect();
            Data { widths, classes, rows, labels, texts }
        }

        pub(crate) fn pooled(&self, row: usize) -> &[f32] {
            &self.rows[row][0]
        }

        /// At unit length.
        pub(crate) fn embedding(&self, row: usize) -> Vec<f64> {
            let feature: Vec<f64> = self.rows[row][1].iter().map(|x| f64::from(*x)).collect();
            let norm = feature.iter().map(|x| x * x).sum::<f64>().sqrt();
            feature.into_iter().map(|x| x / norm).collect()
        }

        pub(crate) fn label(&self, row: usize) -> usize {
            self.labels[row]
        }

        pub(crate) fn of_class(&self, class: usize) -> impl Iterator<Item = usize> {
            (0..self.labels.len()).filter(move |row| self.labels[*row] == class)
        }

        pub(crate) fn pictures(&self, rows: Range<usize>) -> Vec<Feature<'_>> {
            rows.map(|row| Feature { pooled: &self.rows[row][0], projected: &self.rows[row][1] }).collect()
        }

        pub(crate) fn samples(&self, rows: Range<usize>) -> Vec<(Feature<'_>, ClassId)> {
            let labels = rows.clone().map(|row| ClassId(self.labels[row] as u32));
            self.pictures(rows).into_iter().zip(labels).collect()
        }
    }

    /// A classifier before it has seen a sample; its scale is 10.
    pub(crate) fn open(fit: &dyn Fit, data: &Data) -> Box<dyn Classifier> {
        let [pooled, projected] = data.widths;
        let sizes = Sizes { pooled, projected, classes: data.classes, samples: data.labels.len() };
        fit.open(&mut Fitting { sizes, seed: 5, scale: 10.0, texts: &mut || data.texts.clone() })
    }

    /// Both leave the same scores, bit for bit: fitted behind every step, and behind the last alone.
    pub(crate) fn scores_by_steps(fit: &dyn Fit, data: &Data, steps: &[Range<usize>]) -> Vec<f32> {
        let [mut often, mut once] = [open(fit, data), open(fit, data)];
        for step in steps {
            often.take_in(&data.samples(step.clone()));
            often.fit().unwrap();
            once.take_in(&data.samples(step.clone()));
        }
        once.fit().unwrap();
        let pictures = data.pictures(0..data.labels.len());
        let (often, once) = (often.scores(&pictures, data.classes), once.scores(&pictures, data.classes));
        assert_eq!(often, once);
        once
    }
}
