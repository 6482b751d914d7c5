//! Inner products of embeddings, kept in f32: for losses at temperatures at which storage precision would not do, and
//! whose rows are held, unlike those of [`super::contrastive`].

use super::{Cost, Op, Stats, Tensor, Write};

/// `rows` embeddings against `columns` others, all of `width` values.
#[derive(Clone, Copy, Debug)]
pub struct SimilarityShape {
    /// Embeddings of the one side.
    pub rows: usize,
    /// Embeddings of the other.
    pub columns: usize,
    /// D, values of an embedding.
    pub width: usize,
}

impl SimilarityShape {
    fn words(&self) -> String {
        format!("{} x {} x {}", self.rows, self.columns, self.width)
    }

    /// Of one product, `embeddings` rows of them, and all similarities.
    fn cost(&self, embeddings: usize, storage_bytes: usize) -> Cost {
        let pairs = self.rows * self.columns;
        Cost { operations: 2 * pairs * self.width, bytes: storage_bytes * embeddings * self.width + 4 * pairs }
    }
}

/// s_ij = a_i . b_j. a and b may be the same span.
#[derive(Clone, Copy, Debug)]
pub struct Similarity {
    /// Rows, columns, width.
    pub shape: SimilarityShape,
    /// `[rows, width]`
    pub a: Tensor,
    /// `[columns, width]`
    pub b: Tensor,
    /// `[rows, columns]`
    pub s: Stats,
}

impl Op for Similarity {
    const NAME: &'static str = "similarity";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(self.shape.rows + self.shape.columns, storage_bytes)
    }
}

/// da_i (=, +=) sum_j ds_ij b_j.
#[derive(Clone, Copy, Debug)]
pub struct SimilarityBackward {
    /// As in the forward pass.
    pub shape: SimilarityShape,
    /// `[rows, columns]`
    pub ds: Stats,
    /// `[columns, width]`
    pub b: Tensor,
    /// Whether da is written or added to.
    pub write: Write,
    /// `[rows, width]`
    pub da: Tensor,
}

impl Op for SimilarityBackward {
    const NAME: &'static str = "similarity backward rows";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let SimilarityShape { rows, columns, .. } = self.shape;
        self.shape.cost(columns + self.write.accesses() * rows, storage_bytes)
    }
}

/// db_j (=, +=) sum_i ds_ij a_i.
#[derive(Clone, Copy, Debug)]
pub struct SimilarityBackwardColumns {
    /// As in the forward pass.
    pub shape: SimilarityShape,
    /// `[rows, columns]`
    pub ds: Stats,
    /// `[rows, width]`
    pub a: Tensor,
    /// Whether db is written or added to.
    pub write: Write,
    /// `[columns, width]`
    pub db: Tensor,
}

impl Op for SimilarityBackwardColumns {
    const NAME: &'static str = "similarity backward cols";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let SimilarityShape { rows, columns, .. } = self.shape;
        self.shape.cost(rows + self.write.accesses() * columns, storage_bytes)
    }
}
