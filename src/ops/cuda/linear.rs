//! Matrix products: by wgmma where the GPU and the operands allow it, else by mma. What follows a product is part of its kernel;
//! pairs that no model has go through a kernel that is told what follows.

use half::bf16;

use super::Cuda;
use super::family::Family;
use super::kernels::linear::{
    self as kernel, EpilogueKind, MMA_SHARED, MMA_TILE, MMA_TILE_K, WGMMA_SHARED, WGMMA_TILE_K, WGMMA_TILE_M,
};
use super::launch::{Kernel, Matrix, Pointer, TensorMap};
use crate::ops::linear::{
    Activation, BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearBackwardWeight, LinearShape, WeightLayout,
};
use crate::ops::{DeviceMemory, Run};

/// Rows of an output tile, in every kernel.
const TILE_ROWS: usize = WGMMA_TILE_M;
const _: () = assert!(MMA_TILE == TILE_ROWS);

/// C [rows, columns] as a sum over the depth.
#[derive(Clone, Copy)]
struct Product {
    rows: usize,
    columns: usize,
    depth: usize,
}

/// How B of a product lies in memory; A is [rows, depth].
#[derive(Clone, Copy)]
enum Factor {
    /// [columns, depth]
    Transposed,
    /// [depth, columns]
    Plain,
}

/// What follows a product: `Epilogue` of `kernels/linear_epilogue.cuh`.
#[derive(Clone, Copy)]
struct Ending {
    kind: EpilogueKind,
    bias: Option<Pointer<bf16>>,
    other: Option<Pointer<bf16>>,
    pre: Option<Pointer<bf16>>,
    out: Pointer<bf16>,
}

/// How a product is cut into units of work.
#[derive(Clone, Copy)]
struct Cut {
    tile_columns: usize,
    splits: usize,
}

/// What a kernel family costs, in clock cycles of a multiprocessor: estimates from the rates of Hopper's tensor cores (2048
/// products a cycle) and L2 cache; only their ratios matter.
struct Costs {
    /// Units of work that run at a time.
    slots: usize,
    depth: usize,
    /// Columns of a tile, cycles for a stage of the ring, cycles for what comes before and after.
    tiles: &'static [(usize, f64, f64)],
}

impl Costs {
    /// 128 x 256 tiles run at the tensor cores' rate, 128 x 128 wait for the L2 cache a quarter of the time.
    fn wgmma(multiprocessors: usize) -> Costs {
        Costs { slots: multiprocessors, depth: WGMMA_TILE_K, tiles: &[(256, 1024.0, 1500.0), (128, 680.0, 1000.0)] }
    }

    /// Two blocks share a multiprocessor.
    fn mma(multiprocessors: usize) -> Costs {
        Costs { slots: 2 * multiprocessors, depth: MMA_TILE_K, tiles: &[(MMA_TILE, 1200.0, 1500.0)] }
    }

    /// The cheapest cut with at most `most_splits` parts of the depth: full waves against the partial sums' way to memory
    /// and back.
    fn cut(&self, product: Product, most_splits: usize) -> Cut {
        let Product { rows, columns, depth } = product;
        let stages = depth.div_ceil(self.depth);
        let mut best = (f64::INFINITY, Cut { tile_columns: 0, splits: 0 });
        for &(tile_columns, stage_cycles, unit_cycles) in self.tiles {
            let tiles = rows.div_ceil(TILE_ROWS) * columns.div_ceil(tile_columns);
            for splits in 1..=most_splits.clamp(1, stages.max(1)) {
                let waves = (tiles * splits).div_ceil(self.slots) as f64;
                let unit = stages.div_ceil(splits) as f64 * stage_cycles + unit_cycles;
                // Written and read once, at about 12 bytes a cycle; and a launch.
                let bytes = if splits > 1 { 8 * splits * rows * columns } else { 0 };
                let second_pass = bytes as f64 / (12 * self.slots) as f64 + if splits > 1 { 4000.0 } else { 0.0 };
                let cost = waves * unit + second_pass;
                if cost < best.0 {
                    best = (cost, Cut { tile_columns, splits });
                }
            }
        }
        best.1
    }
}

