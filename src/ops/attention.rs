//! Multi-head self-attention on packed q, k, v.

use super::{Stats, Tensor};

#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub samples: usize,
    pub tokens: usize,
    pub heads: usize,
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

pub trait Attention {
    /// For each sample and head: S = Q K^T / sqrt(head_dim), P = softmax of S's rows, out = P V.
    /// qkv `[samples, tokens, 3 width]` with q, k, v side by side and heads inside each; out `[samples, tokens, width]`;
    /// log_sum_exp `[samples, heads, tokens]` of S's rows is all that the backward pass keeps of P.
    fn attention(&mut self, shape: AttentionShape, qkv: Tensor, out: Tensor, log_sum_exp: Stats);

    /// dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dO O)), dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d).
    /// dout as out, dqkv as qkv.
    fn attention_backward(
        &mut self,
        shape: AttentionShape,
        qkv: Tensor,
        out: Tensor,
        log_sum_exp: Stats,
        dout: Tensor,
        dqkv: Tensor,
    );
}
