//! Inner products of embeddings, kept in f32: for losses at temperatures at which storage precision would not do, and
//! whose rows are held, unlike those of [`super::contrastive`].

use super::{Stats, Tensor, Write};

/// `rows` embeddings against `columns` others, all of `width` values.
#[derive(Clone, Copy, Debug)]
pub struct SimilarityShape {
    pub rows: usize,
    pub columns: usize,
    pub width: usize,
}

pub trait Similarity {
    /// s_ij = a_i . b_j: a `[rows, width]`, b `[columns, width]`, s `[rows, columns]`. a and b may be the same span.
    fn similarity(&mut self, shape: SimilarityShape, a: Tensor, b: Tensor, s: Stats);

    /// da_i (=, +=) sum_j ds_ij b_j: ds `[rows, columns]`, da `[rows, width]`.
    fn similarity_backward(&mut self, shape: SimilarityShape, ds: Stats, b: Tensor, write: Write, da: Tensor);

    /// db_j (=, +=) sum_i ds_ij a_i: db `[columns, width]`.
    fn similarity_backward_columns(&mut self, shape: SimilarityShape, ds: Stats, a: Tensor, write: Write, db: Tensor);
}
