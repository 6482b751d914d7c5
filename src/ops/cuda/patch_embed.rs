//! Pixels to normalised patches: a block a row of patches.

use super::{Cuda, arguments};
use crate::error::Error;
use crate::ops::Run;
use crate::ops::patch_embed::{PatchEmbed, PatchShape};

/// Threads of a block.
const BLOCK: usize = 256;
/// Shared memory that any GPU has for a block.
pub(super) const MOST_SHARED: usize = 96 << 10;

/// Bytes between rows of pixels in shared memory: as `pitch_of` in the kernel.
fn pitch(row_bytes: usize) -> usize {
    let whole = row_bytes.next_multiple_of(16);
    whole + (128 + 48 - whole % 128) % 128
}

impl Run<PatchEmbed> for Cuda {
    fn run(&mut self, PatchEmbed { shape, normalization, pixels, patches }: PatchEmbed) {
        let PatchShape { images, image_size, patch_size } = shape;
        let shared = patch_size * pitch(3 * image_size);
        if shared > MOST_SHARED {
            return self.fail(Error::input(format!(
                "patch_embed on CUDA takes {} pixels a row of patches, not {patch_size} rows of {image_size}",
                MOST_SHARED / 3
            )));
        }
        let scale = normalization.std.map(|std| (1.0 / (255.0 * std)) as f32);
        let shift: [f32; 3] = std::array::from_fn(|c| (-normalization.mean[c] / normalization.std[c]) as f32);
        let arguments = arguments![
            self.at(pixels),
            self.at(patches),
            image_size,
            patch_size,
            scale[0],
            scale[1],
            scale[2],
            shift[0],
            shift[1],
            shift[2]
        ];
        self.launch("patch_embed", [images * shape.side(), 1, 1], BLOCK, shared, arguments);
    }
}
