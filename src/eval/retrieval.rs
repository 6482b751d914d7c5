//! Retrieval among unit embeddings, images by texts and texts by images (docs/methods.md, section 5). Fractions in [0, 1].
//!
//! A tie never counts in favour, as in [`super::metrics`]. Similarities are made some rows at a time: those of a million
//! images and texts would be four terabytes.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::metrics::{part_within, rank};
use super::similarities::Similarities;
use crate::ops::Device;

/// The fraction of queries with a relevant item among the first 1, 5 and 10.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// The nearest one is relevant.
    pub at_1: f64,
    /// One of the nearest five is.
    pub at_5: f64,
    /// One of the nearest ten is.
    pub at_10: f64,
}

/// Retrieval in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// Images ask for their texts.
    pub image_to_text: Recall,
    /// Texts ask for their images.
    pub text_to_image: Recall,
}

impl Retrieval {
    /// The mean of recall@1 in the two directions.
    pub(crate) fn mean_recall_at_1(&self) -> f64 {
        (self.image_to_text.at_1 + self.text_to_image.at_1) / 2.0
    }

    /// From the ranks of images' and of texts' queries, as [`rank`] has them. None where a direction has no query.
    fn of_ranks(images: Vec<Option<usize>>, texts: Vec<Option<usize>>) -> Option<Retrieval> {
        Some(Retrieval { image_to_text: recall(images)?, text_to_image: recall(texts)? })
    }
}

/// Retrieval among unit rows `images [I, D]` and `texts [T, D]`, embeddings that `device` has made. `texts_of_image` has the texts that belong to each image,
/// each once; there may be several to an image, and a text may belong to several images. A query to which nothing belongs is left
/// out. None where a direction has no query left. `each` is told every image's similarities `[T]` as they are met, and what it makes
/// of them is returned in the order of the images.
/// Panics when the sizes do not fit: a bug of the caller.
pub(crate) fn retrieve<R: Send>(
    device: &mut dyn Device,
    similarities: &Similarities,
    images: &[f32],
    texts: &[f32],
    texts_of_image: &[Vec<u32>],
    each: impl Fn(usize, &[f32]) -> R + Sync,
) -> (Vec<R>, Option<Retrieval>) {
    assert_eq!(similarities.rows(images), texts_of_image.len(), "images are [images, D]");
    let mut images_of_text = vec![Vec::new(); similarities.rows(texts)];
    for (image, of_image) in (0..).zip(texts_of_image) {
        of_image.iter().for_each(|text| images_of_text[*text as usize].push(image));
    }
    let (image_ranks, made) = similarities
        .map(device, images, texts, |image, scores| (rank(scores, &texts_of_image[image]), each(image, scores)))
        .into_par_iter()
        .unzip();
    let text_ranks = similarities.map(device, texts, images, |text, scores| rank(scores, &images_of_text[text]));
    (made, Retrieval::of_ranks(image_ranks, text_ranks))
}

fn recall(ranks: Vec<Option<usize>>) -> Option<Recall> {
    let ranks: Vec<usize> = ranks.into_iter().flatten().collect();
    if ranks.is_empty() {
        return None;
    }
    let within = |first| part_within(&ranks, first);
    Some(Recall { at_1: within(1), at_5: within(5), at_10: within(10) })
}

#[cfg(test)]
mod tests {
    use approx::{abs_diff_eq, assert_abs_diff_eq};

    use super::*;
    use crate::rng::{normal, rng};

    #[track_caller]
    fn close(value: f64, expected: f64) {
        assert_abs_diff_eq!(value, expected, epsilon = 1e-12);
    }

    /// Of similarities [images, texts], a row an image.
    fn of(similarity: &[f32], texts_of_image: &[Vec<u32>], texts: usize) -> Option<Retrieval> {
        let column = |text: usize| -> Vec<f32> { similarity.iter().skip(text).step_by(texts).copied().collect() };
        let belongs = |text: u32| (0..).zip(texts_of_image).filter(move |(_, own)| own.contains(&text));
        let images_of = |text: usize| -> Vec<u32> { belongs(text as u32).map(|(image, _)| image).collect() };
        let image_ranks = similarity.chunks(texts.max(1)).zip(texts_of_image).map(|(row, own)| rank(row, own));
        let text_ranks = (0..texts).map(|text| rank(&column(text), &images_of(text)));
        Retrieval::of_ranks(image_ranks.collect(), text_ranks.collect())
    }

