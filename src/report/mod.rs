//! Tables from run directories.

mod matrices;
mod summary;
mod table;

pub use matrices::{static_table, transfer_table};
pub use summary::{Cell, matrix_table, summary_table};
pub use table::Table;
