//! Tables from run directories.

mod summary;
mod table;

pub use summary::{Cell, matrix_table, static_table, summary_table, transfer_table};
pub use table::Table;
