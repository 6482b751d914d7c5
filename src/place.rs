//! Where a model computes: a device by its name.

use crate::error::{Error, Result, unknown};
use crate::ops::cuda::launch::Gpu;

/// A device by name.
#[derive(Clone, Debug, Default)]
pub enum Place {
    /// The CPU, in f32.
    #[default]
    Cpu,
    /// A GPU, in bf16.
    Cuda(Gpu),
}

impl Place {
    /// The device that `name` names, `cpu` or `cuda[:N]`. There is no silent fallback to another.
    pub fn parse(name: &str) -> Result<Place> {
        let known: &[&str] = if cfg!(feature = "emulator") { &["cpu", "cuda", "emulated"] } else { &["cpu", "cuda"] };
        let (kind, number) = name.split_once(':').unwrap_or((name, ""));
        let number = || match number {
            "" => Ok(0),
            _ => number
                .parse()
                .map_err(|_| Error::input(format!("'{number}' in --device {name} is not the number of a GPU"))),
        };
        match kind {
            "cpu" if kind == name => Ok(Place::Cpu),
            "cuda" => Ok(Place::Cuda(Gpu::Real(number()?))),
            #[cfg(feature = "emulator")]
            "emulated" => Ok(Place::Cuda(crate::ops::cuda::emulated::gpu(number()?)?)),
            #[cfg(not(feature = "emulator"))]
            "emulated" => Err(Error::input(
                "this program was built without the emulated GPU: build it with `cargo build --features emulator`",
            )),
            _ => Err(unknown("device", name, known.iter().copied())),
        }
    }
}

/// Evaluates an expression with `$device` the type of the device that a [`Place`] names, and `$at` which of them.
macro_rules! on_device {
    ($place:expr, $device:ident, $at:ident => $work:expr) => {
        match $place {
            $crate::place::Place::Cpu => {
                type $device = $crate::ops::cpu::Cpu<f32>;
                let $at = &();
                $work
            }
            $crate::place::Place::Cuda(gpu) => {
                type $device = $crate::ops::cuda::Cuda;
                let $at = gpu;
                $work
            }
        }
    };
}
pub(crate) use on_device;
