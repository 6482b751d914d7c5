//! Layer normalisation.

use super::{Stats, Tensor, Write};

#[derive(Clone, Copy, Debug)]
pub struct LayerNormShape {
    pub rows: usize,
    pub width: usize,
    pub eps: f64,
}

pub trait LayerNorm {
    /// y = (x - mean) rstd gamma + beta for each row, rstd = 1 / sqrt(var + eps), var the biased variance.
    /// x, y `[rows, width]`; gamma, beta `[width]`; mean, rstd `[rows]` are kept for the backward pass.
    #[allow(clippy::too_many_arguments)]
    fn layer_norm(
        &mut self,
        shape: LayerNormShape,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        y: Tensor,
        mean: Stats,
        rstd: Stats,
    );

    /// With n = (x - mean) rstd and g = dy gamma:
    /// dx (=, +=) rstd (g - avg(g) - n avg(g n)), dgamma = column sums of dy n, dbeta = column sums of dy.
    #[allow(clippy::too_many_arguments)]
    fn layer_norm_backward(
        &mut self,
        shape: LayerNormShape,
        dy: Tensor,
        x: Tensor,
        gamma: Tensor,
        mean: Stats,
        rstd: Stats,
        write: Write,
        dx: Tensor,
        dgamma: Stats,
        dbeta: Stats,
    );
}