    #[test]
    fn embeddings_are_ranked_as_their_similarities() {
        // More rows than are at work at once, and a width that is no multiple of a vector's.
        let (images, texts, width) = (37, 53, 21);
        let mut generator = rng(5, "embeddings", &[]);
        let mut rows =
            |count: usize| -> Vec<f32> { (0..count * width).map(|_| normal(&mut generator) as f32).collect() };
        let (image_rows, text_rows) = (rows(images), rows(texts));
        let similarity: Vec<f32> = (0..images * texts)
            .map(|place| {
                let (image, text) =
                    (&image_rows[place / texts * width..][..width], &text_rows[place % texts * width..]);
                image.iter().zip(text).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
            })
            .collect();
        // Some images have no text, some two; some texts belong to two images, some to none.
        let own = |image: usize| match image % 3 {
            0 => vec![],
            1 => vec![image as u32],
            _ => vec![image as u32 - 1, image as u32 + 16],
        };
        let texts_of_image: Vec<Vec<u32>> = (0..images).map(own).collect();
        let (similarities, mut device) = Similarities::on_cpu(width, [images, texts]);
        let (largest, found) =
            retrieve(&mut device, &similarities, &image_rows, &text_rows, &texts_of_image, |image, scores| {
                (image, scores.iter().copied().fold(f32::NEG_INFINITY, f32::max))
            });
        assert_eq!(found, of(&similarity, &texts_of_image, texts));
        assert!(found.is_some_and(|found| found.image_to_text.at_10 > 0.0 && found.text_to_image.at_10 < 1.0));
        for (image, (told, largest)) in largest.into_iter().enumerate() {
            let expected = similarity[image * texts..][..texts].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(told, image);
            assert!(abs_diff_eq!(largest, expected, epsilon = 1e-4), "image {image}: {largest} and {expected}");
        }
    }

    /// Where an image and a text belong together when their groups are equal.
    fn of_groups(similarity: &[f32], image_groups: &[u32], text_groups: &[u32]) -> Option<Retrieval> {
        let own =
            |group: &u32| (0..).zip(text_groups).filter(|(_, other)| *other == group).map(|(text, _)| text).collect();
        let texts_of_image: Vec<Vec<u32>> = image_groups.iter().map(own).collect();
        of(similarity, &texts_of_image, text_groups.len())
    }

    #[test]
    fn a_text_of_two_images_is_right_for_both() {
        // Text 0 belongs to both images, text 1 to the second alone.
        let r = of(&[0.1, 0.9, 0.8, 0.2], &[vec![0], vec![0, 1]], 2).unwrap();
        // The first image finds text 1 first, which is not its own; the second finds text 0.
        assert_eq!(r.image_to_text, Recall { at_1: 0.5, at_5: 1.0, at_10: 1.0 });
        // Text 0 finds image 1; text 1 finds image 0.
        assert_eq!(r.text_to_image, Recall { at_1: 0.5, at_5: 1.0, at_10: 1.0 });
    }

    #[test]
    fn retrieval_with_several_texts_an_image() {
        // Images of groups 0, 1, 2; texts of groups 0, 0, 1, 2.
        let similarity = [
            0.1, 0.9, 0.5, 0.2, // the second of its texts is first
            0.8, 0.1, 0.7, 0.2, // its text is second
            0.4, 0.4, 0.4, 0.4, // three wrong ones tie with it
        ];
        let r = of_groups(&similarity, &[0, 1, 2], &[0, 0, 1, 2]).unwrap();
        close(r.image_to_text.at_1, 1.0 / 3.0);
        assert_eq!((r.image_to_text.at_5, r.image_to_text.at_10), (1.0, 1.0));
        // Text 0: image 1 (0.8) is before image 0; texts 1, 2, 3 have theirs first.
        close(r.text_to_image.at_1, 3.0 / 4.0);
        close(r.mean_recall_at_1(), (1.0 / 3.0 + 3.0 / 4.0) / 2.0);
    }

    #[test]
    fn recall_at_5_and_10_count_the_wrong_items_in_front() {
        // One image; wrong texts score 1, 2, ..., 12, and its own one stands with `rank` of them above it.
        for (rank, expected) in [(0, (1.0, 1.0, 1.0)), (1, (0.0, 1.0, 1.0)), (4, (0.0, 1.0, 1.0)), (5, (0.0, 0.0, 1.0))]
            .into_iter()
            .chain([(9, (0.0, 0.0, 1.0)), (10, (0.0, 0.0, 0.0))])
        {
            let mut similarity: Vec<f32> = (1..=12).map(|score| score as f32).collect();
            similarity.push(12.5 - rank as f32);
            let mut groups = vec![7; 13];
            groups[12] = 3;
            let r = of_groups(&similarity, &[3], &groups).unwrap().image_to_text;
            assert_eq!((r.at_1, r.at_5, r.at_10), expected, "rank {rank}");
        }
    }

    #[test]
    fn queries_without_a_partner_are_left_out() {
        let r = of_groups(&[0.9, 0.1, 0.2, 0.3], &[0, 5], &[0, 6]).unwrap();
        assert_eq!((r.image_to_text.at_1, r.text_to_image.at_1), (1.0, 1.0));
        assert_eq!(of_groups(&[0.9], &[0], &[1]), None);
        assert_eq!(of_groups(&[], &[], &[]), None);
    }

    #[test]
    fn nan_is_never_a_hit() {
        let nan = f32::NAN;
        let r = of_groups(&[nan, nan, nan, nan], &[0, 1], &[0, 1]).unwrap();
        assert_eq!((r.image_to_text.at_10, r.text_to_image.at_10), (0.0, 0.0));
        let r = of_groups(&[0.5, nan], &[0], &[0, 1]).unwrap();
        assert_eq!((r.image_to_text.at_1, r.image_to_text.at_5), (0.0, 1.0));
    }
}
