//! Multi-head self-attention on packed q, k, v.

use super::{Cost, Op, Stats, Tensor};

/// Self-attention of `samples` sequences of one length; the width is heads times `head_dim`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Sequences, each on its own.
    pub samples: usize,
    /// Length of a sequence.
    pub tokens: usize,
    /// Heads, each on its own.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// A token sees itself and earlier ones only.
    pub causal: bool,
}

impl AttentionShape {
    /// heads x head_dim.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }
}

impl AttentionShape {
    fn words(&self) -> String {
        let AttentionShape { samples, tokens, heads, head_dim, .. } = self;
        format!("{samples} x {heads} x {tokens} x {head_dim}")
    }

    /// Of `products` products [tokens, tokens] by [tokens, head_dim] a head, `arrays` arrays as large as `out`, and the log-sum-exp.
    fn cost(&self, products: usize, arrays: usize, storage_bytes: usize) -> Cost {
        let rows = self.samples * self.tokens;
        // A causal row sees half of the tokens on average.
        let seen = if self.causal { self.tokens.div_ceil(2) } else { self.tokens };
        Cost {
            operations: products * 2 * rows * seen * self.width(),
            bytes: storage_bytes * arrays * rows * self.width() + 4 * rows * self.heads,
        }
    }
}

/// For each sample and head: S = Q K^T / sqrt(head_dim), P = softmax of S's rows, out = P V.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Sizes, and whether the mask is causal.
    pub shape: AttentionShape,
    /// `[samples, tokens, 3 width]` with q, k, v side by side and heads inside each.
    pub qkv: Tensor,
    /// `[samples, tokens, width]`
    pub out: Tensor,
    /// `[samples, heads, tokens]` of S's rows: all that the backward pass keeps of P.
    pub log_sum_exp: Stats,
}

impl Op for Attention {
    const NAME: &'static str = "attention";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(2, 4, storage_bytes)
    }
}

/// dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dO O)), dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d).
#[derive(Clone, Copy, Debug)]
pub struct AttentionBackward {
    /// As in the forward pass.
    pub shape: AttentionShape,
    /// As the forward pass read it.
    pub qkv: Tensor,
    /// As the forward pass wrote it.
    pub out: Tensor,
    /// As the forward pass wrote it.
    pub log_sum_exp: Stats,
    /// As `out`.
    pub dout: Tensor,
    /// As `qkv`.
    pub dqkv: Tensor,
}

impl Op for AttentionBackward {
    const NAME: &'static str = "attention backward";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(5, 8, storage_bytes)
    }
}
