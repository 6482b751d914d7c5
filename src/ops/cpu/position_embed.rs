//! Class token and positions.

use rayon::prelude::*;

use super::vector::{add, vectorized};
use super::{Cpu, Real};
use crate::ops::Run;
use crate::ops::position_embed::{PositionEmbed, PositionEmbedBackward, PositionShape};

impl<T: Real> Run<PositionEmbed> for Cpu<T> {
    fn run(&mut self, PositionEmbed { shape, patches, class, position, x }: PositionEmbed) {
        let PositionShape { images, patches: count, width } = shape;
        let ([x], [patches, class, position], _) = self.views(
            [x.first(images * (count + 1) * width).into()],
            [patches.first(images * count * width).into(), class.into(), position.into()],
        );
        x.par_chunks_mut((count + 1) * width).zip(patches.par_chunks(count * width)).for_each(|(x, patches)| {
            let (first, rest) = x.split_at_mut(width);
            first.copy_from_slice(class);
            rest.copy_from_slice(patches);
            vectorized(
                #[inline(always)]
                || add(x, position),
            );
        });
    }
}

impl<T: Real> Run<PositionEmbedBackward> for Cpu<T> {
    fn run(&mut self, PositionEmbedBackward { shape, dx, dpatches, dclass, dposition }: PositionEmbedBackward) {
        let PositionShape { images, patches: count, width } = shape;
        let tokens = count + 1;
        let ([dpatches, dclass, dposition], [dx], _) = self.views(
            [dpatches.first(images * count * width).into(), dclass.into(), dposition.into()],
            [dx.first(images * tokens * width).into()],
        );
        dpatches.par_chunks_mut(count * width).zip(dx.par_chunks(tokens * width)).for_each(|(dpatches, dx)| {
            dpatches.copy_from_slice(&dx[width..]);
        });
        dposition.par_chunks_mut(width).enumerate().for_each(|(token, total)| {
            vectorized(
                #[inline(always)]
                || {
                    total.fill(T::ZERO);
                    for image in 0..images {
                        add(total, &dx[(image * tokens + token) * width..][..width]);
                    }
                },
            );
        });
        dclass.copy_from_slice(&dposition[..width]);
    }
}
