//! Token embedding. Its backward pass sorts the places by their ids, so that the rows of an id are neighbours and are summed in
//! one order.

use super::Cuda;
use super::kernels::token_embed::{self as kernel, DIGITS, TILE};
use super::launch::Pointer;
use super::position_embed::{position_blocks, slices};
use crate::error::Error;
use crate::ops::token_embed::{TokenEmbed, TokenEmbedBackward, TokenShape};
use crate::ops::{DeviceMemory, Run};

/// Bits that one pass of the sort looks at.
const DIGIT: u32 = DIGITS.ilog2();

impl Run<TokenEmbed> for Cuda {
    fn run(&mut self, TokenEmbed { shape, ids, table, position, x }: TokenEmbed) {
        let TokenShape { texts, tokens, width } = shape;
        let (ids, table, position, x) = (self.at(ids), self.at(table), self.at(position), self.at(x));
        let blocks = (texts * tokens).div_ceil(kernel::TOKEN_EMBED.warps());
        let parameters = kernel::TokenEmbed { ids, table, position, x, texts, tokens, width };
        self.launch(kernel::TOKEN_EMBED, [blocks, 1, 1], parameters);
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
        let entries = places.next_multiple_of(256 / size_of::<kernel::Entry>());
        let counts = DIGITS * tiles;
        let bytes = 2 * size_of::<kernel::Entry>() * entries + 4 * counts + 8 * width * chunks;
        if bytes > Self::WORKSPACE_BYTES {
            let room = Self::WORKSPACE_BYTES;
            return self.fail(Error::input(format!(
                "token_embed on CUDA needs {bytes} bytes for {texts} texts of {tokens} tokens and has {room}"
            )));
        }
        let first = self.workspace::<kernel::Entry>();
        let sorted = [first, first.offset(entries)];
        let tile_counts = Pointer::<u32>::new(first.offset(2 * entries).address());
        let partials = Pointer::<f32>::new(tile_counts.offset(counts).address());

        let (mut from, mut order) = (None, first);
        let bits = vocabulary.max(2).next_power_of_two().ilog2();
        for pass in 0..bits.div_ceil(DIGIT) {
            let (to, shift) = (sorted[pass as usize % 2], (pass * DIGIT) as usize);
            let parameters = kernel::TokenEmbedCount { ids, from, tile_counts, places, shift };
            self.launch(kernel::TOKEN_EMBED_COUNT, [tiles, 1, 1], parameters);
            let parameters = kernel::TokenEmbedOrder { ids, from, to, tile_counts, places, shift };
            self.launch(kernel::TOKEN_EMBED_ORDER, [tiles, 1, 1], parameters);
            (from, order) = (Some(to), to);
        }

        self.fill(dtable, 0.0);
        let dtable = self.at(dtable);
        let columns = if width.is_multiple_of(4) { 128 } else { 32 };
        let grid = [chunks.div_ceil(kernel::TOKEN_EMBED_BACKWARD.warps()), width.div_ceil(columns), 1];
        let parameters = kernel::TokenEmbedBackward { order, dx, dtable, partials, places, width, chunk };
        self.launch(kernel::TOKEN_EMBED_BACKWARD, grid, parameters);
        let grid = [chunks.div_ceil(kernel::TOKEN_EMBED_BACKWARD_RUNS.warps()), width.div_ceil(32), 1];
        let parameters = kernel::TokenEmbedBackwardRuns { order, partials, dtable, places, width, chunk };
        self.launch(kernel::TOKEN_EMBED_BACKWARD_RUNS, grid, parameters);

        let slices = match slices(texts, tokens * width) {
            Ok(slices) => slices,
            Err(error) => return self.fail(error),
        };
        let (partials, context) = (self.workspace(), dposition.len() / width);
        let grid = [position_blocks(tokens * width, width), slices.count, 1];
        let per_slice = slices.samples;
        let parameters = kernel::TokenEmbedPositionBackward { dx, partials, texts, tokens, width, per_slice };
        self.launch(kernel::TOKEN_EMBED_POSITION_BACKWARD, grid, parameters);
        let (dposition, slices) = (self.at(dposition), slices.count);
        let blocks = (context * width).div_ceil(kernel::TOKEN_EMBED_POSITION_BACKWARD_SUM.most_threads());
        let parameters = kernel::TokenEmbedPositionBackwardSum { partials, dposition, slices, tokens, context, width };
        self.launch(kernel::TOKEN_EMBED_POSITION_BACKWARD_SUM, [blocks, 1, 1], parameters);
    }
}
