//! Gaussian discriminant analysis of CLIP's embeddings (arXiv 2402.04087): classes are Gaussians with means mu_c and one covariance,
//! w_c = Sigma^-1 mu_c, b_c = log(1/C) - mu_c^T Sigma^-1 mu_c / 2 with the estimate
//! Sigma^-1 = D ((N - 1) Sigma + tr(Sigma) I)^-1; a picture f scores f w_c + b_c + texts * s f t_c, t_c the mean direction of the class's prompts.
//!
//! The estimate is about D / N of a covariance's inverse: of few samples the two parts are of one size, of many the texts soon drown the
//! Gaussians. So by default there are the Gaussians alone.
//!
//! (N - 1) Sigma, the scatter of all samples around their classes' means, follows from running sums: sum f f^T - sum_c n_c mu_c mu_c^T.

use super::algebra::{Cholesky, add_gram};
use super::fitted::{Classifier, FITTED, Feature, Fit, Fitted, Fitting, Sizes, inner_products, unit};
use super::{Entry, Row};
use crate::error::{Error, Result};
use crate::method_settings;
use crate::stream::ClassId;

pub(crate) const ENTRY: Entry = Entry {
    settings: &[GdaSettings::GROUP],
    ..Entry::new(
        Row {
            name: "gda",
            summary: "Gaussians of embeddings with one covariance, beside the texts (GDA-CLIP)",
            ..FITTED
        },
        |row, chosen| Fitted::boxed(row, GdaSettings::of(chosen.objective)),
    )
};

method_settings! {
    GdaSettings in "gda" {
        /// weight of the zero-shot logits beside the Gaussians'; 0 for these alone
        texts: f64 = 0.0, 0.0..=1e6;
    }
}

impl Fit for GdaSettings {
    fn bytes(&self, Sizes { projected, classes, .. }: Sizes) -> usize {
        (3 * projected * projected + 3 * classes * projected) * size_of::<f64>()
    }

    fn open(&self, fitting: &mut Fitting) -> Box<dyn Classifier> {
        let Sizes { projected, classes, .. } = fitting.sizes;
        let factor = self.texts * fitting.scale;
        let texts = if factor > 0.0 { (fitting.texts)() } else { vec![0.0; classes * projected] };
        Box::new(Gda {
            width: projected,
            counts: vec![0; classes],
            sums: vec![0.0; classes * projected],
            squares: vec![0.0; projected * projected],
            texts: texts.iter().map(|x| factor * f64::from(*x)).collect(),
            weights: Vec::new(),
            biases: Vec::new(),
        })
    }
}

struct Gda {
    width: usize,
    counts: Vec<usize>,
    /// Of the embeddings of each class [classes, width].
    sums: Vec<f64>,
    /// sum f f^T [width, width], its upper half.
    squares: Vec<f64>,
    /// texts * s t_c [classes, width].
    texts: Vec<f64>,
    /// w_c + texts * s t_c [classes, width], and b_c.
    weights: Vec<f64>,
    biases: Vec<f64>,
}

