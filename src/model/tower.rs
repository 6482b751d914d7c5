//! What both towers end in: one token a sample, layer norm, projection, unit length.
//!
//! open_clip normalises all tokens and then takes one; taking it first gives the same and costs a row instead of all.

use super::parameters::ParameterList;
use super::transformer::norm_shape;
use super::weights::{NormWeights, SavedNorm, Weights};
use crate::ops::linear::{BackwardEpilogue, Epilogue, LinearShape};
use crate::ops::pool::PoolShape;
use crate::ops::{Device, Ids, Plan, Stats, Tensor, Write};

pub struct Head {
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
    pub fn plan(
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

    pub fn forward(&self, device: &mut dyn Device, pool: PoolShape, position: Option<Ids>, tokens: Tensor) {
        let samples = pool.samples;
        device.pool(pool, position, tokens, self.pooled);
        self.norm.forward(device, norm_shape(samples, self.width), self.pooled, self.saved);
        let shape = LinearShape::projection(samples, self.width, self.embed_dim);
        device.linear(shape, self.saved.y, self.projection.0, None, Epilogue::None, self.features);
        device.l2_normalize(samples, self.embed_dim, self.features, self.embeddings, self.norms);
    }

    /// From the embeddings' gradient to that of all tokens, into `dtokens`.
    pub fn backward(&self, device: &mut dyn Device, pool: PoolShape, position: Option<Ids>, dtokens: Tensor) {
        device.l2_normalize_backward(
            pool.samples,
            self.embed_dim,
            self.embeddings_gradient,
            self.embeddings,
            self.norms,
            self.features_gradient,
        );
        self.backward_features(device, pool, position, dtokens);
    }

    /// The same from the features' gradient.
    pub fn backward_features(
        &self,
        device: &mut dyn Device,
        pool: PoolShape,
        position: Option<Ids>,
        dtokens: Tensor,
    ) {
        let samples = pool.samples;
        let shape = LinearShape::projection(samples, self.width, self.embed_dim);
        device.linear_backward_weight(shape, self.features_gradient, self.saved.y, self.projection.1, None);
        device.linear_backward_data(
            shape,
            self.features_gradient,
            self.projection.0,
            BackwardEpilogue::None,
            self.dnormed,
        );
        // ln's input is used up by its own backward pass, but not before: the gradient goes where its output was.
        let dpooled = self.saved.y;
        let norm = norm_shape(samples, self.width);
        self.norm.backward(device, norm, self.dnormed, self.pooled, self.saved, Write::Set, dpooled);
        device.pool_backward(pool, position, dpooled, dtokens);
    }
}
