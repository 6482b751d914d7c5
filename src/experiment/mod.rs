//! A run: steps x (train, evaluate, record, checkpoint), its directory, and how it resumes.

mod closing;
mod config;
mod directory;
mod doctor;
mod evaluation;
mod predictions;
mod presets;
mod run;
mod setup;
mod state;

pub use config::{
    Config, DataConfig, EvaluationConfig, EvaluationTask, MemoryConfig, ModelConfig, StreamConfig, TrainConfig,
    TrainText,
};
pub use directory::{Pace, RunDirectory};
pub use doctor::{Finding, Verdict, examine};
pub use evaluation::{Evaluation, Prediction, Spent, StepRecord};
pub use presets::{Expected, PRESETS, Preset};
pub use run::{Iteration, Observer, run};
pub use setup::Setup;
