//! Tables from run directories.

mod summary;
mod table;

pub use summary::{Cell, matrix_table, summary_table};
pub use table::Table;
