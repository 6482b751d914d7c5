//! Zero-shot classification: each class is the mean direction of its prompts (methods.md section 5).

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

/// The class of each row among `candidates`, by the largest of its `scores [rows, classes]`; the first of equals.
pub fn predict(scores: &[f32], classes: usize, candidates: &[u32]) -> Vec<u32> {
    let best = |scores: &[f32]| {
        let mut best = candidates[0];
        for class in candidates {
            if scores[*class as usize] > scores[best as usize] {
                best = *class;
            }
        }
        best
    };
    scores.chunks_exact(classes).map(best).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prediction_keeps_to_the_candidates() {
        let scores = [0.9, 0.1, 0.5, 0.2, 0.3, 0.3];
        assert_eq!(predict(&scores, 3, &[0, 1, 2]), [0, 1]);
        assert_eq!(predict(&scores, 3, &[2, 1]), [2, 2], "the first of equals, and never a class not asked for");
    }

    #[test]
    fn similarities_are_dot_products() {
        assert_eq!(similarities(&[1.0, 0.0, 0.6, 0.8], &[0.0, 1.0, 1.0, 0.0], 2), [0.0, 1.0, 0.8, 0.6]);
    }
}
