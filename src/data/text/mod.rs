//! Texts: from captions and names of classes to the token ids that the model reads.
//!
//! | file | job |
//! |---|---|
//! | `class_names.rs` | from a data set's own names of classes to readable ones |
//! | `prompts.rs` | from a class name to the texts that stand for it |
//! | `clean.rs` | what becomes of a text before it is cut into tokens |
//! | `tokenizer.rs` | from a text to token ids |

pub mod class_names;
mod clean;
pub mod prompts;
pub mod tokenizer;
