//! Zero-shot classification: each class is the mean direction of its prompts (docs/methods.md, section 5).

use std::cmp::Ordering;

use super::embed::embed_texts;
use super::metrics::{part_within, rank};
use super::similarities::Similarities;
use crate::data::Label;
use crate::model::clip::Clip;
use crate::ops::Device;

/// Class embeddings `[classes, D]`: per class every prompt is encoded, normalised, averaged, and normalised again.
/// `prompts` holds the token ids of all prompts, class by class, the same number for each of `classes`.
pub(crate) fn class_embeddings(device: &mut dyn Device, clip: &Clip, prompts: &[&[u32]], classes: usize) -> Vec<f32> {
    let width = clip.spec.embed_dim;
    let of_class = prompts.len() / classes.max(1);
    let embeddings = embed_texts(device, clip, prompts);
    let mut means = vec![0.0; classes * width];
    for (mean, embeddings) in means.chunks_exact_mut(width).zip(embeddings.chunks_exact(of_class * width)) {
        for embedding in embeddings.chunks_exact(width) {
            mean.iter_mut().zip(embedding).for_each(|(mean, x)| *mean += x);
        }
        let norm = mean.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        mean.iter_mut().for_each(|x| *x /= norm);
    }
    means
}

/// What a row of `scores` is taken for: the candidate of the largest score. Of equals, and of NaN, it is not `truth`: a model
/// that gives everything the same score is right about nothing.
pub(crate) fn choose(scores: &[f32], candidates: &[u32], truth: u32) -> u32 {
    let mut best = candidates[0];
    for candidate in candidates {
        let (score, highest) = (scores[*candidate as usize], scores[best as usize]);
        // NaN is not greater than anything.
        let unfairly_ahead = best == truth && highest.partial_cmp(&score) != Some(Ordering::Greater);
        if score > highest || (unfairly_ahead && *candidate != truth) {
            best = *candidate;
        }
    }
    best
}

/// How images are classified; fractions in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classification {
    /// The images whose own class scores higher than every other.
    pub top_1: f64,
    /// Those where fewer than five others score as high.
    pub top_5: f64,
    /// The mean over the classes that have an image of each one's `top_1`: rare classes count as much as common ones.
    pub mean_per_class_recall: f64,
}

impl Classification {
    /// Of unit rows `images [I, D]` among unit rows `classes [K, D]`; `labels [I]` are the right ones. None without images. Panics when the
    /// sizes do not fit: a bug of the caller.
    pub(crate) fn of(
        device: &mut dyn Device,
        similarities: &Similarities,
        images: &[f32],
        classes: &[f32],
        labels: &[Label],
    ) -> Option<Classification> {
        let ranks = similarities.map(device, images, classes, |image, scores| rank(scores, &[labels[image].0]));
        assert_eq!(ranks.len(), labels.len(), "images are [labels, D]");
        let ranks: Vec<usize> = ranks.into_iter().flatten().collect();
        Classification::of_ranks(&ranks, labels, similarities.rows(classes))
    }

    fn of_ranks(ranks: &[usize], labels: &[Label], classes: usize) -> Option<Classification> {
        if ranks.is_empty() {
            return None;
        }
        let within = |first| part_within(ranks, first);
        let mut of_class = vec![(0u32, 0u32); classes];
        for (rank, label) in ranks.iter().zip(labels) {
            let (right, all) = &mut of_class[label.index()];
            *right += u32::from(*rank == 0);
            *all += 1;
        }
        let recalls =
            of_class.iter().filter(|(_, all)| *all > 0).map(|(right, all)| f64::from(*right) / f64::from(*all));
        let (sum, count) = recalls.fold((0.0, 0.0), |(sum, count), recall| (sum + recall, count + 1.0));
        Some(Classification { top_1: within(1), top_5: within(5), mean_per_class_recall: sum / count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_count_alike_whatever_their_images() {
        // Class 0: right, right, wrong, and fifth; class 2: right; class 1 has no image.
        let found = Classification::of_ranks(&[0, 0, 7, 4, 0], &[0, 0, 0, 0, 2].map(Label), 3).unwrap();
        assert_eq!(found, Classification { top_1: 0.6, top_5: 0.8, mean_per_class_recall: 0.75 });
        assert_eq!(Classification::of_ranks(&[], &[], 3), None);
        // Two images: the first is its class's own direction, the second ties between both.
        let half = std::f32::consts::FRAC_1_SQRT_2;
        let (similarities, mut device) = Similarities::on_cpu(2, [2, 2]);
        let (images, classes) = ([1.0, 0.0, half, half], [1.0, 0.0, 0.0, 1.0]);
        let found = Classification::of(&mut device, &similarities, &images, &classes, &[0, 1].map(Label)).unwrap();
        assert_eq!(found, Classification { top_1: 0.5, top_5: 1.0, mean_per_class_recall: 0.5 });
    }

    #[test]
    fn the_choice_keeps_to_the_candidates() {
        let scores = [0.9, 0.1, 0.5, 0.2];
        assert_eq!(choose(&scores, &[0, 1, 2, 3], 2), 0);
        assert_eq!(choose(&scores, &[3, 2, 1], 1), 2, "never a class that was not asked for");
        assert_eq!(choose(&scores, &[1], 1), 1);
    }

    #[test]
    fn a_tie_is_not_right() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            for truth in 0..3 {
                assert_ne!(choose(&[0.5; 3], &order, truth), truth);
                assert_ne!(choose(&[f32::NAN; 3], &order, truth), truth);
            }
            assert_eq!(choose(&[0.3, 0.4, 0.3], &order, 1), 1, "others may tie");
            assert_ne!(choose(&[0.9, f32::NAN, 0.1], &order, 1), 1);
        }
    }
}
