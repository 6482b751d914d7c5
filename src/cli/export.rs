//! `perennial export`: a checkpoint in the layout of another program.

use std::path::PathBuf;

use perennial::error::Result;
use perennial::model::checkpoint;
use perennial::model::parameters::ParameterList;

use super::embed::Model;

#[derive(clap::Args)]
pub struct Arguments {
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
    /// Hugging Face's model.safetensors, config.json and preprocessor_config.json
    Hf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let spec = arguments.model.spec()?;
    let weights = checkpoint::load(&arguments.model.model, &spec)?;
    weights.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let (list, out) = (ParameterList::of(&spec), &arguments.out);
    match arguments.format {
        Format::OpenClip => checkpoint::export_open_clip(out, &spec, &list, &weights.values)?,
        Format::Hf => checkpoint::export_hugging_face(out, &spec, &list, &weights.values)?,
    }
    println!("{}: {} tensors, {} parameters", out.display(), list.len(), list.count());
    Ok(())
}
