//! Where a model computes: a device by its name.

use crate::error::{Error, Result, unknown};

/// A device by name.
#[derive(Clone, Debug, Default)]
pub enum Place {
    #[default]
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
    #[cfg(feature = "emulator")]
    Emulated(crate::ops::cuda::emulated::Emulator),
}

impl Place {
    /// The device that `name` names, `cpu` or `cuda[:N]`. There is no silent fallback to another.
    pub fn parse(name: &str) -> Result<Place> {
        let known: &[&str] = if cfg!(feature = "emulator") { &["cpu", "cuda", "emulated"] } else { &["cpu", "cuda"] };
        match name.split_once(':').unwrap_or((name, "")) {
            ("cpu", "") => Ok(Place::Cpu),
            ("cuda", "") => Ok(Place::Cuda(0)),
            ("cuda", number) => match number.parse() {
                Ok(number) => Ok(Place::Cuda(number)),
                Err(_) => Err(Error::input(format!("'{number}' in --device {name} is not the number of a GPU"))),
            },
            #[cfg(feature = "emulator")]
            ("emulated", "") => Ok(Place::Emulated(crate::ops::cuda::emulated::Emulator::built_in()?)),
            #[cfg(not(feature = "emulator"))]
            ("emulated", "") => Err(Error::input(
                "this program was built without the emulated GPU: build it with `cargo build --features emulator`",
            )),
            _ => Err(unknown("device", name, known.iter().copied())),
        }
    }
}

/// Evaluates an expression with `$device` the type of the device that a [`Place`] names, and `$at` which of them.
#[doc(hidden)]
#[macro_export]
macro_rules! on_device {
    ($place:expr, $device:ident, $at:ident => $work:expr) => {
        match $place {
            $crate::place::Place::Cpu => {
                type $device = $crate::ops::cpu::Cpu<f32>;
                let $at = &();
                $work
            }
            $crate::place::Place::Cuda(number) => {
                type $device = $crate::ops::cuda::Cuda<$crate::ops::cuda::nvidia::Nvidia>;
                let $at = number;
                $work
            }
            #[cfg(feature = "emulator")]
            $crate::place::Place::Emulated(emulator) => {
                type $device = $crate::ops::cuda::Cuda<$crate::ops::cuda::emulated::Emulated>;
                let $at = emulator;
                $work
            }
        }
    };
}
