//! Token embedding plus position.

use super::{Cost, Ids, Op, Stats, Tensor};

/// `tokens` is the length in use, at most the context length: positions after the longest text's end are never computed.
#[derive(Clone, Copy, Debug)]
pub struct TokenShape {
    /// Distinct texts.
    pub texts: usize,
    /// Tokens of each that are computed.
    pub tokens: usize,
    /// Width of a token.
    pub width: usize,
}

impl TokenShape {
    fn words(&self) -> String {
        format!("{} x {} x {}", self.texts, self.tokens, self.width)
    }

    /// Of all tokens' values in `arrays` arrays, and of `wide` values of four bytes beside the ids.
    fn cost(&self, arrays: usize, wide: usize, storage_bytes: usize) -> Cost {
        let places = self.texts * self.tokens;
        let values = places * self.width;
        Cost { operations: values, bytes: storage_bytes * arrays * values + 4 * (places + wide) }
    }
}

/// `x[t, l] = table[ids[t, l]] + position[l]`.
#[derive(Clone, Copy, Debug)]
pub struct TokenEmbed {
    /// Texts, tokens, width.
    pub shape: TokenShape,
    /// `[texts, tokens]`
    pub ids: Ids,
    /// `[vocabulary, width]`
    pub table: Tensor,
    /// `[context, width]`
    pub position: Tensor,
    /// `[texts, tokens, width]`
    pub x: Tensor,
}

impl Op for TokenEmbed {
    const NAME: &'static str = "token_embed";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(2, 0, storage_bytes)
    }
}

/// `dtable[id]` = sum of dx over the places that hold id (0 for absent ids), `dposition[l]` = sum over t of `dx[t, l]`
/// (0 from `tokens` on). Sums run in the order of places: the same bits every time.
#[derive(Clone, Copy, Debug)]
pub struct TokenEmbedBackward {
    /// As in the forward pass.
    pub shape: TokenShape,
    /// `[texts, tokens]`
    pub ids: Ids,
    /// `[texts, tokens, width]`
    pub dx: Tensor,
    /// `[vocabulary, width]`
    pub dtable: Stats,
    /// `[context, width]`
    pub dposition: Stats,
}

impl Op for TokenEmbedBackward {
    const NAME: &'static str = "token_embed backward";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(1, self.dtable.len() + self.dposition.len(), storage_bytes)
    }
}
