//! What the build reads of the kernels' sources, against what a compiler of C++ makes of the same sources.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int};
use std::process::Command;
use std::{fs, slice};

use libloading::Library;
use perennial::ops::cuda::emulated::Emulator;
use proptest::prelude::*;

use crate::{HOPPER, root};

#[path = "../../build/declarations.rs"]
mod declarations;

fn sources() -> BTreeMap<String, String> {
    let files = fs::read_dir(root().join("kernels")).unwrap().map(|file| file.unwrap().path());
    let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_string();
    files.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

/// `EmulatorParameter` of tests/emulator/interface.hpp.
#[repr(C)]
struct Parameter {
    bytes: u32,
    pointer: u8,
    writes: u8,
}

#[test]
fn launches_have_the_parameters_that_the_compiler_sees() {
    let library = Emulator::built_in(HOPPER).kernels;
    // SAFETY: the library was built with this program, and its interface declares these types.
    let library = unsafe { Library::new(library) }.unwrap();
    let compiled = unsafe {
        library.get::<unsafe extern "C" fn(*const c_char, *mut c_int) -> *const Parameter>(c"emulator_parameters")
    };
    let (compiled, sources, mut seen) = (compiled.unwrap(), sources(), 0);
    for file in sources.keys().filter(|name| name.ends_with(".cu") && *name != "conformance.cu") {
        for (kernel, parameters) in declarations::read(file, &sources).unwrap().kernels() {
            let (name, mut count) = (CString::new(kernel).unwrap(), 0);
            // SAFETY: as above; the parameters live as long as the library.
            let found = unsafe { compiled(name.as_ptr(), &mut count) };
            assert!(!found.is_null(), "{file} has no kernel {kernel}");
            let found = unsafe { slice::from_raw_parts(found, count as usize) };
            let found: Vec<_> = found.iter().map(|it| (it.bytes as usize, it.pointer != 0)).collect();
            assert_eq!(parameters, found, "{kernel} of {file}");
            seen += 1;
        }
    }
    let declared = perennial::ops::cuda::kernels::MODULES.iter().flat_map(|module| module.reports());
    let compiled: std::collections::BTreeSet<String> = declared.map(|report| report.kernel).collect();
    let ours = compiled.iter().filter(|kernel| !kernel.starts_with("conformance")).count();
    assert_eq!(seen, ours, "kernels declared, and kernels compiled by NVRTC");
}

/// The program of examples/kernel.c, which knows nothing of ours but the header and the files that `list kernels --out` writes.
#[test]
fn a_program_in_c_launches_a_kernel_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (ok, told) = crate::perennial(&["list", "kernels", "--out", &path("kernels")], &[]);
    assert!(ok, "{told}");
    // Every kernel's parameters and constants are C and C++.
    let whole = "#include \"perennial_kernels.h\"\nint main(void) { return 0; }\n";
    fs::write(folder.path().join("whole.c"), whole).unwrap();
    let compile = |compiler: &str, standard: &str, source: &str, out: &str| {
        let include = format!("-I{}", path("kernels"));
        let strict = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", standard, &include];
        let language = if compiler == "cc" { "c" } else { "c++" };
        let mut command = Command::new(compiler);
        command.args(strict).args(["-x", language, source, "-o", out, "-ldl", "-lm"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    compile("g++", "-std=c++11", &path("whole.c"), &path("whole"));
    compile("cc", "-std=gnu99", &root().join("examples/kernel.c").display().to_string(), &path("kernel"));

    let kernels = Emulator::built_in(HOPPER).kernels;
    for (capability, target) in
        [("8.6", "sm_80.cubin"), ("9.0", "sm_90a.cubin"), ("8.7", "compute_80.ptx"), ("12.0", "compute_80.ptx")]
    {
        let gpu = format!("kernels={},capability={capability},completion=1", kernels.display());
        let mut program = Command::new(path("kernel"));
        program.args([&path("kernels"), env!("PERENNIAL_EMULATED_LIBCUDA")]).env("PERENNIAL_EMULATED_ADD", gpu);
        let output = program.output().unwrap();
        let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success() && told.contains(target) && told.trim_end().ends_with(": right"), "{told}");
    }
}

/// A profiler that is told when to collect hears of whole steps and of nothing else.
#[test]
fn a_profiler_collects_the_timed_steps() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("collected");
    let gpus = format!("capability=8.6,profile={}", file.display());
    let step = |more: &[&str]| {
        let common = ["bench", "step", "--device", "emulated", "--model", "emoji-tiny", "--batch", "1", "--steps", "2"];
        let (ok, told) = crate::perennial(&[&common, more].concat(), &[("PERENNIAL_EMULATED_GPUS", &gpus)]);
        assert!(ok, "{told}");
    };
    step(&[]);
    assert!(!file.exists(), "nothing is collected unasked");
    step(&["--profile"]);
    let collected = fs::read_to_string(&file).unwrap();
    let count = |kernel: &str| collected.lines().filter(|line| *line == kernel).count();
    assert_eq!([count("adamw"), count("patch_embed"), count("contrastive_sums")], [2; 3], "{collected}");
}

proptest! {
    /// A source with any part missing, doubled or replaced is read or refused, and nothing worse.
    #[test]
    fn no_source_panics(file in 0usize..40, from in 0usize..20_000, length in 0usize..300, instead in "[ (){};,#\\\\\\n*a-zA-Z0-9_]{0,12}") {
        let mut sources = sources();
        let names: Vec<String> = sources.keys().filter(|name| name.ends_with(".cu")).cloned().collect();
        let name = &names[file % names.len()];
        let source = &sources[name];
        let boundary = |at: usize| (0..=at.min(source.len())).rev().find(|at| source.is_char_boundary(*at)).unwrap_or(0);
        let (start, end) = (boundary(from), boundary(from + length));
        let changed = [&source[..start], &instead, &source[end..]].concat();
        sources.insert(name.clone(), changed);
        if let Ok(declared) = declarations::read(name, &sources) {
            declared.rust("file");
        }
    }
}
