//! SimpleCIL (arXiv 2303.07338): a class is the mean of its pooled features, w_c = mean of f over class c, and the nearest by the cosine
//! classifies: argmax_c cos(f, w_c). Over domains the sums run on.

use super::fitted::{Classifier, FITTED, Feature, Fit, Fitted, Fitting, Sizes, inner_products, unit};
use super::{Entry, Row};
use crate::error::Result;
use crate::stream::ClassId;

pub(crate) const ENTRY: Entry = Entry::new(
    Row { name: "simplecil", summary: "the nearest mean of pooled features, by the cosine (SimpleCIL)", ..FITTED },
    |row, _| Fitted::boxed(row, SimpleCil),
);

struct SimpleCil;

impl Fit for SimpleCil {
    fn bytes(&self, sizes: Sizes) -> usize {
        2 * sizes.classes * sizes.pooled * size_of::<f64>()
    }

    fn open(&self, fitting: &mut Fitting) -> Box<dyn Classifier> {
        let Sizes { pooled, classes, .. } = fitting.sizes;
        Box::new(Means { width: pooled, sums: vec![0.0; classes * pooled], directions: Vec::new() })
    }
}

struct Means {
    width: usize,
    /// Of the features of each class [classes, width]. Their mean has the same direction.
    sums: Vec<f64>,
    /// The same at unit length.
    directions: Vec<f64>,
}

impl Classifier for Means {
    fn take_in(&mut self, samples: &[(Feature, ClassId)]) {
        for (feature, class) in samples {
            let sum = &mut self.sums[class.index() * self.width..][..self.width];
            sum.iter_mut().zip(feature.pooled).for_each(|(sum, x)| *sum += f64::from(*x));
        }
    }

    fn fit(&mut self) -> Result<Vec<(&'static str, f64)>> {
        self.directions = self.sums.clone();
        for direction in self.directions.chunks_exact_mut(self.width) {
            let norm = direction.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            direction.iter_mut().for_each(|x| *x /= norm);
        }
        Ok(Vec::new())
    }

    fn scores(&self, pictures: &[Feature], classes: usize) -> Vec<f32> {
        let features: Vec<f64> = pictures.iter().flat_map(|picture| unit(picture.pooled)).collect();
        let cosines = inner_products(&features, &self.directions, self.width, classes);
        cosines.into_iter().map(|cosine| cosine as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::fitted::tests::{Data, open};

    #[test]
    fn the_nearest_mean_by_the_cosine_whatever_the_steps() {
        let data = Data::drawn(90, 4, [12, 5]);
        let expected = |picture: usize, class: usize| {
            let own = || data.of_class(class);
            let mean: Vec<f64> = (0..12)
                .map(|at| own().map(|row| f64::from(data.pooled(row)[at])).sum::<f64>() / own().count() as f64)
                .collect();
            let f: Vec<f64> = data.pooled(picture).iter().map(|x| f64::from(*x)).collect();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            dot(&f, &mean) / (dot(&f, &f) * dot(&mean, &mean)).sqrt()
        };
        for cuts in [vec![0, 90], vec![0, 20, 61, 90]] {
            let steps: Vec<std::ops::Range<usize>> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
            let mut classifier = open(&SimpleCil, &data);
            steps.into_iter().for_each(|step| classifier.take_in(&data.samples(step)));
            assert!(classifier.fit().unwrap().is_empty());
            let scores = classifier.scores(&data.pictures(0..90), 4);
            for (place, score) in scores.iter().enumerate() {
                // A cosine in f64, rounded to f32.
                assert!((f64::from(*score) - expected(place / 4, place % 4)).abs() < 1e-7);
            }
            for (alone, score) in classifier.scores(&data.pictures(7..8), 2).iter().zip(&scores[28..]) {
                assert!((alone - score).abs() < 1e-7, "a picture alone, fewer classes");
            }
        }
    }
}
