//! Herding and the nearest exemplar mean (iCaRL, arXiv 1611.07725), on L2-normalised features.

/// The order in which herding chooses among the rows of `features` `[n, width]`, the first `count` of them:
/// x_k = argmin || mu - (sum_{j<k} phi(x_j) + phi(x)) / k ||, mu the mean of all rows. Each row is chosen once; the first of
/// equals goes before. Sums are in f64, in the order of the choice.
pub(crate) fn herd(features: &[f32], width: usize, count: usize) -> Vec<usize> {
    let rows: Vec<&[f32]> = features.chunks_exact(width).collect();
    let mut mean = vec![0.0f64; width];
    for row in &rows {
        mean.iter_mut().zip(*row).for_each(|(mean, x)| *mean += *x as f64 / rows.len() as f64);
    }
    let mut sum = vec![0.0f64; width];
    let mut chosen: Vec<usize> = Vec::with_capacity(count.min(rows.len()));
    let mut left: Vec<usize> = (0..rows.len()).collect();
    while chosen.len() < count && !left.is_empty() {
        let k = (chosen.len() + 1) as f64;
        let distance = |row: &[f32]| -> f64 {
            mean.iter().zip(&sum).zip(row).map(|((mean, sum), x)| (mean - (sum + *x as f64) / k).powi(2)).sum()
        };
        let distances = left.iter().map(|row| distance(rows[*row]));
        let (place, _) = distances
            .enumerate()
            .reduce(|best, next| if next.1 < best.1 { next } else { best })
            .expect("something is left to choose from");
        let row = left.remove(place);
        sum.iter_mut().zip(rows[row]).for_each(|(sum, x)| *sum += *x as f64);
        chosen.push(row);
    }
    chosen
}

/// The mean direction of unit rows `[n, width]`; 0 where there is no row.
pub(crate) fn mean_direction<'a>(rows: impl Iterator<Item = &'a [f32]>, width: usize) -> Vec<f32> {
    let mut sum = vec![0.0f64; width];
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += *x as f64);
    }
    let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    sum.iter().map(|x| (x / norm) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{normal, rng};

    fn unit_rows(rows: usize, width: usize) -> Vec<f32> {
        let mut generator = rng(5, "herding", &[]);
        let mut values: Vec<f32> = (0..rows * width).map(|_| normal(&mut generator) as f32).collect();
        for row in values.chunks_exact_mut(width) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        values
    }

    /// || mu - mean of `rows` ||^2, from scratch.
    fn distance(features: &[f32], width: usize, rows: &[usize]) -> f64 {
        let all = features.len() / width;
        (0..width)
            .map(|k| {
                let mu = (0..all).map(|row| features[row * width + k] as f64).sum::<f64>() / all as f64;
                let mean = rows.iter().map(|row| features[row * width + k] as f64).sum::<f64>() / rows.len() as f64;
                (mu - mean).powi(2)
            })
            .sum()
    }

    #[test]
    fn every_choice_is_the_best_that_was_left() {
        let (rows, width) = (40, 6);
        let features = unit_rows(rows, width);
        let chosen = herd(&features, width, 15);
        assert_eq!(chosen.len(), 15);
        for k in 1..=15 {
            let mine = distance(&features, width, &chosen[..k]);
            for other in (0..rows).filter(|other| !chosen[..k].contains(other)) {
                let mut rival = chosen[..k - 1].to_vec();
                rival.push(other);
                assert!(mine <= distance(&features, width, &rival) + 1e-12, "choice {k}");
            }
        }
    }

    #[test]
    fn a_shorter_choice_is_the_beginning_of_a_longer_and_all_can_be_chosen() {
        let features = unit_rows(9, 4);
        let all = herd(&features, 4, 100);
        let mut sorted = all.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..9).collect::<Vec<_>>());
        assert_eq!(herd(&features, 4, 4), all[..4]);
        assert_eq!(herd(&[], 4, 4), [0usize; 0]);
    }

    #[test]
    fn a_mean_direction_has_unit_length() {
        let rows = [[1.0, 0.0], [0.0, 1.0]];
        let mean = mean_direction(rows.iter().map(|row| row.as_slice()), 2);
        assert!(mean.iter().all(|x| (x - 0.5f32.sqrt()).abs() < 1e-7), "{mean:?}");
        assert_eq!(mean_direction(std::iter::empty(), 2), [0.0, 0.0]);
    }
}
