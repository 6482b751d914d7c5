//! The compiled kernels that are in this program.
