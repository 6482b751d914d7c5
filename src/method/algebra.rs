//! Dense matrices in f64 for what is fitted in closed form, rows first. Products are cut into pieces of fixed sizes, and a factorisation
//! runs in one thread: results are the same bits with one thread or many.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::{factor, solve};
use faer::{Conj, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::ops::cpu::{MatrixView, matmul};

/// Rows of a product that are one piece of work.
const ROWS: usize = 64;

/// c = a b, or c += a b: a [m, k], b [k, n], c [m, n].
pub(crate) fn multiply([m, n, k]: [usize; 3], a: MatrixView<f64>, b: MatrixView<f64>, c: &mut [f64], accumulate: bool) {
    multiply_into([m, n, k], a, b, c, n, accumulate);
}

/// The same where the rows of c begin `stride` apart.
pub(crate) fn multiply_into(
    [m, n, k]: [usize; 3],
    a: MatrixView<f64>,
    b: MatrixView<f64>,
    c: &mut [f64],
    stride: usize,
    accumulate: bool,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let length = (m - 1) * stride + n;
    c[..length].par_chunks_mut(ROWS * stride).enumerate().for_each(|(piece, c)| {
        let rows = ROWS.min(m - piece * ROWS);
        let a = MatrixView { values: a.after(piece * ROWS, 0), ..a };
        matmul([rows, n, k], 1.0, a, b, c, stride, accumulate);
    });
}

/// The upper half of gram [width, width] += x^T x, x [rows, width].
pub(crate) fn add_gram(x: &[f64], width: usize, gram: &mut [f64]) {
    let count = x.len() / width;
    if count == 0 {
        return;
    }
    let x = MatrixView::rows(x, width);
    gram.par_chunks_mut(ROWS * width).enumerate().for_each(|(piece, gram)| {
        let first = piece * ROWS;
        let (rows, columns) = (gram.len() / width, width - first);
        let right = MatrixView { values: x.after(0, first), ..x };
        let left = right.transposed();
        matmul([rows, columns, count], 1.0, left, right, &mut gram[first..], width, true);
    });
}

/// A = L L^T.
pub(crate) struct Cholesky {
    order: usize,
    /// L by columns.
    factor: Vec<f64>,
}

impl Cholesky {
    /// Factors a symmetric matrix [order, order], of which the upper half is read, with `ridge` added to its diagonal. None where it is not
    /// positive definite as far as f64 can tell.
    pub(crate) fn of(mut matrix: Vec<f64>, order: usize, ridge: f64) -> Option<Cholesky> {
        matrix.iter_mut().step_by(order + 1).for_each(|diagonal| *diagonal += ridge);
        // Rows of the upper half are columns of the lower one.
        let lower = MatMut::from_column_major_slice_mut(&mut matrix, order, order);
        let mut room = MemBuffer::new(factor::cholesky_in_place_scratch::<f64>(order, Par::Seq, Default::default()));
        let stack = MemStack::new(&mut room);
        factor::cholesky_in_place(lower, Default::default(), Par::Seq, stack, Default::default()).ok()?;
        let whole = matrix.iter().step_by(order + 1).all(|pivot| pivot.is_finite() && *pivot > 0.0);
        whole.then_some(Cholesky { order, factor: matrix })
    }

    /// A x = b for every row b of `sides` [count, order], which becomes x.
    pub(crate) fn solve(&self, sides: &mut [f64]) {
        let factor = MatRef::from_column_major_slice(&self.factor, self.order, self.order);
        // Each side by itself, so that none depends on how many there are.
        sides.par_chunks_mut(SIDES * self.order).for_each(|sides| {
            let count = sides.len() / self.order;
            let sides = MatMut::from_column_major_slice_mut(sides, self.order, count);
            solve::solve_in_place_with_conj(factor, Conj::No, sides, Par::Seq, MemStack::new(&mut []));
        });
    }

    /// The inverse of A [order, order].
    pub(crate) fn inverse(&self) -> Vec<f64> {
        let mut inverse = vec![0.0; self.order * self.order];
        inverse.iter_mut().step_by(self.order + 1).for_each(|diagonal| *diagonal = 1.0);
        self.solve(&mut inverse);
        inverse
    }
}

/// Right sides that are solved for at once.
const SIDES: usize = 32;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rng::{normal, rng};

    pub(crate) fn normals(count: usize, name: &str) -> Vec<f64> {
        let mut generator = rng(3, name, &[]);
        (0..count).map(|_| normal(&mut generator)).collect()
    }

    /// x of A x = b by elimination with pivots, for each row b of `sides`.
    pub(crate) fn eliminate(matrix: &[f64], order: usize, sides: &[f64]) -> Vec<f64> {
        let count = sides.len() / order;
        let mut rows: Vec<Vec<f64>> = (0..order)
            .map(|row| {
                let own = &matrix[row * order..][..order];
                own.iter().copied().chain((0..count).map(|side| sides[side * order + row])).collect()
            })
            .collect();
        for column in 0..order {
            let pivot =
                (column..order).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs())).unwrap();
            rows.swap(column, pivot);
            let first = rows[column].clone();
            for (_, row) in rows.iter_mut().enumerate().filter(|(place, _)| *place != column) {
                let factor = row[column] / first[column];
                row.iter_mut().zip(&first).for_each(|(x, y)| *x -= factor * y);
            }
        }
        (0..count)
            .flat_map(|side| (0..order).map(move |row| (side, row)))
            .map(|(side, row)| rows[row][order + side] / rows[row][row])
            .collect()
    }

    #[test]
    fn products_and_solutions_are_those_of_their_definitions() {
        let (rows, width, columns) = (150, 70, 5);
        let x = normals(rows * width, "x");
        let mut gram = vec![0.0; width * width];
        add_gram(&x, width, &mut gram);
        let mut whole = vec![0.0; width * width];
        multiply(
            [width, width, rows],
            MatrixView::rows(&x, width).transposed(),
            MatrixView::rows(&x, width),
            &mut whole,
            false,
        );
        for (row, column) in (0..width).flat_map(|row| (row..width).map(move |column| (row, column))) {
            let sum: f64 = (0..rows).map(|k| x[k * width + row] * x[k * width + column]).sum();
            // Sums of `rows` terms of size 1 and their squares, each rounded by 2^-53.
            let bound = rows as f64 * 2f64.powi(-52) * rows as f64;
            assert!((gram[row * width + column] - sum).abs() < bound);
            assert!((whole[row * width + column] - sum).abs() < bound);
        }
        let sides = normals(columns * width, "b");
        let mut solved = sides.clone();
        Cholesky::of(gram.clone(), width, 0.5).unwrap().solve(&mut solved);
        let mut ridged = whole.clone();
        ridged.iter_mut().step_by(width + 1).for_each(|diagonal| *diagonal += 0.5);
        let expected = eliminate(&ridged, width, &sides);
        // Its condition is some hundreds: eigenvalues lie between (sqrt 150 -+ sqrt 70)^2.
        solved.iter().zip(&expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-11, "{a} {b}"));
        let inverse = Cholesky::of(gram, width, 0.5).unwrap().inverse();
        let mut one = vec![0.0; width * width];
        multiply([width; 3], MatrixView::rows(&inverse, width), MatrixView::rows(&ridged, width), &mut one, false);
        for (place, value) in one.iter().enumerate() {
            assert!((value - f64::from(u8::from(place % (width + 1) == 0))).abs() < 1e-11);
        }
    }

    #[test]
    fn what_has_no_factor_is_told() {
        assert!(Cholesky::of(vec![1.0, 2.0, 0.0, 1.0], 2, 0.0).is_none());
        assert!(Cholesky::of(vec![1.0, f64::NAN, 0.0, 1.0], 2, 0.0).is_none());
        assert!(Cholesky::of(vec![0.0; 4], 2, 0.0).is_none());
        assert!(Cholesky::of(vec![1.0, 2.0, 0.0, 1.0], 2, 2.0).is_some());
    }
}
