//! The arenas in which parameters and gradients lie, and views of them.

use super::parameters::{Parameter, ParameterList};
use crate::ops::layer_norm::LayerNormShape;
use crate::ops::{Device, Plan, Stats, Tensor, Write};

/// Flat arenas of one layout: master weights, the storage copy that ops read, and gradients (empty without training).
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub master: Stats,
    pub storage: Tensor,
    pub gradients: Stats,
}

impl Weights {
    /// Room for `list`; gradients only where they will be written.
    pub fn plan(plan: &mut Plan, list: &ParameterList, training: bool) -> Weights {
        let master = plan.section("parameters", |plan| plan.stats(list.arena_len()));
        let storage = plan.section("parameters", |plan| plan.weights(master));
        let gradients = plan.section("gradients", |plan| plan.stats(if training { list.arena_len() } else { 0 }));
        Weights { master, storage, gradients }
    }

    pub fn value(&self, parameter: &Parameter) -> Tensor {
        self.storage.slice(parameter.offset, parameter.len())
    }

    /// The parameter's gradient; an empty span where none are kept.
    pub fn gradient(&self, parameter: &Parameter) -> Stats {
        if self.gradients.is_empty() { self.gradients } else { self.gradients.slice(parameter.offset, parameter.len()) }
    }

    /// The layer norm of that name.
    pub fn norm(&self, list: &ParameterList, name: &str) -> NormWeights {
        let (gamma, beta) = (list.get(&format!("{name}.weight")), list.get(&format!("{name}.bias")));
        NormWeights {
            gamma: self.value(gamma),
            beta: self.value(beta),
            dgamma: self.gradient(gamma),
            dbeta: self.gradient(beta),
        }
    }
}

/// A layer norm's parameters and gradients.
pub struct NormWeights {
    gamma: Tensor,
    beta: Tensor,
    dgamma: Stats,
    dbeta: Stats,
}

impl NormWeights {
    pub fn forward<D: Device>(&self, device: &mut D, shape: LayerNormShape, x: Tensor, saved: SavedNorm) {
        device.layer_norm(shape, x, self.gamma, self.beta, saved.y, saved.mean, saved.rstd);
    }

    #[allow(clippy::too_many_arguments)]
    pub fn backward<D: Device>(
        &self,
        device: &mut D,
        shape: LayerNormShape,
        dy: Tensor,
        x: Tensor,
        saved: SavedNorm,
        write: Write,
        dx: Tensor,
    ) {
        let SavedNorm { mean, rstd, .. } = saved;
        device.layer_norm_backward(shape, dy, x, self.gamma, mean, rstd, write, dx, self.dgamma, self.dbeta);
    }
}

/// A layer norm's output [rows, width] and statistics [rows].
#[derive(Clone, Copy)]
pub struct SavedNorm {
    pub y: Tensor,
    pub mean: Stats,
    pub rstd: Stats,
}

impl SavedNorm {
    pub fn plan(plan: &mut Plan, rows: usize, width: usize) -> SavedNorm {
        SavedNorm { y: plan.tensor(rows * width), mean: plan.stats(rows), rstd: plan.stats(rows) }
    }
}
