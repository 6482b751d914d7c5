use super::launch::{Address, Matrix, Target, TensorMap};
use super::{Cuda, arguments};
use crate::ops::linear::{
    Activation, BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearBackwardWeight, LinearShape, WeightLayout,
};
use crate::ops::{Memory, Run};

/// Rows of an output tile, in every kernel.
const TILE_ROWS: usize = 128;

/// Values of the depth that one stage of the kernels' rings holds.
const WGMMA_DEPTH: usize = 64;
const MMA_DEPTH: usize = 32;

const WGMMA_THREADS: usize = 384;
pub(super) const WGMMA_SHARED: usize = 212 << 10;
const MMA_THREADS: usize = 256;
pub(super) const MMA_SHARED: usize = 64 << 10;

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

/// What follows a product; `EpilogueKind` of `kernels/linear_epilogue.cuh`.
#[derive(Clone, Copy)]
struct Ending {
    kind: i32,
    bias: Option<Address>,
    other: Option<Address>,
    pre: Option<Address>,
    out: Address,
}

impl Ending {
    const NONE: i32 = 0;
    const RESIDUAL: i32 = 3;

    fn activation(kind: Activation) -> i32 {
        match kind {
            Activation::Gelu => 1,
            Activation::QuickGelu => 2,
        }
    }