impl Classifier for Gda {
    fn take_in(&mut self, samples: &[(Feature, ClassId)]) {
        let rows: Vec<f64> = samples.iter().flat_map(|(feature, _)| unit(feature.projected)).collect();
        add_gram(&rows, self.width, &mut self.squares);
        for (row, (_, class)) in rows.chunks_exact(self.width).zip(samples) {
            self.counts[class.index()] += 1;
            let sum = &mut self.sums[class.index() * self.width..][..self.width];
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }

    fn fit(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let (width, count) = (self.width, self.counts.iter().sum::<usize>());
        let classes = self.counts.iter().filter(|count| **count > 0).count();
        let (mut means, mut scatter) = (self.sums.clone(), self.squares.clone());
        for (count, mean) in self.counts.iter().zip(means.chunks_exact_mut(width)).filter(|(count, _)| **count > 0) {
            mean.iter_mut().for_each(|x| *x /= *count as f64);
            for (place, x) in mean.iter().enumerate() {
                let row = &mut scatter[place * width + place..][..width - place];
                row.iter_mut().zip(&mean[place..]).for_each(|(sum, y)| *sum -= *count as f64 * x * y);
            }
        }
        let trace: f64 = scatter.iter().step_by(width + 1).sum();
        self.weights = means.clone();
        // Of unit vectors all squares add up to `count`. Without a spread nothing is known of the covariance: every direction alike.
        if trace > 1e-12 * count as f64 {
            let solution = Cholesky::of(scatter, width, trace / (count - 1) as f64).ok_or_else(|| {
                Error::run("gda: the covariance of the embeddings has no inverse: they are not finite")
            })?;
            solution.solve(&mut self.weights);
            self.weights.iter_mut().for_each(|x| *x *= width as f64);
        }
        let pairs = self.weights.chunks_exact(width).zip(means.chunks_exact(width));
        let square = |(weight, mean): (&[f64], &[f64])| weight.iter().zip(mean).map(|(x, y)| x * y).sum::<f64>();
        self.biases = pairs.map(|pair| -(classes as f64).ln() - square(pair) / 2.0).collect();
        self.weights.iter_mut().zip(&self.texts).for_each(|(weight, text)| *weight += text);
        Ok(Vec::new())
    }

    fn scores(&self, pictures: &[Feature], classes: usize) -> Vec<f32> {
        let features: Vec<f64> = pictures.iter().flat_map(|picture| unit(picture.projected)).collect();
        let scores = inner_products(&features, &self.weights, self.width, classes);
        let biases = self.biases[..classes].iter().cycle();
        scores.iter().zip(biases).map(|(score, bias)| (score + bias) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::algebra::tests::eliminate;
    use crate::method::fitted::tests::{Data, open, scores_by_steps};

    #[test]
    fn it_is_the_papers_estimate_by_an_explicit_inverse() {
        let (count, classes, width) = (80, 4, 7);
        let data = Data::drawn(count, classes, [3, width]);
        let rows: Vec<Vec<f64>> = (0..count).map(|row| data.embedding(row)).collect();
        let mean = |class: usize| -> Vec<f64> {
            let own = || data.of_class(class);
            (0..width).map(|at| own().map(|row| rows[row][at]).sum::<f64>() / own().count() as f64).collect()
        };
        let means: Vec<Vec<f64>> = (0..classes).map(mean).collect();
        // The covariance of the centred samples, as numpy has it: over N - 1.
        let centred: Vec<Vec<f64>> =
            (0..count).map(|row| rows[row].iter().zip(&means[data.label(row)]).map(|(x, m)| x - m).collect()).collect();
        let mut covariance = vec![0.0; width * width];
        for (row, i, j) in (0..count).flat_map(|row| (0..width * width).map(move |at| (row, at / width, at % width))) {
            covariance[i * width + j] += centred[row][i] * centred[row][j] / (count - 1) as f64;
        }
        let trace: f64 = (0..width).map(|at| covariance[at * width + at]).sum();
        let shrunk: Vec<f64> = (0..width * width)
            .map(|at| (count - 1) as f64 * covariance[at] + if at / width == at % width { trace } else { 0.0 })
            .collect();
        let one: Vec<f64> = (0..width * width).map(|at| f64::from(u8::from(at / width == at % width))).collect();
        let inverse: Vec<f64> = eliminate(&shrunk, width, &one).iter().map(|x| width as f64 * x).collect();
        for texts in [0.0, 0.5] {
            let expected = |row: usize, class: usize| -> f64 {
                let turned: Vec<f64> =
                    (0..width).map(|i| (0..width).map(|j| inverse[i * width + j] * means[class][j]).sum()).collect();
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
                let text: Vec<f64> = data.texts[class * width..][..width].iter().map(|x| f64::from(*x)).collect();
                let gaussian = dot(&rows[row], &turned) - dot(&means[class], &turned) / 2.0 - (classes as f64).ln();
                gaussian + texts * 10.0 * dot(&rows[row], &text)
            };
            let scores = scores_by_steps(&GdaSettings { texts }, &data, &[0..30, 30..44, 44..count]);
            for (place, score) in scores.iter().enumerate() {
                let expected = expected(place / classes, place % classes);
                // Rounded to f32; a well-conditioned system leaves f64's digits.
                assert!((f64::from(*score) - expected).abs() < 1e-7 * expected.abs().max(1.0), "{score} {expected}");
            }
        }
    }

    #[test]
    fn without_a_spread_the_nearest_mean_answers() {
        let data = Data::drawn(12, 4, [3, 6]);
        let mut classifier = open(&GdaSettings { texts: 0.0 }, &data);
        classifier.take_in(&data.samples(0..4));
        classifier.fit().unwrap();
        let scores = classifier.scores(&data.pictures(0..4), 4);
        for (row, scores) in scores.chunks_exact(4).enumerate() {
            assert!((0..4).all(|class| scores[class] <= scores[data.label(row)]));
        }
    }
}
