//! The class token in front of the patches, and positions on all of them.

use super::{Cost, Op, Stats, Tensor};

/// `patches` tokens an image and one class token before them.
#[derive(Clone, Copy, Debug)]
pub struct PositionShape {
    /// Images of the batch.
    pub images: usize,
    /// Patches of an image.
    pub patches: usize,
    /// Width of a token.
    pub width: usize,
}

impl PositionShape {
    fn words(&self) -> String {
        format!("{} x {} x {}", self.images, self.patches + 1, self.width)
    }

    /// Of all patches' and all tokens' values, and of `wide` values of four bytes.
    fn cost(&self, wide: usize, storage_bytes: usize) -> Cost {
        let PositionShape { images, patches, width } = self;
        Cost {
            operations: images * (patches + 1) * width,
            bytes: storage_bytes * images * (2 * patches + 1) * width + 4 * wide,
        }
    }
}

/// `x[b, 0] = class + position[0]`, `x[b, 1 + p] = patches[b, p] + position[1 + p]`.
#[derive(Clone, Copy, Debug)]
pub struct PositionEmbed {
    /// Images, patches, width.
    pub shape: PositionShape,
    /// `[images, patches, width]`
    pub patches: Tensor,
    /// `[width]`
    pub class: Tensor,
    /// `[1 + patches, width]`
    pub position: Tensor,
    /// `[images, 1 + patches, width]`
    pub x: Tensor,
}

impl Op for PositionEmbed {
    const NAME: &'static str = "position_embed";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(0, storage_bytes)
    }
}

/// `dpatches[b, p] = dx[b, 1 + p]`, dclass = sum over b of `dx[b, 0]`, dposition = sum over b of `dx[b]`.
#[derive(Clone, Copy, Debug)]
pub struct PositionEmbedBackward {
    /// As in the forward pass.
    pub shape: PositionShape,
    /// `[images, 1 + patches, width]`
    pub dx: Tensor,
    /// `[images, patches, width]`
    pub dpatches: Tensor,
    /// `[width]`
    pub dclass: Stats,
    /// `[1 + patches, width]`
    pub dposition: Stats,
}

impl Op for PositionEmbedBackward {
    const NAME: &'static str = "position_embed backward";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost((self.shape.patches + 2) * self.shape.width, storage_bytes)
    }
}
