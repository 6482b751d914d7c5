//! Inner products of embeddings, a piece of the output's rows at a time.

use rayon::prelude::*;

use super::linear::{PIECE, piece};
use super::matmul::{Factor, MatrixView, matmul};
use super::{Cpu, Real, Side};
use crate::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use crate::ops::{Run, Write};

impl<T: Real> Run<Similarity> for Cpu<T> {
    fn run(&mut self, Similarity { shape, a, b, s }: Similarity) {
        let SimilarityShape { rows, columns, width } = shape;
        let ([s], [a, b], side) = self
            .views([s.first(rows * columns).into()], [a.first(rows * width).into(), b.first(columns * width).into()]);
        let (a, b) = (MatrixView::rows(a, width), MatrixView::rows(b, width).transposed());
        product(&side, [rows, columns, width], a, b, Write::Set, s);
    }
}

impl<T: Real> Run<SimilarityBackward> for Cpu<T> {
    fn run(&mut self, SimilarityBackward { shape, ds, b, write, da }: SimilarityBackward) {
        let SimilarityShape { rows, columns, width } = shape;
        let ([da], [ds, b], side) = self
            .views([da.first(rows * width).into()], [ds.first(rows * columns).into(), b.first(columns * width).into()]);
        product(&side, [rows, width, columns], MatrixView::rows(ds, columns), MatrixView::rows(b, width), write, da);
    }
}

impl<T: Real> Run<SimilarityBackwardColumns> for Cpu<T> {
    fn run(&mut self, SimilarityBackwardColumns { shape, ds, a, write, db }: SimilarityBackwardColumns) {
        let SimilarityShape { rows, columns, width } = shape;
        let ([db], [ds, a], side) = self
            .views([db.first(columns * width).into()], [ds.first(rows * columns).into(), a.first(rows * width).into()]);
        let ds = MatrixView::rows(ds, columns).transposed();
        product(&side, [columns, width, rows], ds, MatrixView::rows(a, width), write, db);
    }
}

/// c (=, +=) a b: a [m, k], b [k, n], c [m, n].
fn product<T: Real>(
    side: &Side<T>,
    [m, n, k]: [usize; 3],
    a: MatrixView<T>,
    b: MatrixView<T>,
    write: Write,
    c: &mut [T],
) {
    let piece = piece(m, PIECE);
    side.with_partials(Factor::<T>::room([k, n]), |room| {
        let b = Factor::packed(b, [k, n], room);
        c.par_chunks_mut(piece * n).enumerate().for_each(|(i, c)| {
            let a = MatrixView { values: a.after(i * piece, 0), ..a };
            matmul([c.len() / n, n, k], T::ONE, a, b, c, n, write == Write::Add);
        });
    });
}
