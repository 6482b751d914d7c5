//! Zero-shot classification: each class is the mean direction of its prompts (methods.md section 5).

use std::cmp::Ordering;

use rayon::prelude::*;

use super::embed::embed_texts;
use crate::model::clip::Clip;
use crate::ops::Device;

/// Class embeddings `[classes, D]`: per class every prompt is encoded, normalised, averaged, and normalised again.
/// `prompts` holds the token ids of all prompts, class by class, the same number for each of `classes`.
pub fn class_embeddings<D: Device>(device: &mut D, clip: &Clip, prompts: &[&[u32]], classes: usize) -> Vec<f32> {
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

/// Cosine similarities `[rows, columns]` of unit rows `a [rows, D]` and `b [columns, D]`.
pub fn similarities(a: &[f32], b: &[f32], width: usize) -> Vec<f32> {
    let columns = b.len() / width;
    let mut scores = vec![0.0; a.len() / width * columns];
    scores.par_chunks_mut(columns.max(1)).zip(a.par_chunks_exact(width)).for_each(|(scores, a)| {
        for (score, b) in scores.iter_mut().zip(b.chunks_exact(width)) {
            *score = a.iter().zip(b).map(|(a, b)| a * b).sum();
        }
    });
    scores
}

/// What a row of `scores` is taken for: the candidate of the largest score. Of equals, and of NaN, it is not `truth`: a model
/// that gives everything the same score is right about nothing.
pub fn choose(scores: &[f32], candidates: &[u32], truth: u32) -> u32 {
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn similarities_are_dot_products() {
        assert_eq!(similarities(&[1.0, 0.0, 0.6, 0.8], &[0.0, 1.0, 1.0, 0.0], 2), [0.0, 1.0, 0.8, 0.6]);
    }
}
