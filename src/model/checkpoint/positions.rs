//! The positional embedding of the image tower for another number of patches, as open_clip's `resize_pos_embed` makes it:
//! the class token's row stays, the others are a square picture that is resized with antialiased bicubic interpolation.

/// What is done with a positional embedding that was made for another resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// It is an error.
    AsStored,
    /// It is resized to the model's resolution.
    Interpolated,
}

/// The side of the grid whose positional embedding has so many rows, the class token's included.
pub(crate) fn side(rows: usize) -> Option<usize> {
    let patches = rows.checked_sub(1).filter(|patches| *patches > 0)?;
    let side = patches.isqrt();
    (side * side == patches).then_some(side)
}

/// The embedding `[1 + new^2, width]` for a grid of `new` x `new` patches; `stored` is `[1 + old^2, width]`.
pub(crate) fn interpolate(stored: &[f32], old: usize, new: usize, width: usize) -> Vec<f32> {
    assert_eq!(stored.len(), (1 + old * old) * width, "a class token and {old} x {old} patches");
    let (class, grid) = stored.split_at(width);
    let taps = taps(old, new);
    // Along the rows, then along the columns, in f64.
    let mut narrowed = vec![0f64; old * new * width];
    for (row, to) in grid.chunks_exact(old * width).zip(narrowed.chunks_exact_mut(new * width)) {
        for (taps, to) in taps.iter().zip(to.chunks_exact_mut(width)) {
            for &(place, weight) in taps {
                to.iter_mut().zip(&row[place * width..]).for_each(|(to, from)| *to += weight * f64::from(*from));
            }
        }
    }
    let mut result = class.to_vec();
    for taps in &taps {
        let mut row = vec![0f64; new * width];
        for &(place, weight) in taps {
            row.iter_mut().zip(&narrowed[place * new * width..]).for_each(|(to, from)| *to += weight * from);
        }
        result.extend(row.into_iter().map(|value| value as f32));
    }
    result
}

/// For each of `new` places the places among `old` that it is made of, with weights of sum 1: the cubic of a = -0.5,
/// stretched to the scale when there become fewer.
fn taps(old: usize, new: usize) -> Vec<Vec<(usize, f64)>> {
    let scale = old as f64 / new as f64;
    let stretch = scale.max(1.0);
    let taps_of = |place: usize| {
        let center = scale * (place as f64 + 0.5);
        let first = (center - 2.0 * stretch + 0.5).max(0.0) as usize;
        let last = ((center + 2.0 * stretch + 0.5) as usize).min(old);
        let mut taps: Vec<(usize, f64)> =
            (first..last).map(|from| (from, cubic((from as f64 + 0.5 - center) / stretch))).collect();
        let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
        taps.iter_mut().for_each(|(_, weight)| *weight /= sum);
        taps
    };
    (0..new).map(taps_of).collect()
}

/// Keys's cubic convolution with a = -0.5.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        _ if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use approx::abs_diff_eq;

    use super::*;

    /// What PyTorch makes of random grids; `make_positions.py` beside it writes it.
    const TORCH: &str = include_str!("../../../tests/fixtures/positions.json");

    #[derive(serde::Deserialize)]
    struct Case {
        old: usize,
        new: usize,
        width: usize,
        stored: Vec<f32>,
        expected: Vec<f32>,
    }

    #[test]
    fn the_grid_is_resized_as_open_clip_does() {
        let cases: Vec<Case> = serde_json::from_str(TORCH).unwrap();
        assert!(cases.len() >= 5);
        for Case { old, new, width, stored, expected } in cases {
            let found = interpolate(&stored, old, new, width);
            assert_eq!(found.len(), expected.len());
            // PyTorch computes in f32: weights and two sums of at most 14 terms of size 1.
            for (found, expected) in found.iter().zip(&expected) {
                assert!(abs_diff_eq!(*found, *expected, epsilon = 4e-6), "{old} to {new}: {found} and {expected}");
            }
        }
    }

    #[test]
    fn the_same_grid_stays_as_it_is() {
        let stored: Vec<f32> = (0..30).map(|value| value as f32 * 0.37 - 3.0).collect();
        assert_eq!(interpolate(&stored, 3, 3, 3), stored);
    }

    #[test]
    fn only_squares_and_a_class_token_are_grids() {
        assert_eq!([0, 1, 2, 5, 6, 50, 197].map(side), [None, None, Some(1), Some(2), None, Some(7), Some(14)]);
    }
}