/// The kernels of wgmma for tiles of 128 and of 256 columns; None for what models have not: an activation after a weight
/// [in, out], forward or backward.
fn wgmma_kernels(factor: Factor, kind: EpilogueKind) -> Option<[Kernel<kernel::WgmmaProduct>; 2]> {
    use EpilogueKind::{Gelu, GeluBackward, QuickGelu, QuickGeluBackward, Residual};
    Some(match (factor, kind) {
        (Factor::Transposed, EpilogueKind::None) => [kernel::LINEAR_WGMMA_KK_128, kernel::LINEAR_WGMMA_KK_256],
        (Factor::Transposed, Gelu) => [kernel::LINEAR_WGMMA_KK_128_GELU, kernel::LINEAR_WGMMA_KK_256_GELU],
        (Factor::Transposed, QuickGelu) => {
            [kernel::LINEAR_WGMMA_KK_128_QUICK_GELU, kernel::LINEAR_WGMMA_KK_256_QUICK_GELU]
        }
        (Factor::Transposed, Residual) => [kernel::LINEAR_WGMMA_KK_128_RESIDUAL, kernel::LINEAR_WGMMA_KK_256_RESIDUAL],
        (Factor::Plain, EpilogueKind::None) => [kernel::LINEAR_WGMMA_KN_128, kernel::LINEAR_WGMMA_KN_256],
        (Factor::Plain, Residual) => [kernel::LINEAR_WGMMA_KN_128_RESIDUAL, kernel::LINEAR_WGMMA_KN_256_RESIDUAL],
        (Factor::Plain, GeluBackward) => {
            [kernel::LINEAR_WGMMA_KN_128_GELU_BACKWARD, kernel::LINEAR_WGMMA_KN_256_GELU_BACKWARD]
        }
        (Factor::Plain, QuickGeluBackward) => {
            [kernel::LINEAR_WGMMA_KN_128_QUICK_GELU_BACKWARD, kernel::LINEAR_WGMMA_KN_256_QUICK_GELU_BACKWARD]
        }
        (Factor::Transposed, GeluBackward | QuickGeluBackward) | (Factor::Plain, Gelu | QuickGelu) => return None,
    })
}

/// The kernel of mma for rows of a multiple of 16 bytes; None as above.
fn mma_kernel(factor: Factor, kind: EpilogueKind) -> Option<Kernel<kernel::MmaProduct>> {
    use EpilogueKind::{Gelu, GeluBackward, QuickGelu, QuickGeluBackward, Residual};
    Some(match (factor, kind) {
        (Factor::Transposed, EpilogueKind::None) => kernel::LINEAR_MMA_KK,
        (Factor::Transposed, Gelu) => kernel::LINEAR_MMA_KK_GELU,
        (Factor::Transposed, QuickGelu) => kernel::LINEAR_MMA_KK_QUICK_GELU,
        (Factor::Transposed, Residual) => kernel::LINEAR_MMA_KK_RESIDUAL,
        (Factor::Plain, EpilogueKind::None) => kernel::LINEAR_MMA_KN,
        (Factor::Plain, Residual) => kernel::LINEAR_MMA_KN_RESIDUAL,
        (Factor::Plain, GeluBackward) => kernel::LINEAR_MMA_KN_GELU_BACKWARD,
        (Factor::Plain, QuickGeluBackward) => kernel::LINEAR_MMA_KN_QUICK_GELU_BACKWARD,
        (Factor::Transposed, GeluBackward | QuickGeluBackward) | (Factor::Plain, Gelu | QuickGelu) => return None,
    })
}

impl Cuda {
    /// Whether wgmma and TMA take the operands: rows of a multiple of 16 bytes.
    fn takes_wgmma(&self, shape: LinearShape) -> bool {
        self.family == Family::Wgmma && takes_vectors(shape)
    }

