//! Token embedding plus position.

use super::{Ids, Stats, Tensor};

/// `tokens` is the length in use, at most the context length: positions after the longest text's end are never computed.
#[derive(Clone, Copy, Debug)]
pub struct TokenShape {
    pub texts: usize,
    pub tokens: usize,
    pub width: usize,
}

pub trait TokenEmbed {
    /// x[t, l] = table[ids[t, l]] + position[l]. ids `[texts, tokens]`, table `[vocabulary, width]`,
    /// position `[context, width]`, x `[texts, tokens, width]`.
    fn token_embed(&mut self, shape: TokenShape, ids: Ids, table: Tensor, position: Tensor, x: Tensor);

    /// dtable[id] = sum of dx over the places that hold id (0 for absent ids), dposition[l] = sum over t of dx[t, l]
    /// (0 from `tokens` on). Sums run in the order of places: the same bits every time.
    fn token_embed_backward(&mut self, shape: TokenShape, ids: Ids, dx: Tensor, dtable: Stats, dposition: Stats);
}
