//! Pixels to normalised patches: a block a row of patches.

use super::Cuda;
use super::kernels::patch_embed as kernel;
use crate::error::Error;
use crate::ops::Run;
use crate::ops::patch_embed::{PatchEmbed, PatchShape};

/// Shared memory that any GPU has for a block.
pub(super) const MOST_SHARED: usize = 96 << 10;

/// Bytes between rows of pixels in shared memory: as `pitch_of` in the kernel.
fn pitch(row_bytes: usize, patch_size: usize) -> usize {
    let whole = row_bytes.next_multiple_of(16);
    let further = if patch_size.is_multiple_of(16) { 3 * patch_size } else { 48 };
    whole + (further % 128 + 128 - whole % 128) % 128
}

impl Run<PatchEmbed> for Cuda {
    fn run(&mut self, PatchEmbed { shape, normalization, pixels, patches }: PatchEmbed) {
        let PatchShape { images, image_size, patch_size } = shape;
        let shared = patch_size * pitch(3 * image_size, patch_size);
        if shared > MOST_SHARED {
            return self.fail(Error::input(format!(
                "patch_embed on CUDA takes {} pixels a row of patches, not {patch_size} rows of {image_size}",
                MOST_SHARED / 3
            )));
        }
        let scale = normalization.std.map(|std| (1.0 / (255.0 * std)) as f32);
        let shift: [f32; 3] = std::array::from_fn(|c| (-normalization.mean[c] / normalization.std[c]) as f32);
        let parameters = kernel::PatchEmbed {
            pixels: self.at(pixels),
            patches: self.at(patches),
            image_size,
            patch_size,
            scale_red: scale[0],
            scale_green: scale[1],
            scale_blue: scale[2],
            shift_red: shift[0],
            shift_green: shift[1],
            shift_blue: shift[2],
        };
        self.launch(kernel::PATCH_EMBED.shared(shared), [images * shape.side(), 1, 1], parameters);
    }
}
