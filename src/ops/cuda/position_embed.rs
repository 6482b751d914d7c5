//! The class token and positions; and how gradients of positions are summed over samples, in two passes.

use super::Cuda;
use super::kernels::position_embed as kernel;
use crate::error::Error;
use crate::ops::position_embed::{PositionEmbed, PositionEmbedBackward, PositionShape};
use crate::ops::{DeviceMemory, Run};

/// Threads of a block of the backward pass.
const BLOCK: usize = kernel::POSITION_EMBED_BACKWARD.most_threads();

/// How many slices of the samples are summed apart, and the samples of one.
#[derive(Clone, Copy)]
pub(super) struct Slices {
    pub count: usize,
    pub samples: usize,
}

/// Slices of at least 32 samples, so that their sums are few beside what is summed, and at most 64, and no more than the
/// workspace has room for. The number depends on shapes alone: sums have one order on any GPU.
pub(super) fn slices(samples: usize, values: usize) -> Result<Slices, Error> {
    let room = Cuda::WORKSPACE_BYTES / (4 * values.max(1));
    if room == 0 {
        return Err(Error::input(format!("position embeddings on CUDA have up to 2^24 values, not {values}")));
    }
    let samples_each = samples.div_ceil(room.min(64)).max(32);
    Ok(Slices { count: samples.div_ceil(samples_each), samples: samples_each })
}

/// Threads that the values of one sample take in the first pass, 4 or 1 each, in blocks.
pub(super) fn position_blocks(values: usize, width: usize) -> usize {
    (values / if width.is_multiple_of(4) { 4 } else { 1 }).div_ceil(BLOCK)
}

impl Run<PositionEmbed> for Cuda {
    fn run(&mut self, PositionEmbed { shape, patches, class, position, x }: PositionEmbed) {
        let PositionShape { images, patches: count, width } = shape;
        let tokens = count + 1;
        let (patches, first, position, x) = (self.at(patches), self.at(class), self.at(position), self.at(x));
        let blocks = (images * tokens).div_ceil(kernel::POSITION_EMBED.warps());
        let parameters = kernel::PositionEmbed { patches, first, position, x, images, tokens, width };
        self.launch(kernel::POSITION_EMBED, [blocks, 1, 1], parameters);
    }
}

impl Run<PositionEmbedBackward> for Cuda {
    fn run(&mut self, PositionEmbedBackward { shape, dx, dpatches, dclass, dposition }: PositionEmbedBackward) {
        let PositionShape { images, patches: count, width } = shape;
        let tokens = count + 1;
        let slices = match slices(images, tokens * width) {
            Ok(slices) => slices,
            Err(error) => return self.fail(error),
        };
        let partials = self.workspace();
        let grid = [position_blocks(tokens * width, width), slices.count, 1];
        let (dx, dpatches, per_slice) = (self.at(dx), self.at(dpatches), slices.samples);
        let parameters = kernel::PositionEmbedBackward { dx, dpatches, partials, images, tokens, width, per_slice };
        self.launch(kernel::POSITION_EMBED_BACKWARD, grid, parameters);
        let grid = [(tokens * width).div_ceil(BLOCK), 1, 1];
        let (dclass, dposition, slices) = (self.at(dclass), self.at(dposition), slices.count);
        let parameters = kernel::PositionEmbedBackwardSum { partials, dclass, dposition, slices, tokens, width };
        self.launch(kernel::POSITION_EMBED_BACKWARD_SUM, grid, parameters);
    }
}
