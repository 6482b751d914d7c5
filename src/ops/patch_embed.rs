//! Pixels to patches: the u8 image becomes the input of the patch projection in one pass.

use super::{Bytes, Cost, Op, Tensor};

/// Square images cut into square patches; a remainder at the right and bottom is not seen, as in a strided convolution.
#[derive(Clone, Copy, Debug)]
pub struct PatchShape {
    /// Images of the batch.
    pub images: usize,
    /// Edge of an image, in pixels.
    pub image_size: usize,
    /// Edge of a patch, in pixels.
    pub patch_size: usize,
}

impl PatchShape {
    /// Patches along one side.
    pub(crate) fn side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches of one image.
    pub fn count(&self) -> usize {
        self.side() * self.side()
    }

    /// Values of one patch: 3 patch_size^2.
    pub fn values(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }
}

/// Per-channel mean and standard deviation of pixel values in [0, 1].
#[derive(Clone, Copy, Debug)]
pub struct Normalization {
    /// Of red, green and blue.
    pub mean: [f64; 3],
    /// Of red, green and blue, above 0.
    pub std: [f64; 3],
}

impl Normalization {
    /// The constants that all of CLIP's models share (docs/interop.md, preprocessing).
    pub const CLIP: Normalization =
        Normalization { mean: [0.48145466, 0.4578275, 0.40821073], std: [0.26862954, 0.26130258, 0.27577711] };
}

/// `patches[b, p, c, ky, kx] = (pixels[b, y, x, c] / 255 - mean[c]) / std[c]`, in the order of `visual.conv1.weight`, so that
/// the strided convolution is the linear map by that weight. Pixels need no gradient: there is no backward.
#[derive(Clone, Copy, Debug)]
pub struct PatchEmbed {
    /// Images, and the edges of image and patch.
    pub shape: PatchShape,
    /// What the model was trained with.
    pub normalization: Normalization,
    /// u8 `[images, size, size, 3]`
    pub pixels: Bytes,
    /// `[images * count, 3 patch^2]`
    pub patches: Tensor,
}

impl Op for PatchEmbed {
    const NAME: &'static str = "patch_embed";

    fn shape(&self) -> String {
        let PatchShape { images, image_size, patch_size } = self.shape;
        format!("{images} x {image_size} / {patch_size}")
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let PatchShape { images, image_size, .. } = self.shape;
        let values = images * self.shape.count() * self.shape.values();
        Cost { operations: 2 * values, bytes: storage_bytes * values + 3 * images * image_size * image_size }
    }
}
