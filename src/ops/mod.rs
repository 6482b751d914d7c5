//! The contract: what a device can do.
//!
//! Every op is a struct in a file of its name, with its shape and its spans as fields, and a [`Device`] runs all of them:
//! `device.run(Relu { x, y })`. The model is written once against [`Device`]; [`cpu`] is the reference implementation and a
//! backend that people use, [`cuda`] runs on GPUs.
//!
//! Conventions: row-major; weights `[out, in]` as in PyTorch unless an op says otherwise; an output span is
//! overwritten in full unless the op says that it adds. Outputs never overlap inputs.

pub mod adamw;
pub mod arena;
pub mod attention;
pub mod contrastive;
pub mod cpu;
pub mod cross_entropy;
pub mod cuda;
pub mod device;
pub mod device_memory;
pub mod distillation;
pub mod group_dro;
pub mod l2_normalize;
pub mod layer_norm;
pub mod linear;
pub mod measure;
pub mod patch_embed;
pub mod pool;
pub mod position_embed;
pub mod relu;
pub mod similarity;
pub mod supcon;
pub mod token_embed;
pub mod trace;

pub use device::{Device, RecordKey};
pub use device_memory::{Bytes, DeviceMemory, Ids, Plan, Span, Stats, Tensor};

/// An op: what is to be computed, at which shape and on which spans, as a value. [`Run::run`] computes it.
pub trait Op: Copy {
    /// How tables and traces call it.
    const NAME: &'static str;

    /// The shape in words, for tables and traces.
    fn shape(&self) -> String;

    /// What it takes at the least on a device whose [`device_memory::Storage`] elements have `storage_bytes` bytes.
    fn cost(&self, storage_bytes: usize) -> Cost;
}

/// The arithmetic of an op, and the fewest bytes that it reads and writes. Small operands are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations; a multiplication that is added counts as two.
    pub operations: usize,
    /// Bytes, each operand counted once.
    pub bytes: usize,
}

/// A device that computes ops of one kind.
pub trait Run<O: Op> {
    /// Computes `op`; a device that works on its own may return before it is done.
    fn run(&mut self, op: O);
}

/// An op of any kind, for lists of them that a device of type `D` runs.
pub trait AnyOp<D> {
    /// [`Run::run`]
    fn run(&self, device: &mut D);

    /// [`Op::NAME`]
    fn name(&self) -> &'static str;

    /// [`Op::shape`]
    fn shape(&self) -> String;

    /// [`Op::cost`]
    fn cost(&self, storage_bytes: usize) -> Cost;
}

impl<O: Op, D: Run<O>> AnyOp<D> for O {
    fn run(&self, device: &mut D) {
        device.run(*self);
    }

    fn name(&self) -> &'static str {
        O::NAME
    }

    fn shape(&self) -> String {
        Op::shape(self)
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        Op::cost(self, storage_bytes)
    }
}

/// Names all ops: a device computes each of them.
macro_rules! contract {
    ($($op:ty),* $(,)?) => {
        /// All ops of the contract.
        pub trait Ops: for<'a> Run<adamw::AdamW<'a>> $(+ Run<$op>)* {}

        impl<B> Ops for B where B: for<'a> Run<adamw::AdamW<'a>> $(+ Run<$op>)* {}
    };
}

contract! {
    adamw::GradientNorm,
    adamw::Clamp,
    arena::Interpolate,
    arena::AccumulateSquares,
    arena::AccumulateFisher,
    arena::QuadraticPenalty,
    attention::Attention,
    attention::AttentionBackward,
    contrastive::Contrastive,
    contrastive::ContrastiveBackward,
    cross_entropy::CrossEntropy,
    cross_entropy::SoftCrossEntropy,
    distillation::Distillation,
    group_dro::GroupDro,
    l2_normalize::L2Normalize,
    l2_normalize::L2NormalizeBackward,
    layer_norm::LayerNorm,
    layer_norm::LayerNormBackward,
    linear::Linear,
    linear::LinearBackwardData,
    linear::LinearBackwardWeight,
    patch_embed::PatchEmbed,
    pool::Pool,
    pool::PoolBackward,
    position_embed::PositionEmbed,
    position_embed::PositionEmbedBackward,
    relu::Relu,
    relu::ReluBackward,
    similarity::Similarity,
    similarity::SimilarityBackward,
    similarity::SimilarityBackwardColumns,
    supcon::SupCon,
    token_embed::TokenEmbed,
    token_embed::TokenEmbedBackward,
}

/// A kind of device that fulfils the whole contract: [`cpu::Cpu`], [`cuda::Cuda`].
pub trait Backend: Ops + DeviceMemory + measure::Measure + 'static {}

impl<B: Ops + DeviceMemory + measure::Measure + 'static> Backend for B {}

/// Whether a gradient replaces what its span holds, or is added to it (a residual branch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// What was there is overwritten.
    Set,
    /// What was there counts too.
    Add,
}

impl Write {
    /// How often each value that is written goes to or comes from memory.
    fn accesses(self) -> usize {
        match self {
            Write::Set => 1,
            Write::Add => 2,
        }
    }
}
