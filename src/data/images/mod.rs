//! Pictures: from a file to the pixels that the model reads, as open_clip and Pillow make them.
//!
//! | file | job |
//! |---|---|
//! | `picture.rs`, `picture/` | from a picture's file to RGB, as Pillow |
//! | `resample.rs` | Pillow's resize, value for value |
//! | `transform.rs` | from a picture to the model's pixels |

pub mod picture;
mod resample;
pub mod transform;
