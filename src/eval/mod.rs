//! Evaluation: zero-shot classification, retrieval, and the metrics over a run.

pub mod metrics;
