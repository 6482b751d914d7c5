//! `perennial list`: what there is, one name first on each line.

use std::path::{Path, PathBuf};

use super::output::{put, say};
use crate::error::{Error, Result};
use crate::experiment::PRESETS;
use crate::files::write_atomically;
use crate::method::entries;
use crate::model::parameters::ParameterList;
use crate::model::spec::ModelSpec;
use crate::ops::cuda::kernels::{C_HEADER, CUDA_VERSION, MODULES, Report, dynamic_shared};
use crate::ops::cuda::launch::Target;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    what: What,
    /// kernels: also write their code to this folder, with a header for programs in C that launch them (examples/kernel.c)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    Methods,
    Presets,
    Models,
    Kernels,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(folder) = &arguments.out {
        if !matches!(arguments.what, What::Kernels) {
            return Err(Error::input("--out is of the kernels: `perennial list kernels --out DIR`"));
        }
        write_kernels(folder)?;
    }
    match arguments.what {
        What::Methods => lines(entries().iter().map(|entry| (entry.name(), entry.row.summary.to_string()))),
        What::Presets => {
            lines(PRESETS.iter().map(|preset| (preset.name, format!("{:<19} {}", preset.group, preset.summary))))
        }
        What::Models => {
            for name in ModelSpec::names() {
                let spec = ModelSpec::find(name)?;
                let (vision, text) = (&spec.vision_cfg, &spec.text_cfg);
                put!(
                    "{name:16}  {:.1} M parameters; images of {} px in patches of {}: {} layers of width {}; \
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
        What::Kernels => kernels()?,
    }
    Ok(())
}

/// Writes a file for each module, and the header.
fn write_kernels(folder: &Path) -> Result<()> {
    if MODULES.is_empty() {
        return Err(Error::input("no CUDA kernels are in this program: no NVRTC was found when it was built"));
    }
    std::fs::create_dir_all(folder).map_err(|cause| Error::writing(folder, cause))?;
    for module in MODULES {
        let code = module.code()?;
        let (ending, code) = match module.target {
            // The driver reads PTX up to a zero byte, which a file of text has not.
            Target::Compute80 => ("ptx", code.strip_suffix(b"\0").unwrap_or(code)),
            _ => ("cubin", code),
        };
        write_atomically(&folder.join(format!("{}.{}.{ending}", module.file, module.target.name())), code)?;
    }
    write_atomically(&folder.join("perennial_kernels.h"), C_HEADER.as_bytes())
}

/// Each kernel on each target, as the compiler reports it: registers a thread, bytes that did not fit into them, shared memory.
fn kernels() -> Result<()> {
    if MODULES.is_empty() {
        say!("no CUDA kernels are in this program: no NVRTC was found when it was built");
        return Ok(());
    }
    // Every line of standard output begins with a name.
    say!(
        "{:<40} {:<10} {:>9} {:>7} {:>14} {:>15}",
        "kernel",
        "target",
        "registers",
        "spills",
        "static shared",
        "dynamic, <="
    );
    for module in MODULES {
        for Report { kernel, registers, spills, shared, .. } in module.reports() {
            let (target, spilled) = (module.target.name(), spills.0 + spills.1);
            let dynamic = dynamic_shared(&kernel, module.target).map_or("-".to_string(), |bytes| bytes.to_string());
            put!("{kernel:<40} {target:<10} {registers:>9} {spilled:>7} {shared:>14} {dynamic:>15}");
        }
        if module.target == Target::Compute80 {
            for kernel in module.kernels()? {
                let dynamic = dynamic_shared(&kernel, module.target).map_or("-".to_string(), |bytes| bytes.to_string());
                put!("{kernel:<40} {:<10} {:>9} {:>7} {:>14} {dynamic:>15}", module.target.name(), "-", "-", "-");
            }
        }
    }
    let (major, minor) = CUDA_VERSION;
    say!("sm_80 runs on GPUs of compute capability 8.0, 8.6 and 8.9, sm_90a on 9.0: with any driver of CUDA {major}");
    say!(
        "compute_80 on all others from 8.0 on: their driver, of CUDA {major}.{minor} or later, compiles it at first use"
    );
    Ok(())
}

fn lines<'a>(entries: impl Iterator<Item = (&'a str, String)>) {
    for (name, text) in entries {
        put!("{name:20} {text}");
    }
}
