//! Token embedding. Its backward pass sorts the places by their ids, so that the rows of an id are neighbours and are summed in
//! one order.

use super::position_embed::{position_blocks, slices};
use super::{Cuda, arguments};
use crate::error::Error;
use crate::ops::token_embed::{TokenEmbed, TokenEmbedBackward, TokenShape};
use crate::ops::{Memory, Run};

/// Rows of a block of the forward pass, and chunks of one of the backward pass: a warp each.
const WARPS: usize = 8;
/// Threads of a block.
const BLOCK: usize = 256;
/// Entries that a block sorts.
const TILE: usize = 2048;
/// Bits that one pass of the sort looks at.
const DIGIT: u32 = 8;

impl Run<TokenEmbed> for Cuda {
    fn run(&mut self, TokenEmbed { shape, ids, table, position, x }: TokenEmbed) {
        let TokenShape { texts, tokens, width } = shape;
        let arguments = arguments![self.at(ids), self.at(table), self.at(position), self.at(x), texts, tokens, width];
        self.launch("token_embed", [(texts * tokens).div_ceil(WARPS), 1, 1], BLOCK, 0, arguments);
    }
}

impl Run<TokenEmbedBackward> for Cuda {
    fn run(&mut self, TokenEmbedBackward { shape, ids, dx, dtable, dposition }: TokenEmbedBackward) {
        let TokenShape { texts, tokens, width } = shape;
        let (places, vocabulary) = (texts * tokens, dtable.len() / width);
        let (ids, dx) = (self.at(ids), self.at(dx));

        // Long enough that few ids go on from chunk to chunk, short enough that many chunks are summed at a time.
        let chunk = (places.isqrt() / 2).next_power_of_two().clamp(16, 1024);
        let (tiles, chunks) = (places.div_ceil(TILE), places.div_ceil(chunk));
        let entries = (8 * places).next_multiple_of(256);
        let counts = (4 << DIGIT) * tiles;
        let bytes = 2 * entries + counts + 8 * width * chunks;
        if bytes > Self::WORKSPACE_BYTES {
            let room = Self::WORKSPACE_BYTES;
            return self.fail(Error::input(format!(
                "token_embed on CUDA needs {bytes} bytes for {texts} texts of {tokens} tokens and has {room}"
            )));
        }
        let sorted = [self.workspace(), self.workspace().offset(entries)];
        let counts_at = self.workspace().offset(2 * entries);
        let partials = counts_at.offset(counts);

        let mut from = None;
        let bits = vocabulary.max(2).next_power_of_two().ilog2();
        for pass in 0..bits.div_ceil(DIGIT) {
            let (to, shift) = (sorted[pass as usize % 2], (pass * DIGIT) as usize);
            let arguments = arguments![ids, from, counts_at, places, shift];
            self.launch("token_embed_count", [tiles, 1, 1], BLOCK, 0, arguments);
            let arguments = arguments![ids, from, to, counts_at, places, shift];
            self.launch("token_embed_order", [tiles, 1, 1], BLOCK, 0, arguments);
            from = Some(to);
        }

        self.fill(dtable, 0.0);
        let dtable = self.at(dtable);
        let columns = if width.is_multiple_of(8) { 256 } else { 32 };
        let grid = [chunks.div_ceil(WARPS), width.div_ceil(columns), 1];
        let arguments = arguments![from, dx, dtable, partials, places, width, chunk];
        self.launch("token_embed_backward", grid, BLOCK, 0, arguments);
        let grid = [chunks.div_ceil(WARPS), width.div_ceil(32), 1];
        let arguments = arguments![from, partials, dtable, places, width, chunk];
        self.launch("token_embed_backward_runs", grid, BLOCK, 0, arguments);

        let slices = match slices(texts, tokens * width) {
            Ok(slices) => slices,
            Err(error) => return self.fail(error),
        };
        let (partials, context) = (self.workspace(), dposition.len() / width);
        let grid = [position_blocks(tokens * width, width), slices.count, 1];
        let arguments = arguments![dx, partials, texts, tokens, width, slices.samples];
        self.launch("token_embed_position_backward", grid, BLOCK, 0, arguments);
        let grid = [(context * width).div_ceil(BLOCK), 1, 1];
        let arguments = arguments![partials, self.at(dposition), slices.count, tokens, context, width];
        self.launch("token_embed_position_backward_sum", grid, BLOCK, 0, arguments);
    }
}