    /// A's or B's map where its rows hold the depth, `tile` of them a box.
    fn depth_rows(&mut self, base: Pointer<bf16>, rows: usize, depth: usize, tile: usize) -> TensorMap {
        let base = base.address();
        self.tensor_map(Matrix { base, rows, columns: depth, pitch: depth, tile: (tile, WGMMA_TILE_K) })
    }

    /// A's or B's map where its columns hold the depth.
    fn depth_columns(&mut self, base: Pointer<bf16>, depth: usize, columns: usize) -> TensorMap {
        let base = base.address();
        self.tensor_map(Matrix { base, rows: depth, columns, pitch: columns, tile: (WGMMA_TILE_K, 64) })
    }

    /// Forward and backward by the data: `shape` tells which kernels take the operands.
    fn product(
        &mut self,
        shape: LinearShape,
        product: Product,
        a: Pointer<bf16>,
        b: Pointer<bf16>,
        factor: Factor,
        ending: Ending,
    ) {
        let Product { rows, columns, depth } = product;
        let Ending { kind, bias, other, pre, out } = ending;
        let wgmma = wgmma_kernels(factor, kind).filter(|_| self.takes_wgmma(shape));
        if let Some([narrow, wide]) = wgmma {
            let Cut { tile_columns, .. } = Costs::wgmma(self.multiprocessors()).cut(product, 1);
            let kernel = if tile_columns == 128 { narrow } else { wide };
            let a = self.depth_rows(a, rows, depth, TILE_ROWS);
            let b = match factor {
                Factor::Transposed => self.depth_rows(b, columns, depth, tile_columns),
                Factor::Plain => self.depth_columns(b, depth, columns),
            };
            let units = rows.div_ceil(TILE_ROWS) * columns.div_ceil(tile_columns);
            let grid = [units.min(self.multiprocessors()), 1, 1];
            let parameters = kernel::WgmmaProduct { a, b, rows, columns, depth, bias, other, pre, out };
            self.launch(kernel.shared(WGMMA_SHARED), grid, parameters);
            return;
        }
        let grid = [rows.div_ceil(MMA_TILE) * columns.div_ceil(MMA_TILE), 1, 1];
        if let Some(kernel) = mma_kernel(factor, kind).filter(|_| takes_vectors(shape)) {
            let parameters = kernel::MmaProduct { a, b, rows, columns, depth, bias, other, pre, out };
            self.launch(kernel.shared(MMA_SHARED), grid, parameters);
        } else {
            let kernel = match factor {
                Factor::Transposed => kernel::LINEAR_MMA_KK_ANY,
                Factor::Plain => kernel::LINEAR_MMA_KN_ANY,
            };
            let parameters = kernel::MmaProductAny { a, b, rows, columns, depth, kind, bias, other, pre, out };
            self.launch(kernel.shared(MMA_SHARED), grid, parameters);
        }
    }

    /// The sum of `splits` partial results of `count` values each, in their order.
    fn reduce_splits(&mut self, partials: Pointer<f32>, splits: usize, count: usize, out: Pointer<f32>) {
        let blocks = count.div_ceil(if count.is_multiple_of(4) { 1024 } else { 256 });
        let grid = [blocks.min(8 * self.multiprocessors()), 1, 1];
        self.launch(kernel::LINEAR_REDUCE_SPLITS, grid, kernel::LinearReduceSplits { partials, splits, count, out });
    }

    /// Sums over the rows of x [rows, columns].
    fn column_sums(&mut self, x: Pointer<bf16>, rows: usize, columns: usize, out: Pointer<f32>) {
        let blocks = columns.div_ceil(256);
        let parts = (4 * self.multiprocessors()).div_ceil(blocks);
        let parts = parts.min(rows.div_ceil(64)).min(Self::WORKSPACE_BYTES / (4 * columns)).max(1);
        let partials = if parts > 1 { self.workspace() } else { out };
        let parameters = kernel::LinearColumnSums { x, rows, columns, sums: partials };
        self.launch(kernel::LINEAR_COLUMN_SUMS, [blocks, parts, 1], parameters);
        if parts > 1 {
            self.reduce_splits(partials, parts, columns, out);
        }
    }
}

