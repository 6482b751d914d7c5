//! Cases of the contrastive family.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::contrastive::{
    Contrastive, ContrastiveBackward, ContrastiveInputs, ContrastiveSaved, ContrastiveSettings, ContrastiveShape,
    MovingAverages, Negatives, Surrogate,
};
use crate::rng::{below, shuffle, unit};

/// Both passes, the second from what the first one wrote.
pub struct ContrastiveCase {
    /// Fewer texts than samples: some samples share one.
    pub shape: ContrastiveShape,
    /// Surrogate, negatives, and which form of the loss.
    pub settings: ContrastiveSettings,
    /// Weight of the batch in the moving averages, if there are any.
    pub gamma: Option<f32>,
    /// The temperature, above 0: logits are cosines over it.
    pub tau: f64,
}

/// Half a unit in the last place of 1 in f32.
const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// Rows of unit length.
fn unit_rows(mut values: Vec<f32>, width: usize) -> Vec<f32> {
    for row in values.chunks_mut(width) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    values
}

impl ContrastiveCase {
    /// The prompt of each sample: each its own where there are enough, in an order that is not the samples'.
    fn text_of(&self, operands: &mut Operands) -> Vec<u32> {
        let ContrastiveShape { samples, texts, .. } = self.shape;
        let generator = operands.generator();
        let mut order: Vec<u32> = (0..texts.max(samples) as u32).map(|i| i % texts as u32).collect();
        if samples > texts {
            order.iter_mut().for_each(|text| *text = below(generator, texts as u64) as u32);
        }
        shuffle(&mut order, generator);
        order.truncate(samples);
        order
    }

    /// What an exponent h / tau may be off by, and so the share that a weight may be off by. S_ij and S_ii sum `width` products
    /// whose sizes add up to about 1: tensor cores add 16 of them at a time, and may cut off a unit in the last place each
    /// time. phi' is at most 2 (margin + 2). Then the rounding of h / tau itself, of at most phi(2) / tau, a few times.
    fn exponent_error(&self) -> f64 {
        let similarity = 8.0 + self.shape.width.div_ceil(16) as f64;
        let (slope, height) = match self.settings.surrogate {
            Surrogate::Linear => (1.0, 2.0),
            Surrogate::SquaredHinge { margin } => (2.0 * (margin + 2.0), (margin + 2.0).powi(2)),
        };
        (2.0 * similarity * slope + 4.0 * height) * UNIT / self.tau
    }

    /// For a gradient that sums over `opponents`. Weights are off by `exponent_error`, where the row sum at the positive can
    /// cancel much of the rest, or all of it where a sample's own pair outweighs everything: then what is left is small
    /// beside a sample's weight. dS goes into the product as two bf16, 2^-17 of it off; and the sum goes 16 opponents at a
    /// time, twice.
    fn gradient_tolerance(&self, opponents: usize) -> Tolerance {
        let steps = 2 * opponents.div_ceil(16);
        let loss = 4.0 * self.exponent_error() + 1.0 / (1 << 16) as f64 + steps as f64 * UNIT;
        Tolerance { at_least: 1.0 / self.shape.samples as f64, ..Tolerance::bf16(loss) }
    }
}

/// The three objectives as they are used, and what is between them.
fn case(
    samples: usize,
    texts: usize,
    width: usize,
    negatives: Negatives,
    hinge: bool,
    averages: bool,
) -> ContrastiveCase {
    ContrastiveCase {
        shape: ContrastiveShape { samples, texts, width },
        settings: ContrastiveSettings {
            surrogate: if hinge { Surrogate::SquaredHinge { margin: 0.7 } } else { Surrogate::Linear },
            negatives,
            times_tau: negatives != Negatives::All,
        },
        gamma: averages.then_some(0.6),
        tau: 0.07,
    }
}

impl Case for ContrastiveCase {
    const OP: &'static str = "contrastive";

    fn list(size: Size) -> Vec<ContrastiveCase> {
        use Negatives::{All, OtherClasses, Others};
        match size {
            // Without averages the estimator is the true gradient. Several blocks; some texts are nobody's.
            Size::Tiny => vec![
                case(40, 7, 3, All, false, false),
                case(7, 9, 4, Others, true, false),
                case(35, 5, 3, OtherClasses, false, false),
                case(35, 5, 3, OtherClasses, true, false),
            ],
            Size::Smallest => vec![
                case(70, 66, 72, Others, false, true),
                // More than one tile a block in either direction, on four multiprocessors.
                case(290, 270, 8, Others, false, true),
                case(70, 5, 24, OtherClasses, true, true),
                case(5, 5, 9, All, false, false),
            ],
            Size::Small => vec![
                case(1, 1, 8, All, false, false),
                case(1, 1, 8, Others, false, true),
                case(7, 5, 33, OtherClasses, true, true),
                // A single class: nobody has negatives.
                case(6, 2, 24, OtherClasses, false, true),
                case(130, 50, 64, All, true, true),
                case(130, 50, 64, Others, true, false),
                case(130, 50, 64, OtherClasses, false, true),
                // Some texts are nobody's.
                case(70, 200, 200, Others, false, true),
                case(129, 129, 320, All, false, false),
                case(300, 270, 24, OtherClasses, true, true),
                case(200, 9, 320, OtherClasses, true, true),
                case(65, 65, 258, Others, true, true),
            ],
            Size::Full => vec![
                case(7, 5, 33, OtherClasses, true, true),
                case(70, 300, 264, Others, false, true),
                case(2048, 2048, 512, All, false, false),
                case(1000, 1000, 768, Others, false, true),
                case(4096, 100, 512, OtherClasses, true, true),
                case(513, 513, 1030, Others, true, true),
            ],
        }
    }

