//! The image tower: pixels to L2-normalised embeddings.

use super::parameters::ParameterList;
use super::spec::ModelSpec;
use super::tower::Head;
use super::transformer::{Purpose, Transformer, norm_shape};
use super::weights::{NormWeights, SavedNorm, Weights};
use crate::ops::linear::{Epilogue, Linear, LinearBackwardWeight, LinearShape};
use crate::ops::patch_embed::{Normalization, PatchEmbed, PatchShape};
use crate::ops::pool::PoolShape;
use crate::ops::position_embed::{PositionEmbed, PositionEmbedBackward, PositionShape};
use crate::ops::{Bytes, Device, Plan, Stats, Tensor, Write};

/// open_clip's VisionTransformer: patches, class token, positions, ln_pre, blocks, ln_post of the class token, projection.
pub struct VisionTower {
    image_size: usize,
    patch_size: usize,
    width: usize,
    conv1: (Tensor, Stats),
    class_embedding: (Tensor, Stats),
    positional_embedding: (Tensor, Stats),
    ln_pre: NormWeights,
    blocks: Transformer,
    head: Head,
    /// u8 [images, size, size, 3]
    pixels: Bytes,
    /// [images * patches, 3 patch^2]
    patches: Tensor,
    /// [images * patches, width]; the backward pass reuses it for the gradient.
    patch_tokens: Tensor,
    /// [images, 1 + patches, width]; likewise.
    tokens: Tensor,
    ln_pre_saved: SavedNorm,
}

impl VisionTower {
    pub(crate) fn plan(
        plan: &mut Plan,
        spec: &ModelSpec,
        list: &ParameterList,
        weights: Weights,
        images: usize,
        purpose: Purpose,
    ) -> VisionTower {
        let vision = &spec.vision_cfg;
        let (patches, width) = (spec.patches(), vision.width);
        let tokens = patches + 1;
        let view = |name: &str| (weights.value(list.get(name)), weights.gradient(list, list.get(name)));
        let patch_values = 3 * vision.patch_size * vision.patch_size;
        let blocks = Transformer::plan(
            plan,
            spec.vision(),
            "visual.transformer.resblocks",
            list,
            weights,
            (images, tokens),
            purpose,
        );
        VisionTower {
            image_size: vision.image_size,
            patch_size: vision.patch_size,
            width,
            conv1: view("visual.conv1.weight"),
            class_embedding: view("visual.class_embedding"),
            positional_embedding: view("visual.positional_embedding"),
            ln_pre: weights.norm(list, "visual.ln_pre"),
            head: Head::plan(plan, list, weights, ("visual.ln_post", "visual.proj"), (images, width, spec.embed_dim)),
            pixels: plan.pixels(images * vision.image_size * vision.image_size * 3),
            patches: plan.tensor(images * patches * patch_values),
            patch_tokens: plan.tensor(images * patches * width),
            tokens: plan.tensor(images * tokens * width),
            // ln_pre writes where the blocks read.
            ln_pre_saved: SavedNorm {
                y: blocks.input(),
                mean: plan.stats(images * tokens),
                rstd: plan.stats(images * tokens),
            },
            blocks,
        }
    }

    /// Where an image batch goes: u8 `[images, size, size, 3]`.
    pub fn pixels(&self) -> Bytes {
        self.pixels
    }

    /// The first `images` of them.
    pub(crate) fn pixels_of(&self, images: usize) -> Bytes {
        self.pixels.first(images * self.image_size * self.image_size * 3)
    }

    /// L2-normalised embeddings `[images, D]` after [`VisionTower::forward`].
    pub fn embeddings(&self) -> Tensor {
        self.head.embeddings
    }

    /// Where the embeddings' gradient goes before `VisionTower::backward`.
    pub fn embeddings_gradient(&self) -> Tensor {
        self.head.embeddings_gradient
    }

    /// The projections `[images, D]` that [`VisionTower::forward`] brings to unit length: what classifiers' heads read.
    pub fn features(&self) -> Tensor {
        self.head.features
    }

    /// The class token after the last layer norm `[images, width]`, which [`VisionTower::forward`] projects to the features.
    pub fn pooled(&self) -> Tensor {
        self.head.pooled()
    }

    /// Where the features' gradient goes before `VisionTower::backward_features`.
    pub fn features_gradient(&self) -> Tensor {
        self.head.features_gradient
    }

    fn patch_shape(&self, images: usize) -> PatchShape {
        PatchShape { images, image_size: self.image_size, patch_size: self.patch_size }
    }

    fn shapes(&self, images: usize) -> (LinearShape, PositionShape, PoolShape) {
        let patch = self.patch_shape(images);
        let (patches, width) = (patch.count(), self.width);
        (
            LinearShape::new(images * patches, patch.values(), width),
            PositionShape { images, patches, width },
            PoolShape { samples: images, tokens: patches + 1, width },
        )
    }

    /// Runs it on the first `images` of the pixels that were loaded; embeddings and features lie in their spans then.
    pub fn forward(&self, device: &mut dyn Device, images: usize) {
        let (projection, position, pool) = self.shapes(images);
        device.run(PatchEmbed {
            shape: self.patch_shape(images),
            normalization: Normalization::CLIP,
            pixels: self.pixels,
            patches: self.patches,
        });
        device.run(Linear {
            shape: projection,
            x: self.patches,
            weight: self.conv1.0,
            bias: None,
            epilogue: Epilogue::None,
            y: self.patch_tokens,
        });
        device.run(PositionEmbed {
            shape: position,
            patches: self.patch_tokens,
            class: self.class_embedding.0,
            position: self.positional_embedding.0,
            x: self.tokens,
        });
        let norm = norm_shape(images * pool.tokens, self.width);
        device.run(self.ln_pre.forward(norm, self.tokens, self.ln_pre_saved));
        self.blocks.forward(device, images, pool.tokens);
        self.head.forward(device, pool, None, self.blocks.output());
    }

    /// From the embeddings' gradient to that of every parameter. What [`VisionTower::forward`] saved is used up.
    pub(crate) fn backward(&self, device: &mut dyn Device, images: usize) {
        let (_, _, pool) = self.shapes(images);
        self.head.backward(device, pool, None, self.blocks.gradient());
        self.backward_blocks(device, images);
    }

    /// The same from the features' gradient.
    pub(crate) fn backward_features(&self, device: &mut dyn Device, images: usize) {
        let (_, _, pool) = self.shapes(images);
        self.head.backward_features(device, pool, None, self.blocks.gradient());
        self.backward_blocks(device, images);
    }

    fn backward_blocks(&self, device: &mut dyn Device, images: usize) {
        let (projection, position, pool) = self.shapes(images);
        let stream = self.blocks.gradient();
        self.blocks.backward(device, images, pool.tokens);
        // The blocks' input is ln_pre's output, which nothing reads any more: the gradient of ln_pre's input takes its place.
        let norm = norm_shape(images * pool.tokens, self.width);
        let dtokens = self.blocks.input();
        device.run(self.ln_pre.backward(norm, stream, self.tokens, self.ln_pre_saved, Write::Set, dtokens));
        device.run(PositionEmbedBackward {
            shape: position,
            dx: dtokens,
            dpatches: self.patch_tokens,
            dclass: self.class_embedding.1,
            dposition: self.positional_embedding.1,
        });
        device.run(LinearBackwardWeight {
            shape: projection,
            dy: self.patch_tokens,
            x: self.patches,
            dweight: self.conv1.1,
            dbias: None,
        });
    }
}
