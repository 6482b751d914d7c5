//! Inner products of embeddings in tiles of 128 x 128, a block each.

use super::launch::Address;
use super::{Cuda, arguments, linear};
use crate::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use crate::ops::{Run, Write};

const TILE: usize = 128;
const THREADS: usize = 256;
/// `GradientShared` of `kernels/similarity.cu`.
pub(super) const GRADIENT_SHARED: usize = 48 << 10;

impl Run<Similarity> for Cuda {
    fn run(&mut self, Similarity { shape, a, b, s }: Similarity) {
        let SimilarityShape { rows, columns, width } = shape;
        let aligned = width.is_multiple_of(8) && columns.is_multiple_of(2);
        let kernel = if aligned { "similarity" } else { "similarity_any" };
        let tiles = rows.div_ceil(TILE) * columns.div_ceil(TILE);
        let arguments = arguments![self.at(a), self.at(b), rows, columns, width, self.at(s)];
        self.launch(kernel, [tiles, 1, 1], THREADS, linear::MMA_SHARED, arguments);
    }
}

impl Run<SimilarityBackward> for Cuda {
    fn run(&mut self, SimilarityBackward { shape, ds, b, write, da }: SimilarityBackward) {
        let (ds, b, da) = (self.at(ds), self.at(b), self.at(da));
        self.similarity_gradient("similarity_row_gradient", shape, shape.rows, [ds, b, da], write);
    }
}

impl Run<SimilarityBackwardColumns> for Cuda {
    fn run(&mut self, SimilarityBackwardColumns { shape, ds, a, write, db }: SimilarityBackwardColumns) {
        let (ds, a, db) = (self.at(ds), self.at(a), self.at(db));
        self.similarity_gradient("similarity_column_gradient", shape, shape.columns, [ds, a, db], write);
    }
}

impl Cuda {
    /// A gradient of `height` rows: of ds and the other side's embeddings.
    fn similarity_gradient(
        &mut self,
        kernel: &'static str,
        shape: SimilarityShape,
        height: usize,
        [ds, other, out]: [Address; 3],
        write: Write,
    ) {
        let SimilarityShape { rows, columns, width } = shape;
        let grid = [width.div_ceil(TILE), height.div_ceil(TILE), 1];
        let arguments = arguments![ds, other, rows, columns, width, write == Write::Add, out];
        self.launch(kernel, grid, THREADS, GRADIENT_SHARED, arguments);
    }
}