    fn activation_backward(kind: Activation) -> i32 {
        match kind {
            Activation::Gelu => 4,
            Activation::QuickGelu => 5,
        }
    }
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
        Costs { slots: multiprocessors, depth: WGMMA_DEPTH, tiles: &[(256, 1024.0, 1500.0), (128, 680.0, 1000.0)] }
    }

    /// Two blocks share a multiprocessor.
    fn mma(multiprocessors: usize) -> Costs {
        Costs { slots: 2 * multiprocessors, depth: MMA_DEPTH, tiles: &[(128, 1200.0, 1500.0)] }
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

impl Cuda {
    /// Whether wgmma and TMA take the operands: Hopper, and rows of a multiple of 16 bytes.
    fn takes_wgmma(&self, shape: LinearShape) -> bool {
        self.target() == Target::Sm90a && takes_vectors(shape)
    }

    /// A's or B's map where its rows hold the depth, `tile` of them a box.
    fn depth_rows(&mut self, base: Address, rows: usize, depth: usize, tile: usize) -> TensorMap {
        self.tensor_map(Matrix { base, rows, columns: depth, pitch: depth, tile: (tile, WGMMA_DEPTH) })
    }

    /// A's or B's map where its columns hold the depth.
    fn depth_columns(&mut self, base: Address, depth: usize, columns: usize) -> TensorMap {
        self.tensor_map(Matrix { base, rows: depth, columns, pitch: columns, tile: (WGMMA_DEPTH, 64) })
    }

    /// Forward and backward by the data: `shape` tells which kernels take the operands.
    fn product(
        &mut self,
        shape: LinearShape,
        product: Product,
        a: Address,
        b: Address,
        factor: Factor,
        ending: Ending,
    ) {
        let Product { rows, columns, depth } = product;
        let Ending { kind, bias, other, pre, out } = ending;
        if self.takes_wgmma(shape) {
            let Cut { tile_columns, .. } = Costs::wgmma(self.multiprocessors()).cut(product, 1);
            let kernel = match (factor, tile_columns) {
                (Factor::Transposed, 128) => "linear_wgmma_kk_128",
                (Factor::Transposed, _) => "linear_wgmma_kk_256",
                (Factor::Plain, 128) => "linear_wgmma_kn_128",
                (Factor::Plain, _) => "linear_wgmma_kn_256",
            };
            let a = self.depth_rows(a, rows, depth, TILE_ROWS);
            let b = match factor {
                Factor::Transposed => self.depth_rows(b, columns, depth, tile_columns),
                Factor::Plain => self.depth_columns(b, depth, columns),
            };
            let units = rows.div_ceil(TILE_ROWS) * columns.div_ceil(tile_columns);
            let grid = [units.min(self.multiprocessors()), 1, 1];
            let arguments = arguments![a, b, rows, columns, depth, kind, bias, other, pre, out];
            self.launch(kernel, grid, WGMMA_THREADS, WGMMA_SHARED, arguments);
        } else {
            let kernel = match (factor, takes_vectors(shape)) {
                (Factor::Transposed, true) => "linear_mma_kk",
                (Factor::Transposed, false) => "linear_mma_kk_any",
                (Factor::Plain, true) => "linear_mma_kn",
                (Factor::Plain, false) => "linear_mma_kn_any",
            };
            let units = rows.div_ceil(TILE_ROWS) * columns.div_ceil(128);
            let arguments = arguments![a, b, rows, columns, depth, kind, bias, other, pre, out];
            self.launch(kernel, [units, 1, 1], MMA_THREADS, MMA_SHARED, arguments);
        }
    }

    /// The sum of `splits` partial results of `count` values each, in their order.
    fn reduce_splits(&mut self, partials: Address, splits: usize, count: usize, out: Address) {
        let blocks = count.div_ceil(if count.is_multiple_of(4) { 1024 } else { 256 });
        let grid = [blocks.min(8 * self.multiprocessors()), 1, 1];
        self.launch("linear_reduce_splits", grid, 256, 0, arguments![partials, splits, count as i64, out]);
    }

    /// Sums over the rows of x [rows, columns].
    fn column_sums(&mut self, x: Address, rows: usize, columns: usize, out: Address) {
        let blocks = columns.div_ceil(256);
        let parts = (4 * self.multiprocessors()).div_ceil(blocks);
        let parts = parts.min(rows.div_ceil(64)).min(Self::WORKSPACE_BYTES / (4 * columns)).max(1);
        let partials = if parts > 1 { self.workspace() } else { out };
        self.launch("linear_column_sums", [blocks, parts, 1], 256, 0, arguments![x, rows, columns, partials]);
        if parts > 1 {
            self.reduce_splits(partials, parts, columns, out);
        }
    }
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
        let plain = Ending { kind: Ending::NONE, bias, other: None, pre: None, out: self.at(y) };
        let ending = match epilogue {
            Epilogue::None => plain,
            Epilogue::Activation { kind, pre } => {
                Ending { kind: Ending::activation(kind), pre: Some(self.at(pre)), ..plain }
            }
            Epilogue::Residual(residual) => Ending { kind: Ending::RESIDUAL, other: Some(self.at(residual)), ..plain },
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
        let plain = Ending { kind: Ending::NONE, bias: None, other: None, pre: None, out: self.at(dx) };
        let ending = match epilogue {
            BackwardEpilogue::None => plain,
            BackwardEpilogue::Activation { kind, pre } => {
                Ending { kind: Ending::activation_backward(kind), other: Some(self.at(pre)), ..plain }
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
        let partials = |splits: usize, base: Address| (base, base.offset(4 * splits * rows * columns));
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
            let kernel = if tile_columns == 128 { "linear_wgmma_mn_128" } else { "linear_wgmma_mn_256" };
            let (a, b) = (self.depth_columns(a, depth, rows), self.depth_columns(b, depth, columns));
            let units = rows.div_ceil(TILE_ROWS) * columns.div_ceil(tile_columns) * splits;
            let grid = [units.min(self.multiprocessors()), 1, 1];
            let arguments = arguments![a, b, rows, columns, depth, splits, weights, sums];
            self.launch(kernel, grid, WGMMA_THREADS, WGMMA_SHARED, arguments);
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
            let kernel = if takes_vectors(shape) { "linear_mma_mn" } else { "linear_mma_mn_any" };
            let units = rows.div_ceil(TILE_ROWS) * columns.div_ceil(128) * splits;
            let arguments = arguments![a, b, rows, columns, depth, splits, weights];
            self.launch(kernel, [units, 1, 1], MMA_THREADS, MMA_SHARED, arguments);
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
