//! The contrastive family, streamed in blocks: the first pass a block of anchors, the second a block of images at a time.

use rayon::prelude::*;

use super::matmul::{MatrixView, matmul};
use super::vector::{add, dot, maximum, sum, sum2, vectorized};
use super::{Cpu, Real, Side};
use crate::ops::contrastive::{
    Contrastive, ContrastiveBackward, ContrastiveInputs, ContrastiveSettings, ContrastiveShape, Negatives, Surrogate,
};
use crate::ops::{Run, Stats};

/// Anchors, or images, of one block of similarities.
const BLOCK: usize = 32;
/// Blocks of the second pass are dealt to this many groups, each with partial sums of its own.
const GROUPS: usize = 8;

impl Surrogate {
    /// (phi(x), phi'(x)).
    #[inline(always)]
    fn at<T: Real>(self, x: T) -> (T, T) {
        match self {
            Surrogate::Linear => (x, T::ONE),
            Surrogate::SquaredHinge { margin } => {
                let reach = (T::of(margin) + x).max(T::ZERO);
                (reach * reach, T::of(2.0) * reach)
            }
        }
    }
}

/// The batch as both passes read it.
struct Batch<'a, T> {
    shape: ContrastiveShape,
    settings: ContrastiveSettings,
    image: &'a [T],
    text: &'a [T],
    text_of: &'a [u32],
    class_of_text: &'a [u32],
    /// n_c, how many samples share each prompt.
    copies: &'a [T],
    inverse_tau: T,
}

