//! Tables from run directories, a page with plots, and TensorBoard's event files.

mod cells;
mod groups;
mod html;
mod matrices;
mod reference;
mod run;
mod summary;
mod table;
#[cfg(feature = "tensorboard")]
mod tensorboard;

pub use cells::Cell;
pub use groups::group;
pub use html::page;
pub(crate) use html::step;
pub use matrices::{static_table, transfer_table};
pub use reference::{Comparison, Reference};
pub use run::{LogLine, Run};
pub(crate) use summary::summary_json;
pub use summary::{matrix_table, summary_table};
pub use table::Table;
pub(crate) use table::{Value, markdown, visible};
#[cfg(feature = "tensorboard")]
pub(crate) use tensorboard::TensorBoard;
