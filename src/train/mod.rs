//! Training: objectives as it sees them, the optimiser and its schedule, one iteration.

mod iteration;
mod objective;
mod optimizer;
mod order;
mod schedule;
mod spec;
mod stage;
mod texts;

pub use iteration::{IterationReport, TrainBatch, Trainer};
pub use objective::{Loaded, Models, Objective, Path, Planned, Recipe, Scores, key_of};
pub(crate) use optimizer::OptimizerState;
pub use optimizer::{Optimizer, OptimizerSettings};
pub use order::Order;
pub use schedule::Schedule;
pub use spec::TrainerSpec;
pub use stage::{Stage, StageView};
pub use texts::{BatchTexts, TextBank};