/// Shapes whose products, forward and backward, go through every kernel of wgmma on a GPU of so many multiprocessors.
pub(crate) fn shapes_for_every_kernel(multiprocessors: usize) -> Vec<LinearShape> {
    // One wave of wide tiles where narrow ones take two.
    let many = TILE_ROWS * (multiprocessors / 2 + 1);
    let shape = |rows, inputs, outputs, layout| LinearShape { rows, inputs, outputs, layout };
    let (out_in, in_out) = (WeightLayout::OutIn, WeightLayout::InOut);
    vec![
        shape(TILE_ROWS + 8, 200, 120, out_in),
        shape(TILE_ROWS + 8, 200, 120, in_out),
        shape(many, 256, 256, out_in),
        shape(many, 256, 256, in_out),
        shape(WGMMA_TILE_K, 256, many, out_in),
    ]
}

/// Whether rows of inputs and of outputs are multiples of 16 bytes.
fn takes_vectors(shape: LinearShape) -> bool {
    shape.inputs.is_multiple_of(8) && shape.outputs.is_multiple_of(8)
}

impl Run<Linear> for Cuda {
    fn run(&mut self, Linear { shape, x, weight, bias, epilogue, y }: Linear) {
        let product = Product { rows: shape.rows, columns: shape.outputs, depth: shape.inputs };
        let factor = match shape.layout {
            WeightLayout::OutIn => Factor::Transposed,
            WeightLayout::InOut => Factor::Plain,
        };
        let bias = bias.map(|bias| self.at(bias));
        let plain = Ending { kind: EpilogueKind::None, bias, other: None, pre: None, out: self.at(y) };
        let ending = match epilogue {
            Epilogue::None => plain,
            Epilogue::Activation { kind, pre } => {
                let kind = match kind {
                    Activation::Gelu => EpilogueKind::Gelu,
                    Activation::QuickGelu => EpilogueKind::QuickGelu,
                };
                Ending { kind, pre: Some(self.at(pre)), ..plain }
            }
            Epilogue::Residual(residual) => {
                Ending { kind: EpilogueKind::Residual, other: Some(self.at(residual)), ..plain }
            }
        };
        self.product(shape, product, self.at(x), self.at(weight), factor, ending);
    }
}

impl Run<LinearBackwardData> for Cuda {
    fn run(&mut self, LinearBackwardData { shape, dy, weight, epilogue, dx }: LinearBackwardData) {
        let product = Product { rows: shape.rows, columns: shape.inputs, depth: shape.outputs };
        let factor = match shape.layout {
            WeightLayout::OutIn => Factor::Plain,
            WeightLayout::InOut => Factor::Transposed,
        };
        let plain = Ending { kind: EpilogueKind::None, bias: None, other: None, pre: None, out: self.at(dx) };
        let ending = match epilogue {
            BackwardEpilogue::None => plain,
            BackwardEpilogue::Activation { kind, pre } => {
                let kind = match kind {
                    Activation::Gelu => EpilogueKind::GeluBackward,
                    Activation::QuickGelu => EpilogueKind::QuickGeluBackward,
                };
                Ending { kind, other: Some(self.at(pre)), ..plain }
            }
        };
        self.product(shape, product, self.at(dy), self.at(weight), factor, ending);
    }
}

