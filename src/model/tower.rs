//! What both towers end in: one token a sample, layer norm, projection, unit length.
//!
//! open_clip normalises all tokens and then takes one; taking it first gives the same and costs a row instead of all.

use super::parameters::ParameterList;
use super::transformer::norm_shape;
use super::weights::{NormWeights, SavedNorm, Weights};
use crate::ops::l2_normalize::{L2Normalize, L2NormalizeBackward};
use crate::ops::linear::{BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearBackwardWeight, LinearShape};
use crate::ops::pool::{Pool, PoolBackward, PoolShape};
use crate::ops::{Device, Ids, Plan, Stats, Tensor, Write};

pub(crate) struct Head {
    norm: NormWeights,
    projection: (Tensor, Stats),
    width: usize,
    embed_dim: usize,
    /// The pooled token [samples, width], and later its gradient.
    pooled: Tensor,
    saved: SavedNorm,
    /// [samples, D], before and after normalisation to unit length.
    pub features: Tensor,
    pub embeddings: Tensor,
    norms: Stats,
    /// Gradients in the way down.
    pub embeddings_gradient: Tensor,
    pub features_gradient: Tensor,
    dnormed: Tensor,
}

impl Head {
    pub(crate) fn plan(
        plan: &mut Plan,
        list: &ParameterList,
        weights: Weights,
        (norm, projection): (&str, &str),
        (samples, width, embed_dim): (usize, usize, usize),
    ) -> Head {
        let projection = list.get(projection);
        Head {
            norm: weights.norm(list, norm),
            projection: (weights.value(projection), weights.gradient(list, projection)),
            width,
            embed_dim,
            pooled: plan.tensor(samples * width),
            saved: SavedNorm::plan(plan, samples, width),
            features: plan.tensor(samples * embed_dim),
            embeddings: plan.tensor(samples * embed_dim),
            norms: plan.stats(samples),
            embeddings_gradient: plan.tensor(samples * embed_dim),
            features_gradient: plan.tensor(samples * embed_dim),
            dnormed: plan.tensor(samples * width),
        }
    }

    /// What is projected [samples, width], after a forward pass.
    pub(crate) fn pooled(&self) -> Tensor {
        self.saved.y
    }

    pub(crate) fn forward(&self, device: &mut dyn Device, pool: PoolShape, position: Option<Ids>, tokens: Tensor) {
        let samples = pool.samples;
        device.run(Pool { shape: pool, position, x: tokens, y: self.pooled });
        device.run(self.norm.forward(norm_shape(samples, self.width), self.pooled, self.saved));
        let shape = LinearShape::projection(samples, self.width, self.embed_dim);
        device.run(Linear {
            shape,
            x: self.saved.y,
            weight: self.projection.0,
            bias: None,
            epilogue: Epilogue::None,
            y: self.features,
        });
        device.run(L2Normalize {
            rows: samples,
            width: self.embed_dim,
            x: self.features,
            y: self.embeddings,
            norm: self.norms,
        });
    }

    /// From the embeddings' gradient to that of all tokens, into `dtokens`.
    pub(crate) fn backward(&self, device: &mut dyn Device, pool: PoolShape, position: Option<Ids>, dtokens: Tensor) {
        device.run(L2NormalizeBackward {
            rows: pool.samples,
            width: self.embed_dim,
            dy: self.embeddings_gradient,
            y: self.embeddings,
            norm: self.norms,
            dx: self.features_gradient,
        });
        self.backward_features(device, pool, position, dtokens);
    }

    /// The same from the features' gradient.
    pub(crate) fn backward_features(
        &self,
        device: &mut dyn Device,
        pool: PoolShape,
        position: Option<Ids>,
        dtokens: Tensor,
    ) {
        let samples = pool.samples;
        let shape = LinearShape::projection(samples, self.width, self.embed_dim);
        device.run(LinearBackwardWeight {
            shape,
            dy: self.features_gradient,
            x: self.saved.y,
            dweight: self.projection.1,
            dbias: None,
        });
        device.run(LinearBackwardData {
            shape,
            dy: self.features_gradient,
            weight: self.projection.0,
            epilogue: BackwardEpilogue::None,
            dx: self.dnormed,
        });
        // ln's input is used up by its own backward pass, but not before: the gradient goes where its output was.
        let dpooled = self.saved.y;
        let norm = norm_shape(samples, self.width);
        device.run(self.norm.backward(norm, self.dnormed, self.pooled, self.saved, Write::Set, dpooled));
        device.run(PoolBackward { shape: pool, position, dy: dpooled, dx: dtokens });
    }
}
