//! A run: steps x (train, evaluate, record, checkpoint), its directory, and how it resumes.

mod closing;
mod config;
mod directory;
mod doctor;
mod evaluation;
mod fitted;
mod log;
mod predictions;
mod presets;
mod record;
mod run;
mod setup;
mod state;
mod status;

pub use config::{
    Config, DataConfig, EvaluationConfig, EvaluationTask, HeadConfig, HeadStart, MemoryConfig, ModelConfig,
    ProbeConfig, StreamConfig, TrainConfig, TrainText,
};
pub use directory::{Access, RunDirectory};
pub(crate) use doctor::{Finding, Verdict, examine};
pub(crate) use log::{Lines, Pace};
pub use presets::{Expected, PRESETS, Preset};
pub use record::{Evaluation, Prediction, Spent, StepRecord};
pub use run::{Iteration, Observer, run};
pub use setup::Setup;
pub(crate) use status::Seen;
pub use status::{RunPhase, Status};
