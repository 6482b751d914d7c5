//! What a step trains, one after the other.

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// What the method is about.
    Main,
    /// The distillation of what the main stage has trained into one model.
    Compression,
    /// What closes a step without a budget: the memory, a patch, the Fisher information, alignment.
    Closing,
    /// A linear head on features that stay as they are.
    Probe,
}

/// A stage of a step, and what it draws from.
#[derive(Clone, Copy, Debug)]
pub struct StageView<'a> {
    /// What is trained or closed.
    pub stage: Stage,
    /// From 0.
    pub step: usize,
    /// Classes seen before the step.
    pub before: usize,
    /// Those of the step included.
    pub seen: usize,
    /// How many samples of each class the stage draws from, in the order of the stream.
    pub counts: &'a [usize],
    /// pi: each class's fraction of them, in the data set's order.
    pub shares: &'a [f32],
    /// The run's, for what a method draws.
    pub seed: u64,
}

impl StageView<'_> {
    /// Whether steps came before.
    pub fn is_later(&self) -> bool {
        self.step > 0
    }
}
