//! Weight alignment: W_new *= mean ||W_old|| / mean ||W_new|| (DER, arXiv 2103.16788).

/// By what the rows of the new classes, those from `before` to `seen`, are to be multiplied. `blocks` are the weights
/// `[classes, width]` on each extractor's features: a class's row runs through all of them. 1 where there are no old classes, or
/// no new ones.
pub fn alignment(blocks: &[&[f32]], width: usize, before: usize, seen: usize) -> f64 {
    let norm = |class: usize| -> f64 {
        let rows = blocks.iter().flat_map(|block| &block[class * width..(class + 1) * width]);
        rows.map(|w| (*w as f64).powi(2)).sum::<f64>().sqrt()
    };
    let mean = |classes: std::ops::Range<usize>| {
        let count = classes.len() as f64;
        classes.map(norm).sum::<f64>() / count
    };
    if before == 0 || before == seen {
        return 1.0;
    }
    let new = mean(before..seen);
    if new > 0.0 { mean(0..before) / new } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::alignment;

    #[test]
    fn new_rows_come_to_the_old_ones_mean_norm() {
        // Norms over both blocks: 5, 13 | 10, 0 and a class that is not seen.
        let first = [3.0, 0.0, 5.0, 0.0, 0.0, 6.0, 0.0, 0.0, 99.0, 99.0];
        let second = [0.0, 4.0, 0.0, 12.0, 8.0, 0.0, 0.0, 0.0, 99.0, 99.0];
        assert_eq!(alignment(&[&first, &second], 2, 2, 4), 9.0 / 5.0);
        assert_eq!(alignment(&[&first], 2, 0, 4), 1.0);
        assert_eq!(alignment(&[&first], 2, 2, 2), 1.0);
        assert_eq!(alignment(&[&first], 2, 2, 4), 4.0 / 3.0);
    }
}
