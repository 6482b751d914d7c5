//! `perennial export`: a checkpoint in the layout of another program.

use std::path::{Path, PathBuf};

use super::embed::Model;
use super::output::{put, say};
use crate::data::text::tokenizer::{self, Tokenizer};
use crate::error::{Error, Result};
use crate::files::{check_no_input, check_writable, folder_of, is_same};
use crate::model::checkpoint;
use crate::model::parameters::ParameterList;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: Model,
    /// Whose layout
    #[arg(long, value_enum)]
    format: Format,
    /// The folder to write; made if need be
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// open_clip_model.safetensors and open_clip_config.json
    #[value(name = "open_clip")]
    OpenClip,
    /// What Hugging Face's CLIPModel and CLIPProcessor load: model.safetensors, configurations, the tokenizer's files
    Hf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (spec, out) = (arguments.model.spec()?, &arguments.out);
    check_folder(out)?;
    let own = if arguments.model.model.is_dir() { &arguments.model.model } else { folder_of(&arguments.model.model) };
    if is_same(out, own) {
        return Err(Error::input(format!("{} is the model's own folder: write to another", out.display())));
    }
    // Links may lead there.
    let files = arguments.model.files();
    std::fs::read_dir(out)
        .into_iter()
        .flatten()
        .flatten()
        .try_for_each(|entry| check_no_input(&entry.path(), &files))?;
    let weights = arguments.model.load(&spec)?;
    let list = ParameterList::of(&spec);
    match arguments.format {
        Format::OpenClip => checkpoint::export_open_clip(out, &spec, &list, &weights.values)?,
        Format::Hf => {
            checkpoint::export_hugging_face(out, &spec, &list, &weights.values)?;
            let text = &spec.text_cfg;
            if text.vocab_size == Tokenizer::END as usize + 1 {
                tokenizer::save_hugging_face(out, text.context_length)?;
            } else {
                say!("note: no tokenizer is written: the vocabulary of {} is not CLIP's", text.vocab_size);
            }
        }
    }
    put!("{}: {} tensors, {} parameters", out.display(), list.len(), list.count());
    Ok(())
}

/// Fails unless files can be written into `folder`, or the folder can be made; makes nothing yet.
fn check_folder(folder: &Path) -> Result<()> {
    let wrong = |why: &str| Err(Error::input(format!("cannot write to {}: {why}", folder.display())));
    // The nearest part of the path that there is.
    let exists = |part: &&Path| part.symlink_metadata().is_ok();
    let near = folder.ancestors().filter(|part| !part.as_os_str().is_empty()).find(exists).unwrap_or(Path::new("."));
    match near.is_dir() {
        true => check_writable(&near.join("model.safetensors")),
        false if near == folder => wrong("it is a file, and a folder is wanted"),
        false => wrong(&format!("{} is no folder", near.display())),
    }
}
