//! Finds pictures by words: `cargo run --release --example search -- MODEL 'a cat on a mat' photos/*.jpg`
//!
//! MODEL is any CLIP's checkpoint: a file of ours, open_clip's or OpenAI's, or a folder from Hugging Face.

use std::env;

use perennial::Clip;
use perennial::error::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, words, pictures @ ..] = arguments.as_slice() else {
        return Err(Error::input("usage: search MODEL WORDS PICTURE..."));
    };
    let mut clip = Clip::open(model)?;
    clip.notes().iter().for_each(|note| eprintln!("note: {note}"));
    let similarities = clip.embed_texts(&[words])?.similarities(&clip.embed_images(pictures)?);
    let mut found: Vec<(f32, &String)> = similarities.values.iter().copied().zip(pictures).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (similarity, picture) in found.iter().take(10) {
        println!("{similarity:.3}  {picture}");
    }
    Ok(())
}
