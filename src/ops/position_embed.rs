//! The class token in front of the patches, and positions on all of them.

use super::{Stats, Tensor};

/// `patches` tokens an image and one class token before them.
#[derive(Clone, Copy, Debug)]
pub struct PositionShape {
    pub images: usize,
    pub patches: usize,
    pub width: usize,
}

pub trait PositionEmbed {
    /// x[b, 0] = class + position[0], x[b, 1 + p] = patches[b, p] + position[1 + p].
    /// patches `[images, patches, width]`, class `[width]`, position `[1 + patches, width]`, x `[images, 1 + patches, width]`.
    fn position_embed(&mut self, shape: PositionShape, patches: Tensor, class: Tensor, position: Tensor, x: Tensor);

    /// dpatches[b, p] = dx[b, 1 + p], dclass = sum over b of dx[b, 0], dposition = sum over b of dx[b].
    fn position_embed_backward(
        &mut self,
        shape: PositionShape,
        dx: Tensor,
        dpatches: Tensor,
        dclass: Stats,
        dposition: Stats,
    );
}
