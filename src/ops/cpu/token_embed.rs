//! Token embedding.

use rayon::prelude::*;

use super::vector::{add, vectorized};
use super::{Cpu, Real};
use crate::ops::Run;
use crate::ops::token_embed::{TokenEmbed, TokenEmbedBackward, TokenShape};

impl<T: Real> Run<TokenEmbed> for Cpu<T> {
    fn run(&mut self, TokenEmbed { shape, ids, table, position, x }: TokenEmbed) {
        let TokenShape { texts, tokens, width } = shape;
        let ([x], [table, position], side) =
            self.views([x.first(texts * tokens * width).into()], [table.into(), position.into()]);
        let ids = side.ids(ids.first(texts * tokens));
        x.par_chunks_mut(tokens * width).zip(ids.par_chunks(tokens)).for_each(|(x, ids)| {
            vectorized(
                #[inline(always)]
                || {
                    for (x, id) in x.chunks_exact_mut(width).zip(ids) {
                        x.copy_from_slice(&table[*id as usize * width..][..width]);
                    }
                    add(x, position);
                },
            );
        });
    }
}

impl<T: Real> Run<TokenEmbedBackward> for Cpu<T> {
    fn run(&mut self, TokenEmbedBackward { shape, ids, dx, dtable, dposition }: TokenEmbedBackward) {
        let TokenShape { texts, tokens, width } = shape;
        let ([dtable, dposition], [dx], side) =
            self.views([dtable.into(), dposition.into()], [dx.first(texts * tokens * width).into()]);
        let ids = side.ids(ids.first(texts * tokens));
        // Each piece of the table looks through all places for its own ids, so a row is summed by one thread in one order.
        let piece = (dtable.len() / width).div_ceil(64).max(1);
        dtable.par_chunks_mut(piece * width).enumerate().for_each(|(i, dtable)| {
            let rows = i * piece..(i + 1) * piece;
            dtable.fill(T::ZERO);
            for (place, id) in ids.iter().enumerate() {
                if rows.contains(&(*id as usize)) {
                    let row = *id as usize - rows.start;
                    add(&mut dtable[row * width..][..width], &dx[place * width..][..width]);
                }
            }
        });
        dposition.par_chunks_mut(width).enumerate().for_each(|(token, total)| {
            total.fill(T::ZERO);
            if token < tokens {
                for text in 0..texts {
                    add(total, &dx[(text * tokens + token) * width..][..width]);
                }
            }
        });
    }
}