impl Run<LinearBackwardWeight> for Cuda {
    fn run(&mut self, LinearBackwardWeight { shape, dy, x, dweight, dbias }: LinearBackwardWeight) {
        let (dy, x, dweight) = (self.at(dy), self.at(x), self.at(dweight));
        let dbias = dbias.map(|dbias| self.at(dbias));
        let (a, rows, b, columns) = match shape.layout {
            WeightLayout::OutIn => (dy, shape.outputs, x, shape.inputs),
            WeightLayout::InOut => (x, shape.inputs, dy, shape.outputs),
        };
        let depth = shape.rows;
        let product = Product { rows, columns, depth };
        let most_splits = Self::WORKSPACE_BYTES / (4 * (rows * columns + rows));
        // The partial weights, then the partial sums of A's columns.
        let partials = |splits: usize, base: Pointer<f32>| (base, base.offset(splits * rows * columns));
        let summed = if self.takes_wgmma(shape) {
            let Cut { tile_columns, splits } = Costs::wgmma(self.multiprocessors()).cut(product, most_splits);
            let fused = dbias.filter(|_| shape.layout == WeightLayout::OutIn);
            let (weights, sums) = match splits {
                1 => (dweight, fused),
                _ => {
                    let (weights, sums) = partials(splits, self.workspace());
                    (weights, fused.map(|_| sums))
                }
            };
            let kernel = if tile_columns == 128 { kernel::LINEAR_WGMMA_MN_128 } else { kernel::LINEAR_WGMMA_MN_256 };
            let (a, b) = (self.depth_columns(a, depth, rows), self.depth_columns(b, depth, columns));
            let units = rows.div_ceil(TILE_ROWS) * columns.div_ceil(tile_columns) * splits;
            let grid = [units.min(self.multiprocessors()), 1, 1];
            let parameters = kernel::WgmmaWeight { a, b, rows, columns, depth, splits, out: weights, sums };
            self.launch(kernel.shared(WGMMA_SHARED), grid, parameters);
            if splits > 1 {
                self.reduce_splits(weights, splits, rows * columns, dweight);
                if let (Some(sums), Some(dbias)) = (sums, fused) {
                    self.reduce_splits(sums, splits, rows, dbias);
                }
            }
            fused.is_some()
        } else {
            let Cut { splits, .. } = Costs::mma(self.multiprocessors()).cut(product, most_splits);
            let weights = if splits > 1 { self.workspace() } else { dweight };
            let kernel = if takes_vectors(shape) { kernel::LINEAR_MMA_MN } else { kernel::LINEAR_MMA_MN_ANY };
            let units = rows.div_ceil(MMA_TILE) * columns.div_ceil(MMA_TILE) * splits;
            let parameters = kernel::MmaWeight { a, b, rows, columns, depth, splits, out: weights };
            self.launch(kernel.shared(MMA_SHARED), [units, 1, 1], parameters);
            if splits > 1 {
                self.reduce_splits(weights, splits, rows * columns, dweight);
            }
            false
        };
        if let Some(dbias) = dbias.filter(|_| !summed) {
            self.column_sums(dy, depth, shape.outputs, dbias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_for_every_kernel_are_that() {
        for multiprocessors in [4, 66, 114, 132, 160] {
            let cut = |rows, columns, depth| {
                Costs::wgmma(multiprocessors).cut(Product { rows, columns, depth }, 1).tile_columns
            };
            let shapes = shapes_for_every_kernel(multiprocessors);
            let of = |layout: WeightLayout| shapes.iter().filter(move |shape| shape.layout == layout);
            for width in [128, 256] {
                // Forward passes of one layout and backward passes of the other share kernels.
                for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
                    let forward = of(layout).any(|shape| cut(shape.rows, shape.outputs, shape.inputs) == width);
                    assert!(forward, "{layout:?} in tiles of {width} on {multiprocessors} multiprocessors");
                }
                let weights = of(WeightLayout::OutIn).any(|shape| {
                    let most_splits = Cuda::WORKSPACE_BYTES / (4 * (shape.outputs * shape.inputs + shape.outputs));
                    let product = Product { rows: shape.outputs, columns: shape.inputs, depth: shape.rows };
                    Costs::wgmma(multiprocessors).cut(product, most_splits).tile_columns == width
                });
                assert!(weights, "weights in tiles of {width} on {multiprocessors} multiprocessors");
            }
        }
    }
}