impl<'a, T: Real> Batch<'a, T> {
    /// `copies` is room for `texts` counts, which this fills.
    fn new(
        shape: ContrastiveShape,
        settings: ContrastiveSettings,
        inputs: ContrastiveInputs,
        side: &'a Side<'_, T>,
        [image, text, log_scale]: [&'a [T]; 3],
        copies: &'a mut [T],
    ) -> Self {
        let text_of = side.ids(inputs.text_of.first(shape.samples));
        copies.fill(T::ZERO);
        for text in text_of {
            copies[*text as usize] += T::ONE;
        }
        Batch {
            shape,
            settings,
            image,
            text,
            text_of,
            class_of_text: side.ids(inputs.class_of_text.first(shape.texts)),
            copies,
            inverse_tau: log_scale[0].exp(),
        }
    }

    fn image(&self, sample: usize) -> &[T] {
        &self.image[sample * self.shape.width..][..self.shape.width]
    }

    fn text_of(&self, sample: usize) -> &[T] {
        &self.text[self.text_of[sample] as usize * self.shape.width..][..self.shape.width]
    }

    fn class_of(&self, sample: usize) -> u32 {
        self.class_of_text[self.text_of[sample] as usize]
    }

    /// How often text `text` stands among the negatives of image anchor `sample`.
    #[inline(always)]
    fn text_count(&self, sample: usize, text: usize) -> T {
        let copies = self.copies[text];
        match self.settings.negatives {
            Negatives::All => copies,
            Negatives::Others if self.text_of[sample] as usize == text => copies - T::ONE,
            Negatives::Others => copies,
            Negatives::OtherClasses if self.class_of_text[text] == self.class_of(sample) => T::ZERO,
            Negatives::OtherClasses => copies,
        }
    }

    /// Whether image `image` stands among the negatives of text anchor `sample`.
    #[inline(always)]
    fn image_count(&self, sample: usize, image: usize) -> T {
        let counts = match self.settings.negatives {
            Negatives::All => true,
            Negatives::Others => image != sample,
            Negatives::OtherClasses => self.class_of(image) != self.class_of(sample),
        };
        if counts { T::ONE } else { T::ZERO }
    }

    /// ln |N_i|, the same in both directions; 0 where the positive is included (its sum is not a mean).
    fn log_negatives(&self, sample: usize) -> T {
        match self.settings.negatives {
            Negatives::All => T::ZERO,
            _ => (0..self.shape.texts).fold(T::ZERO, |sum, text| sum + self.text_count(sample, text)).ln(),
        }
    }
}

/// What one anchor's sums come to: log g, and the means of phi' and h / tau under the weights of g.
struct AnchorSums<T> {
    log_g: T,
    slope: T,
    height: T,
}

/// `similarity` holds S_ij for all opponents j and is overwritten; `count` says how often each counts.
#[inline(always)]
fn anchor_sums<T: Real>(
    surrogate: Surrogate,
    inverse_tau: T,
    positive: T,
    log_negatives: T,
    similarity: &mut [T],
    count: &[T],
    slope: &mut [T],
) -> AnchorSums<T> {
    for ((z, slope), count) in similarity.iter_mut().zip(slope.iter_mut()).zip(count) {
        let (h, derivative) = surrogate.at(*z - positive);
        *z = if *count > T::ZERO { h * inverse_tau } else { T::NEG_INFINITY };
        *slope = derivative;
    }
    let largest = maximum(similarity);
    if largest == T::NEG_INFINITY {
        return AnchorSums { log_g: T::NEG_INFINITY, slope: T::ZERO, height: T::ZERO };
    }
    let term = |z: T, count: T| (z - largest).exp() * count;
    let total = sum2(similarity, count, term);
    // 0 * -infinity must not turn up where an opponent does not count.
    let height = sum2(similarity, count, |z, count| if count > T::ZERO { term(z, count) * z } else { T::ZERO });
    for (z, count) in similarity.iter_mut().zip(count) {
        *z = term(*z, *count);
    }
    AnchorSums {
        log_g: largest + total.ln() - log_negatives,
        slope: dot(similarity, slope) / total,
        height: height / total,
    }
}

impl<T: Real> Run<Contrastive> for Cpu<T> {
    fn run(&mut self, Contrastive { shape, settings, inputs, averages, saved }: Contrastive) {
        let ContrastiveShape { samples, texts, width } = shape;
        let first = |span: Stats| span.first(samples).into();
        let average = |side: usize| super::Floats::optional(averages.map(|averages| averages.log_u[side]));
        let (
            [positive, log_u1, log_u2, slope1, slope2, height1, height2, average1, average2],
            [image, text, log_scale, gamma],
            side,
        ) = self.views(
            [
                first(saved.positive),
                first(saved.log_u[0]),
                first(saved.log_u[1]),
                first(saved.slope[0]),
                first(saved.slope[1]),
                first(saved.height[0]),
                first(saved.height[1]),
                average(0),
                average(1),
            ],
            [
                inputs.image.first(samples * width).into(),
                inputs.text.first(texts * width).into(),
                inputs.log_scale.first(1).into(),
                super::Floats::optional(averages.map(|averages| averages.gamma)),
            ],
        );
        let slot = averages.map(|averages| side.ids(averages.slot.first(samples)));
        side.with_partials(texts, |copies| {
            let batch = Batch::new(shape, settings, inputs, &side, [image, text, log_scale], copies);
            positive.par_iter_mut().enumerate().for_each(|(sample, positive)| {
                vectorized(
                    #[inline(always)]
                    || *positive = dot(batch.image(sample), batch.text_of(sample)),
                );
            });
            let positive = &*positive;
            let directions = [
                (Direction::Image, log_u1, slope1, height1, average1),
                (Direction::Text, log_u2, slope2, height2, average2),
            ];
            for (direction, log_u, slope, height, average) in directions {
                let blocks =
                    log_u.par_chunks_mut(BLOCK).zip(slope.par_chunks_mut(BLOCK)).zip(height.par_chunks_mut(BLOCK));
                blocks.enumerate().for_each(|(block, ((log_g, slope), height))| {
                    first_pass(&batch, direction, &side, positive, block * BLOCK, [log_g, slope, height]);
                });
                for sample in 0..samples {
                    let log_g = log_u[sample];
                    if log_g == T::NEG_INFINITY {
                        log_u[sample] = T::INFINITY;
                        continue;
                    }
                    if let Some(slot) = slot {
                        let average = &mut average[slot[sample] as usize];
                        *average = moving_average(*average, log_g, gamma[0].as_f64());
                        log_u[sample] = *average;
                        // The sums above were taken under the weights of g; those of u differ by the factor g / u.
                        let ratio = (log_g - log_u[sample]).exp();
                        slope[sample] *= ratio;
                        height[sample] *= ratio;
                    }
                }
            }
        });
    }
}

impl<T: Real> Run<ContrastiveBackward> for Cpu<T> {
    fn run(&mut self, op: ContrastiveBackward) {
        let ContrastiveBackward { shape, settings, inputs, saved, weight, dimage, dtext, loss, dlog_scale } = op;
        let ContrastiveShape { samples, texts, width } = shape;
        let first = |span: Stats| span.first(samples).into();
        let (
            [dimage, dtext, loss_out, dlog_scale],
            [image, text, log_scale, weight, positive, u1, u2, slope1, slope2, h1, h2],
            side,
        ) = self.views(
            [
                dimage.first(samples * width).into(),
                dtext.first(texts * width).into(),
                loss.first(1).into(),
                dlog_scale.first(1).into(),
            ],
            [
                inputs.image.first(samples * width).into(),
                inputs.text.first(texts * width).into(),
                inputs.log_scale.first(1).into(),
                first(weight),
                first(saved.positive),
                first(saved.log_u[0]),
                first(saved.log_u[1]),
                first(saved.slope[0]),
                first(saved.slope[1]),
                first(saved.height[0]),
                first(saved.height[1]),
            ],
        );
        let blocks_of_group = samples.div_ceil(BLOCK).div_ceil(GROUPS);
        let images_of_group = blocks_of_group * BLOCK;
        let groups = samples.div_ceil(images_of_group);
        side.with_partials(texts + samples + groups * texts * width, |workspace| {
            let (copies, rest) = workspace.split_at_mut(texts);
            let (log_negatives, partials) = rest.split_at_mut(samples);
            let batch = Batch::new(shape, settings, inputs, &side, [image, text, log_scale], copies);
            for (sample, log_negatives) in log_negatives.iter_mut().enumerate() {
                *log_negatives = batch.log_negatives(sample);
            }
            let anchors = Anchors {
                weight,
                positive,
                log_negatives,
                log_u: [u1, u2],
                slope: [slope1, slope2],
                scale: if settings.times_tau { T::ONE } else { batch.inverse_tau },
            };
            let groups = dimage.par_chunks_mut(images_of_group * width).zip(partials.par_chunks_mut(texts * width));
            groups.enumerate().for_each(|(group, (dimage, dtext))| {
                dtext.fill(T::ZERO);
                for (block, dimage) in dimage.chunks_mut(BLOCK * width).enumerate() {
                    second_pass(&batch, &anchors, &side, group * images_of_group + block * BLOCK, dimage, dtext);
                }
            });
            dtext.fill(T::ZERO);
            for partial in partials.chunks_exact(texts * width) {
                vectorized(
                    #[inline(always)]
                    || add(dtext, partial),
                );
            }
            let tau = T::ONE / batch.inverse_tau;
            let (mut loss, mut by_log_scale) = (T::ZERO, T::ZERO);
            for (log_u, height) in [(u1, h1), (u2, h2)] {
                for sample in (0..samples).filter(|&sample| log_u[sample] != T::INFINITY) {
                    let (a, log_u, height) = (weight[sample], log_u[sample], height[sample]);
                    if settings.times_tau {
                        loss += a * tau * log_u;
                        by_log_scale -= a * tau * (log_u - height);
                    } else {
                        loss += a * log_u;
                        by_log_scale += a * height;
                    }
                }
            }
            (loss_out[0], dlog_scale[0]) = (loss, by_log_scale);
        });
    }
}

/// lu = logaddexp(log(1 - gamma) + lu, log gamma + log g); the first visit takes log g.
fn moving_average<T: Real>(old: T, log_g: T, gamma: f64) -> T {
    if old.is_nan() || gamma >= 1.0 {
        return log_g;
    }
    let (a, b) = (T::of((1.0 - gamma).ln()) + old, T::of(gamma.ln()) + log_g);
    let largest = a.max(b);
    if largest == T::NEG_INFINITY { largest } else { largest + ((a - largest).exp() + (b - largest).exp()).ln() }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    /// Image anchors against texts.
    Image,
    /// Text anchors against images.
    Text,
}

/// log g, slope and height of the anchors from `start` on.
fn first_pass<T: Real>(
    batch: &Batch<T>,
    direction: Direction,
    side: &Side<T>,
    positive: &[T],
    start: usize,
    [log_g, slope, height]: [&mut [T]; 3],
) {
    let ContrastiveShape { samples, texts, width } = batch.shape;
    let (opponents, others) = match direction {
        Direction::Image => (batch.text, texts),
        Direction::Text => (batch.image, samples),
    };
    let count = log_g.len();
    side.with_scratch(count * (width + others) + 2 * others, |scratch| {
        let (anchors, rest) = scratch.split_at_mut(count * width);
        let (similarity, rest) = rest.split_at_mut(count * others);
        let (counts, slopes) = rest.split_at_mut(others);
        for (i, anchor) in anchors.chunks_exact_mut(width).enumerate() {
            anchor.copy_from_slice(match direction {
                Direction::Image => batch.image(start + i),
                Direction::Text => batch.text_of(start + i),
            });
        }
        let opponents = MatrixView::rows(opponents, width).transposed();
        matmul([count, others, width], T::ONE, MatrixView::rows(anchors, width), opponents, similarity, others, false);
        for (i, similarity) in similarity.chunks_exact_mut(others).enumerate() {
            let sample = start + i;
            vectorized(
                #[inline(always)]
                || {
                    for (other, count) in counts.iter_mut().enumerate() {
                        *count = match direction {
                            Direction::Image => batch.text_count(sample, other),
                            Direction::Text => batch.image_count(sample, other),
                        };
                    }
                    let log_negatives = match batch.settings.negatives {
                        Negatives::All => T::ZERO,
                        _ => sum(counts, |count| count).ln(),
                    };
                    let surrogate = batch.settings.surrogate;
                    let sums = anchor_sums(
                        surrogate,
                        batch.inverse_tau,
                        positive[sample],
                        log_negatives,
                        similarity,
                        counts,
                        slopes,
                    );
                    (log_g[i], slope[i], height[i]) = (sums.log_g, sums.slope, sums.height);
                },
            );
        }
    });
}

/// What the second pass knows of every anchor.
struct Anchors<'a, T> {
    weight: &'a [T],
    positive: &'a [T],
    log_negatives: &'a [T],
    log_u: [&'a [T]; 2],
    slope: [&'a [T]; 2],
    /// 1, or 1 / tau.
    scale: T,
}

/// dS of the images from `start` on against all texts; their part of dimage is written, that of dtext added.
fn second_pass<T: Real>(
    batch: &Batch<T>,
    anchors: &Anchors<T>,
    side: &Side<T>,
    start: usize,
    dimage: &mut [T],
    dtext: &mut [T],
) {
    let ContrastiveShape { samples, texts, width } = batch.shape;
    let surrogate = batch.settings.surrogate;
    let count = dimage.len() / width;
    let images = start..start + count;
    let image = MatrixView::rows(&batch.image[start * width..][..count * width], width);
    let text = MatrixView::rows(batch.text, width);
    side.with_scratch(2 * texts * count, |scratch| {
        // Both [texts, images of the block], so that every inner loop runs along images.
        let (similarity, gradient) = scratch.split_at_mut(texts * count);
        matmul([texts, count, width], T::ONE, text, image.transposed(), similarity, count, false);
        let similarity = &*similarity;
        vectorized(
            #[inline(always)]
            || {
                for (c, gradient) in gradient.chunks_exact_mut(count).enumerate() {
                    let similarity = &similarity[c * count..][..count];
                    for (j, gradient) in gradient.iter_mut().enumerate() {
                        let sample = start + j;
                        let (h, slope) = surrogate.at(similarity[j] - anchors.positive[sample]);
                        let exponent = h * batch.inverse_tau - anchors.log_negatives[sample] - anchors.log_u[0][sample];
                        let times = batch.text_count(sample, c);
                        let weight = if times > T::ZERO { exponent.exp() * times } else { T::ZERO };
                        *gradient = anchors.weight[sample] * anchors.scale * weight * slope;
                    }
                }
                for anchor in 0..samples {
                    let c = batch.text_of[anchor] as usize;
                    let similarity = &similarity[c * count..][..count];
                    let factor = anchors.weight[anchor] * anchors.scale;
                    let offset = anchors.log_negatives[anchor] + anchors.log_u[1][anchor];
                    for (j, gradient) in gradient[c * count..][..count].iter_mut().enumerate() {
                        let (h, slope) = surrogate.at(similarity[j] - anchors.positive[anchor]);
                        let times = batch.image_count(anchor, start + j);
                        let weight = if times > T::ZERO { (h * batch.inverse_tau - offset).exp() } else { T::ZERO };
                        *gradient += factor * weight * slope;
                    }
                }
            },
        );
        for (j, sample) in images.enumerate() {
            let rows = anchors.slope[0][sample] + anchors.slope[1][sample];
            gradient[batch.text_of[sample] as usize * count + j] -= anchors.weight[sample] * anchors.scale * rows;
        }
        let gradient = MatrixView::rows(&*gradient, count);
        matmul([count, width, texts], T::ONE, gradient.transposed(), text, dimage, width, false);
        matmul([texts, width, count], T::ONE, gradient, image, dtext, width, true);
    });
}
