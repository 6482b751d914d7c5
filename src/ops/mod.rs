//! The contract: what a device can do.
//!
//! Every op is a small trait in a file of its name, and a [`Device`] fulfils all of them. The model is written
//! once against these traits; [`cpu`] is the reference implementation and a backend that people use, [`cuda`] runs on GPUs.
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
pub mod distillation;
pub mod group_dro;
pub mod l2_normalize;
pub mod layer_norm;
pub mod linear;
pub mod measure;
pub mod memory;
pub mod patch_embed;
pub mod pool;
pub mod position_embed;
pub mod relu;
pub mod similarity;
pub mod supcon;
pub mod token_embed;

pub use device::{Device, RecordKey};
pub use memory::{Bytes, Ids, Memory, Plan, Span, Stats, Tensor};

/// All ops of the contract.
pub trait Ops:
    linear::Linear
    + layer_norm::LayerNorm
    + attention::Attention
    + patch_embed::PatchEmbed
    + position_embed::PositionEmbed
    + token_embed::TokenEmbed
    + pool::Pool
    + l2_normalize::L2Normalize
    + contrastive::Contrastive
    + group_dro::GroupDro
    + cross_entropy::CrossEntropy
    + similarity::Similarity
    + supcon::SupCon
    + distillation::Distillation
    + relu::Relu
    + adamw::AdamW
    + arena::Arena
{
}

impl<B> Ops for B where
    B: linear::Linear
        + layer_norm::LayerNorm
        + attention::Attention
        + patch_embed::PatchEmbed
        + position_embed::PositionEmbed
        + token_embed::TokenEmbed
        + pool::Pool
        + l2_normalize::L2Normalize
        + contrastive::Contrastive
        + group_dro::GroupDro
        + cross_entropy::CrossEntropy
        + similarity::Similarity
        + supcon::SupCon
        + distillation::Distillation
        + relu::Relu
        + adamw::AdamW
        + arena::Arena
{
}

/// A kind of device that fulfils the whole contract: [`cpu::Cpu`], [`cuda::Cuda`].
pub trait Backend: Ops + Memory + measure::Measure + 'static {}

impl<B: Ops + Memory + measure::Measure + 'static> Backend for B {}

/// Whether a gradient replaces what its span holds, or is added to it (a residual branch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Set,
    Add,
}
