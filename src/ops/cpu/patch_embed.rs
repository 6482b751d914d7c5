//! Pixels to normalised patches.

use rayon::prelude::*;

use super::{Cpu, Real};
use crate::ops::Run;
use crate::ops::patch_embed::{PatchEmbed, PatchShape};

impl<T: Real> Run<PatchEmbed> for Cpu<T> {
    fn run(&mut self, PatchEmbed { shape, normalization, pixels, patches }: PatchEmbed) {
        let PatchShape { images, image_size, patch_size } = shape;
        let (side, values) = (shape.side(), shape.values());
        let ([patches], [], memory) = self.views([patches.first(images * shape.count() * values).into()], []);
        let pixels = &memory.bytes[pixels.first(images * image_size * image_size * 3).range()];
        // Only 256 values of each channel can occur.
        let level = |channel: usize, value: usize| {
            T::of((value as f64 / 255.0 - normalization.mean[channel]) / normalization.std[channel])
        };
        let levels: [[T; 256]; 3] = std::array::from_fn(|channel| std::array::from_fn(|value| level(channel, value)));
        let pieces = patches.par_chunks_mut(shape.count() * values);
        pieces.zip(pixels.par_chunks(image_size * image_size * 3)).for_each(|(patches, image)| {
            for (patch, values) in patches.chunks_exact_mut(values).enumerate() {
                let (top, left) = (patch / side * patch_size, patch % side * patch_size);
                for (place, value) in values.iter_mut().enumerate() {
                    let (channel, y, x) =
                        (place / (patch_size * patch_size), place / patch_size % patch_size, place % patch_size);
                    let pixel = image[((top + y) * image_size + left + x) * 3 + channel];
                    *value = levels[channel][pixel as usize];
                }
            }
        });
    }
}
