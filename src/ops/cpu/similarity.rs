//! Inner products of embeddings, a piece of the output's rows at a time.

use rayon::prelude::*;

use super::linear::{PIECE, piece};
use super::matmul::{Factor, Matrix, matmul};
use super::{Cpu, Real, Side};
use crate::ops::similarity::{Similarity, SimilarityShape};
use crate::ops::{Stats, Tensor, Write};

impl<T: Real> Similarity for Cpu<T> {
    fn similarity(&mut self, shape: SimilarityShape, a: Tensor, b: Tensor, s: Stats) {
        let SimilarityShape { rows, columns, width } = shape;
        let ([s], [a, b], side) = self
            .views([s.first(rows * columns).into()], [a.first(rows * width).into(), b.first(columns * width).into()]);
        let (a, b) = (Matrix::rows(a, width), Matrix::rows(b, width).transposed());
        product(&side, [rows, columns, width], a, b, Write::Set, s);
    }

    fn similarity_backward(&mut self, shape: SimilarityShape, ds: Stats, b: Tensor, write: Write, da: Tensor) {
        let SimilarityShape { rows, columns, width } = shape;
        let ([da], [ds, b], side) = self
            .views([da.first(rows * width).into()], [ds.first(rows * columns).into(), b.first(columns * width).into()]);
        product(&side, [rows, width, columns], Matrix::rows(ds, columns), Matrix::rows(b, width), write, da);
    }

    fn similarity_backward_columns(&mut self, shape: SimilarityShape, ds: Stats, a: Tensor, write: Write, db: Tensor) {
        let SimilarityShape { rows, columns, width } = shape;
        let ([db], [ds, a], side) = self
            .views([db.first(columns * width).into()], [ds.first(rows * columns).into(), a.first(rows * width).into()]);
        let ds = Matrix::rows(ds, columns).transposed();
        product(&side, [columns, width, rows], ds, Matrix::rows(a, width), write, db);
    }
}

/// c (=, +=) a b: a [m, k], b [k, n], c [m, n].
fn product<T: Real>(side: &Side<T>, [m, n, k]: [usize; 3], a: Matrix<T>, b: Matrix<T>, write: Write, c: &mut [T]) {
    let piece = piece(m, PIECE);
    side.with_partials(Factor::<T>::room([k, n]), |room| {
        let b = Factor::packed(b, [k, n], room);
        c.par_chunks_mut(piece * n).enumerate().for_each(|(i, c)| {
            let a = Matrix { values: a.after(i * piece, 0), ..a };
            matmul([c.len() / n, n, k], T::ONE, a, b, c, n, write == Write::Add);
        });
    });
}
