//! Inner products of embeddings in tiles of 128 x 128, a block each.

use super::Cuda;
use super::kernels::similarity as kernel;
use super::launch::Kernel;
use crate::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use crate::ops::{Run, Stats, Tensor, Write};

const TILE: usize = kernel::MMA_TILE;

impl Run<Similarity> for Cuda {
    fn run(&mut self, Similarity { shape, a, b, s }: Similarity) {
        let SimilarityShape { rows, columns, width } = shape;
        let aligned = width.is_multiple_of(8) && columns.is_multiple_of(2);
        let kernel = if aligned { kernel::SIMILARITY } else { kernel::SIMILARITY_ANY };
        let tiles = rows.div_ceil(TILE) * columns.div_ceil(TILE);
        let parameters = kernel::Similarity { a: self.at(a), b: self.at(b), rows, columns, width, s: self.at(s) };
        self.launch(kernel.shared(kernel::MMA_SHARED), [tiles, 1, 1], parameters);
    }
}

impl Run<SimilarityBackward> for Cuda {
    fn run(&mut self, SimilarityBackward { shape, ds, b, write, da }: SimilarityBackward) {
        self.similarity_gradient(kernel::SIMILARITY_ROW_GRADIENT, shape, shape.rows, ds, [b, da], write);
    }
}

impl Run<SimilarityBackwardColumns> for Cuda {
    fn run(&mut self, SimilarityBackwardColumns { shape, ds, a, write, db }: SimilarityBackwardColumns) {
        self.similarity_gradient(kernel::SIMILARITY_COLUMN_GRADIENT, shape, shape.columns, ds, [a, db], write);
    }
}

impl Cuda {
    /// A gradient of `height` rows: of ds and the other side's embeddings.
    fn similarity_gradient(
        &mut self,
        kernel: Kernel<kernel::SimilarityGradient>,
        shape: SimilarityShape,
        height: usize,
        ds: Stats,
        [other, out]: [Tensor; 2],
        write: Write,
    ) {
        let SimilarityShape { rows, columns, width } = shape;
        let grid = [width.div_ceil(TILE), height.div_ceil(TILE), 1];
        let (ds, other, out, adds) = (self.at(ds), self.at(other), self.at(out), write == Write::Add);
        let parameters = kernel::SimilarityGradient { ds, other, rows, columns, width, adds, out };
        self.launch(kernel.shared(kernel::GRADIENT_SHARED), grid, parameters);
    }
}
