//! Attention: a head in shared memory, or, where it does not fit, tiles of one.

use super::Cuda;
use super::kernels::attention::{self as kernel, LONG_OWN, LONG_WARPS, STEP};
use super::launch::{Kernel, Target};
use crate::error::Error;
use crate::ops::Run;
use crate::ops::attention::{Attention, AttentionBackward, AttentionShape};

/// The kernels for heads of up to `dim` values, whose rows are padded to that.
struct Kernels {
    dim: usize,
    /// Forward: a head's keys and values in shared memory, or two tiles of them.
    forward: [Kernel<kernel::Forward>; 2],
    /// Backward: all of a head in shared memory, or tiles.
    backward: [Kernel<kernel::Backward>; 2],
    /// Keys of a tile of the long forward kernel.
    forward_tile: usize,
    /// Rows of a tile of the long backward kernel.
    backward_tile: usize,
}

const KERNELS: [Kernels; 2] = [
    Kernels {
        dim: 64,
        forward: [kernel::ATTENTION_FORWARD_64, kernel::ATTENTION_FORWARD_LONG_64],
        backward: [kernel::ATTENTION_BACKWARD_64, kernel::ATTENTION_BACKWARD_LONG_64],
        forward_tile: kernel::KEY_TILE_64,
        backward_tile: kernel::LONG_TILE_64,
    },
    Kernels {
        dim: 128,
        forward: [kernel::ATTENTION_FORWARD_128, kernel::ATTENTION_FORWARD_LONG_128],
        backward: [kernel::ATTENTION_BACKWARD_128, kernel::ATTENTION_BACKWARD_LONG_128],
        forward_tile: kernel::KEY_TILE_128,
        backward_tile: kernel::LONG_TILE_128,
    },
];

/// Shared memory of a block on any GPU from Ampere on; two such blocks share a multiprocessor of Hopper.
const FORWARD_SHARED: usize = 99 << 10;
/// What each block takes besides, of a multiprocessor that has as much more than a block can have.
const RESERVED: usize = 1 << 10;

/// The most shared memory that a kernel of attention asks for.
pub(super) fn most_shared(kernel: &str, target: Target) -> usize {
    match target {
        _ if kernel.starts_with("attention_forward") => FORWARD_SHARED,
        Target::Sm80 => 163 << 10,
        Target::Sm90a | Target::Compute80 => 227 << 10,
    }
}

impl Kernels {
    fn of(shape: AttentionShape) -> Option<&'static Kernels> {
        let fits = |kernels: &&Kernels| shape.head_dim <= kernels.dim;
        KERNELS.iter().find(fits).filter(|_| shape.head_dim > 0 && shape.head_dim.is_multiple_of(16))
    }

    /// Warps that a multiprocessor has registers for: the backward kernel that holds a head takes them all.
    fn warps(&self) -> usize {
        self.backward[0].warps()
    }

    /// Bytes of `rows` rows.
    fn bytes(&self, rows: usize) -> usize {
        2 * rows * self.dim
    }
}

/// Warps for `pieces` of work, all of the same size, when a block has room for `most`: no more than the longest needs.
fn warps_for(pieces: usize, most: usize) -> usize {
    pieces.div_ceil(pieces.div_ceil(most))
}

impl Cuda {
    /// The kernels for a shape that has work.
    fn attention_kernels(&self, shape: AttentionShape) -> Option<&'static Kernels> {
        let kernels = Kernels::of(shape);
        if kernels.is_none() {
            self.fail(Error::input(format!(
                "attention on CUDA takes a head dimension of 16, 32, 48 and so on up to 128, not {}",
                shape.head_dim
            )));
        }
        kernels.filter(|_| shape.samples * shape.tokens * shape.heads > 0)
    }
}

impl Run<Attention> for Cuda {
    fn run(&mut self, Attention { shape, qkv, out, log_sum_exp }: Attention) {
        let Some(kernels) = self.attention_kernels(shape) else { return };
        let AttentionShape { samples, tokens, heads, head_dim, causal } = shape;
        let (pieces, most) = (tokens.div_ceil(STEP), kernels.warps().min(kernels.forward[0].warps()));

        // Two blocks on a multiprocessor of Hopper: one computes while the other loads.
        let most = if kernels.dim > 64 { most / 2 } else { most };
        let warps = warps_for(pieces, most);
        let whole = kernels.bytes(2 * STEP * pieces + STEP * warps);
        let (kernel, blocks, key_rows, rounds) = if whole <= FORWARD_SHARED {
            (kernels.forward[0], 1, STEP * pieces, pieces.div_ceil(warps))
        } else {
            (kernels.forward[1], pieces.div_ceil(warps), 2 * kernels.forward_tile, 1)
        };
        let kernel = kernel.threads(32 * warps).shared(kernels.bytes(2 * key_rows + STEP * warps));
        let parameters = kernel::Forward {
            qkv: self.at(qkv),
            out: self.at(out),
            log_sum_exp: self.at(log_sum_exp),
            tokens,
            heads,
            head_dim,
            causal,
            scale: 1.0 / (head_dim as f32).sqrt(),
            key_rows,
            rounds,
        };
        self.launch(kernel, [samples * heads, blocks, 1], parameters);
    }
}

impl Run<AttentionBackward> for Cuda {
    fn run(&mut self, AttentionBackward { shape, qkv, out, log_sum_exp, dout, dqkv }: AttentionBackward) {
        let Some(kernels) = self.attention_kernels(shape) else { return };
        let AttentionShape { samples, tokens, heads, head_dim, causal } = shape;
        let limit = self.shared_memory();
        let rows = tokens.next_multiple_of(STEP);
        let whole = kernels.bytes(4 * rows) + 8 * rows;
        let (kernel, grid, warps, shared) = if whole <= limit {
            // Up to three blocks on a multiprocessor share its registers.
            let blocks = ((limit + RESERVED) / (whole + RESERVED)).clamp(1, 3);
            let warps = warps_for(2 * rows / STEP, kernels.warps() / blocks);
            (kernels.backward[0], [samples * heads, 1, 1], warps, whole)
        } else {
            let grid = [samples * heads, tokens.div_ceil(LONG_OWN), 2];
            let rows = 2 * LONG_OWN + 6 * kernels.backward_tile;
            (kernels.backward[1], grid, LONG_WARPS, kernels.bytes(rows) + 8 * LONG_OWN)
        };
        let parameters = kernel::Backward {
            qkv: self.at(qkv),
            out: self.at(out),
            log_sum_exp: self.at(log_sum_exp),
            dout: self.at(dout),
            dqkv: self.at(dqkv),
            tokens,
            heads,
            head_dim,
            causal,
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        self.launch(kernel.threads(32 * warps).shared(shared), grid, parameters);
    }
}
