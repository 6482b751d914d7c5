//! Training: the optimiser and its schedule, one step, one budgeted loop.

mod optimizer;
mod order;
mod schedule;
mod spec;
mod step;
mod texts;

pub use optimizer::{Optimizer, OptimizerSettings, OptimizerState};
pub use order::Order;
pub use schedule::Schedule;
pub use spec::TrainerSpec;
pub use step::{Fisher, Phase, StepReport, TrainBatch, Trainer};
pub use texts::{BatchTexts, TextBank};
