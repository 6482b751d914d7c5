//! `perennial list`: what there is, one name first on each line.

use perennial::error::Result;
use perennial::experiment;
use perennial::method::METHODS;
use perennial::model::parameters::ParameterList;
use perennial::model::spec::ModelSpec;

#[derive(clap::Args)]
pub struct Arguments {
    what: What,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    Methods,
    Presets,
    Models,
    Kernels,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    match arguments.what {
        What::Methods => lines(METHODS.iter().map(|method| (method.name, method.summary.to_string()))),
        What::Presets => lines(experiment::presets().map(|(name, summary)| (name, summary.to_string()))),
        What::Models => {
            for name in ModelSpec::names() {
                let spec = ModelSpec::find(name)?;
                let (vision, text) = (&spec.vision_cfg, &spec.text_cfg);
                println!(
                    "{name:14}  {:.1} M parameters; images of {} px in patches of {}: {} layers of width {}; \
                     texts of {} tokens: {} layers of width {}",
                    ParameterList::of(&spec).count() as f64 / 1e6,
                    vision.image_size,
                    vision.patch_size,
                    vision.layers,
                    vision.width,
                    text.context_length,
                    text.layers,
                    text.width
                );
            }
        }
        // Nothing is listed where nothing is in: the CUDA backend brings the kernels.
        What::Kernels => eprintln!("no CUDA kernels are in this program"),
    }
    Ok(())
}

fn lines<'a>(entries: impl Iterator<Item = (&'a str, String)>) {
    for (name, text) in entries {
        println!("{name:14}  {text}");
    }
}
