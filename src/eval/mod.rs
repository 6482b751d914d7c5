//! Evaluation: embeddings, zero-shot classification, retrieval, and the metrics over a run.

pub(crate) mod embed;
pub mod features;
pub mod metrics;
pub mod pretrained;
pub mod retrieval;
pub mod similarities;
pub mod zero_shot;
