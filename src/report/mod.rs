//! Tables from run directories, and a page with plots.

mod html;
mod run;
mod summary;
mod table;

pub use html::page;
pub use run::{LogLine, Run, group};
pub use summary::{Cell, matrix_table, summary_table};
pub use table::Table;
