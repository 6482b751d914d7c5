//! The kernels: what their sources declare, their code in this program, and what the compiler said of them.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;

use super::launch::{Argument, Kernel, Parameters, Pointer, Target, TensorMap};
use crate::error::{Error, Result};

// A module for each file: `build/declarations.rs` says of what.
include!(concat!(env!("OUT_DIR"), "/declarations.rs"));

/// One file of `kernels/` as code for one target.
pub struct Module {
    /// Its name without `.cu`.
    pub file: &'static str,
    /// What it was compiled for.
    pub target: Target,
    /// Size of the code.
    bytes: usize,
    /// The code, deflated.
    compressed: &'static [u8],
    /// The compiler's report.
    log: &'static str,
}

/// All that the build embedded; empty where it found no compiler. One place in memory: a constant would be embedded again wherever
/// it is used.
pub static MODULES: &[Module] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// CUDA's version that the kernels were compiled with. A driver must know its major version for machine code, and itself for PTX.
pub const CUDA_VERSION: (i32, i32) = include!(concat!(env!("OUT_DIR"), "/cuda_version.rs"));

/// What the kernels take, for programs in C that launch them by themselves.
pub(crate) const C_HEADER: &str = include_str!(concat!(env!("OUT_DIR"), "/perennial_kernels.h"));

/// What one kernel needs on a target, as `ptxas` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The kernel's name, without mangling.
    pub kernel: String,
    /// Of a thread.
    pub registers: usize,
    /// Bytes of registers that did not fit: stores and loads.
    pub spills: (usize, usize),
    /// Bytes of local memory a thread.
    pub stack: usize,
    /// Bytes of static shared memory.
    pub shared: usize,
}

impl Module {
    /// A cubin, or PTX with a zero byte at its end. Fails when what is embedded is not whole.
    pub fn code(&self) -> Result<&'static [u8]> {
        // It is inflated once, and lives as long as the program.
        static INFLATED: Mutex<BTreeMap<(&str, &str), &[u8]>> = Mutex::new(BTreeMap::new());
        let mut inflated = INFLATED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = (self.file, self.target.name());
        if let Some(code) = inflated.get(&key) {
            return Ok(code);
        }
        let code = inflate(self.compressed, self.bytes).map_err(|error| error.at(format!("kernels {}", self.file)))?;
        let code: &[u8] = code.leak();
        inflated.insert(key, code);
        Ok(code)
    }

    /// The code as it is embedded.
    pub(crate) fn compressed(&self) -> &'static [u8] {
        self.compressed
    }

    /// The names of its kernels.
    pub fn kernels(&self) -> Result<Vec<String>> {
        if self.target != Target::Compute80 {
            return Ok(self.reports().into_iter().map(|report| report.kernel).collect());
        }
        let text = String::from_utf8_lossy(self.code()?);
        let entries = text.split(".entry ").skip(1);
        Ok(entries.filter_map(|entry| entry.split(['(', '\n']).next()).map(|name| name.trim().to_string()).collect())
    }

    /// What the compiler says of each kernel; nothing of PTX, which the GPU's driver compiles.
    pub fn reports(&self) -> Vec<Report> {
        parse(self.log)
    }
}

/// The most dynamic shared memory, in bytes, that the launch code asks for; how much of it depends on shapes. None for the
/// kernels of [`crate::check::conformance`], which are no part of an op.
pub fn dynamic_shared(kernel: &str, target: Target) -> Option<usize> {
    let starts = |start: &str| kernel.starts_with(start);
    Some(match kernel {
        "contrastive_sums" => contrastive::SUMS_SHARED,
        "contrastive_image_gradient" | "contrastive_text_gradient" => contrastive::GRADIENT_SHARED,
        "layer_norm_backward_wide" => super::layer_norm::shared_bytes(super::layer_norm::WIDEST),
        "patch_embed" => super::patch_embed::MOST_SHARED,
        "similarity" | "similarity_any" => similarity::MMA_SHARED,
        "similarity_row_gradient" | "similarity_column_gradient" => similarity::GRADIENT_SHARED,
        _ if starts("linear_wgmma") => linear::WGMMA_SHARED,
        _ if starts("linear_mma") => linear::MMA_SHARED,
        _ if starts("attention") => super::attention::most_shared(kernel, target),
        _ if starts("conformance") => return None,
        _ => 0,
    })
}

fn inflate(compressed: &[u8], bytes: usize) -> Result<Vec<u8>> {
    let damaged =
        |what: String| Error::run(format!("this program's CUDA kernels are damaged ({what}); install it again"));
    let mut code = Vec::with_capacity(bytes);
    let mut decoder = flate2::read::ZlibDecoder::new(compressed);
    decoder.read_to_end(&mut code).map_err(|cause| damaged(cause.to_string()))?;
    let is_code = code.starts_with(b"\x7fELF") || (code.starts_with(b"//") && code.ends_with(b"\0"));
    if code.len() != bytes || !is_code {
        return Err(damaged(format!("{} bytes of {bytes}", code.len())));
    }
    Ok(code)
}

/// The number before `unit` in a line of the compiler's log.
fn number_before(line: &str, unit: &str) -> Option<usize> {
    let before = &line[..line.find(unit)?];
    before.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn parse(log: &str) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let kernel = rest.split('\'').next().unwrap_or_default().to_string();
            reports.push(Report { kernel, registers: 0, spills: (0, 0), stack: 0, shared: 0 });
        }
        let Some(report) = reports.last_mut() else { continue };
        if let Some(stack) = number_before(line, "bytes stack frame") {
            report.stack = stack;
            let spills =
                [" bytes spill stores", " bytes spill loads"].map(|unit| number_before(line, unit).unwrap_or(0));
            report.spills = (spills[0], spills[1]);
        }
        if let Some(registers) = number_before(line, "registers,").or_else(|| number_before(line, "registers")) {
            report.registers = registers;
            report.shared = number_before(line, "bytes smem").unwrap_or(0);
        }
    }
    reports
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_report_says_what_the_compiler_said() {
        let log = "ptxas info    : 4 bytes gmem, 8 bytes cmem[4]\n\
                   ptxas info    : Compiling entry function 'layer_norm' for 'sm_90a'\n\
                   ptxas info    : Function properties for layer_norm\n\
                   ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
                   ptxas info    : Used 40 registers, used 1 barriers, 128 bytes smem, 368 bytes cmem[0]\n\
                   ptxas info    : Compile time = 4.041 ms\n";
        let expected =
            Report { kernel: "layer_norm".to_string(), registers: 40, spills: (8, 12), stack: 16, shared: 128 };
        assert_eq!(parse(log), [expected]);
    }

    #[test]
    fn damaged_kernels_are_one_clear_error() {
        let cubin = b"\x7fELF and machine code".repeat(9);
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&cubin).unwrap();
        let whole = encoder.finish().unwrap();
        assert_eq!(inflate(&whole, cubin.len()).unwrap(), cubin);
        for (bytes, length) in [(&whole[..whole.len() / 2], cubin.len()), (&whole[..], 7), (b"none", 4)] {
            let message = inflate(bytes, length).unwrap_err().to_string();
            assert!(message.contains("kernels are damaged"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_log_panics(log in "\\PC*") {
            parse(&format!("Compiling entry function 'x' {log}\n{log} bytes stack frame\n{log} registers"));
        }
    }
}