    fn of_model(spec: &ModelSpec, batch: usize) -> Vec<ContrastiveCase> {
        vec![case(batch, batch, spec.embed_dim, Negatives::All, false, false)]
    }

    fn shape(&self) -> String {
        let ContrastiveShape { samples, texts, width } = self.shape;
        let surrogate = match self.settings.surrogate {
            Surrogate::Linear => "linear",
            Surrogate::SquaredHinge { .. } => "hinge",
        };
        let averages = if self.gamma.is_some() { ", averages" } else { "" };
        format!("{samples} over {texts} x {width}, {:?}, {surrogate}{averages}", self.settings.negatives)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let ContrastiveCase { shape, settings, .. } = *self;
        let ContrastiveShape { samples, texts, width } = shape;
        let text_of = self.text_of(operands);
        // Images near their texts, as training leaves them.
        let text = unit_rows(operands.normal(texts * width, 1.0), width);
        let noise = unit_rows(operands.normal(samples * width, 1.0), width);
        let image = noise.chunks(width).zip(&text_of).flat_map(|(noise, c)| {
            let own = &text[*c as usize * width..][..width];
            noise.iter().zip(own).map(|(noise, own)| noise + 0.5 * own)
        });
        let image = unit_rows(image.collect(), width);
        let error = self.exponent_error();
        // A sum of exponentials is off by a share of itself, and so its logarithm, which is near 0 where one term of size 1
        // outweighs the rest, by that share of 1.
        let close = Tolerance { relative: error, of_largest: error, at_least: 1.0 };
        let averages = self.gamma.map(|gamma| {
            // Near what the batch gives, so that both count; one sample in three is new; the last sample comes twice.
            let typical = if settings.surrogate == Surrogate::Linear { -4.0 } else { 4.0 };
            let count = samples + 3;
            let mut priors = || {
                let mut prior = operands.normal(count, 0.5);
                prior.iter_mut().enumerate().for_each(|(i, u)| *u = if i % 3 == 2 { f32::NAN } else { *u + typical });
                prior
            };
            let [images, texts] = [priors(), priors()];
            let mut slot: Vec<u32> = (0..count as u32).collect();
            shuffle(&mut slot, operands.generator());
            slot.truncate(samples);
            slot[samples - 1] = slot[0];
            MovingAverages {
                log_u: [
                    operands.updated_stats("average of images", images, close),
                    operands.updated_stats("average of texts", texts, close),
                ],
                slot: operands.ids(slot),
                gamma: operands.stats_of("gamma", vec![gamma]),
            }
        });
        let weight = (0..samples).map(|_| (0.5 + unit(operands.generator())) as f32 / samples as f32).collect();
        // Sums of log u and h / tau, which reach phi(2) / tau, where what is left can be about 1; the samples' weights add up to
        // at most 1.5, in both directions.
        let sum = Tolerance { relative: error, of_largest: 2.0 / self.tau * error, at_least: 3.0 * self.tau };
        let inputs = ContrastiveInputs {
            image: operands.input_of("image", image),
            text: operands.input_of("text", text),
            text_of: operands.ids(text_of),
            class_of_text: operands.ids((0..texts as u32).map(|text| text / 2).collect()),
            log_scale: operands.stats_of("log_scale", vec![-self.tau.ln() as f32]),
        };
        let mut saved = |name| operands.output_stats(name, samples, close);
        let saved = ContrastiveSaved {
            positive: saved("positive"),
            log_u: [saved("log u of images"), saved("log u of texts")],
            slope: [saved("slope of images"), saved("slope of texts")],
            height: [saved("height of images"), saved("height of texts")],
        };
        let backward = ContrastiveBackward {
            shape,
            settings,
            inputs,
            saved,
            weight: operands.stats_of("weight", weight),
            dimage: operands.output("dimage", samples * width, self.gradient_tolerance(texts)),
            dtext: operands.output("dtext", texts * width, self.gradient_tolerance(samples)),
            loss: operands.output_stats("loss", 1, sum),
            dlog_scale: operands.output_stats("dlog_scale", 1, sum),
        };
        in_order![Contrastive { shape, settings, inputs, averages, saved }, backward]
    }
}
