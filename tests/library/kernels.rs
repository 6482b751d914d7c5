//! What the compiler made of the kernels: nothing spilled, and the tensor cores' instructions are in.

use std::path::{Path, PathBuf};
use std::process::Command;

use perennial::ops::cuda::kernels::{MODULES, Module};
use perennial::ops::cuda::launch::Target;

/// Kernels that must use the tensor cores begin with these names.
const PRODUCTS: [&str; 6] =
    ["linear_", "attention", "contrastive", "similarity", "conformance_mma", "conformance_wgmma_m64"];
/// Those of them that only prepare for others, or add up what others left.
const NO_PRODUCTS: [&str; 8] = [
    "contrastive_add_parts",
    "contrastive_averages",
    "contrastive_index",
    "contrastive_loss",
    "contrastive_positive",
    "contrastive_records",
    "linear_column_sums",
    "linear_reduce_splits",
];

/// Kernels that need Hopper's instructions begin with these names.
const HOPPERS: [&str; 6] = [
    "linear_wgmma",
    "conformance_wgmma",
    "conformance_mbarrier",
    "conformance_tma",
    "conformance_fence",
    "conformance_setmaxnreg",
];

fn modules() -> &'static [Module] {
    assert!(!MODULES.is_empty(), "no kernels are in this build: run `make test`, which fetches NVRTC");
    MODULES
}

#[test]
fn every_kernel_is_compiled_for_all_targets() {
    for module in modules() {
        for target in [Target::Sm80, Target::Sm90a, Target::Compute80] {
            let other = modules().iter().find(|other| other.file == module.file && other.target == target);
            let kernels = other.unwrap_or_else(|| panic!("{} for {target:?}", module.file)).kernels().unwrap();
            let missing = module.kernels().unwrap().into_iter().find(|kernel| !kernels.contains(kernel));
            // Hopper has kernels of its own.
            let missing = missing.filter(|kernel| !HOPPERS.iter().any(|own| kernel.starts_with(own)));
            assert_eq!(missing, None, "{} for {target:?}", module.file);
        }
    }
}

#[test]
fn nothing_spills() {
    for module in modules().iter().filter(|module| module.target != Target::Compute80) {
        let reports = module.reports();
        assert!(!reports.is_empty(), "{}: the compiler reported no kernel", module.file);
        for report in reports {
            let place = format!("{} of {} for {}", report.kernel, module.file, module.target.name());
            assert_eq!(report.spills, (0, 0), "{place} spills registers");
            assert_eq!(report.stack, 0, "{place} has a stack frame");
            assert!(report.registers > 0, "{place}: no count of registers in the compiler's report");
        }
    }
}

/// nvdisasm, where `make` put it, or a toolkit's.
fn nvdisasm() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nvrtc/nvidia/cu13/bin/nvdisasm");
    let toolkit = Path::new("/usr/local/cuda/bin/nvdisasm").to_path_buf();
    [fetched, toolkit].into_iter().find(|path| path.exists()).expect("nvdisasm is there: `make test` fetches it")
}

/// The instructions of each kernel of a module, by the headings of the disassembly.
fn disassemble(module: &Module) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("module.cubin");
    std::fs::write(&path, module.code().unwrap()).unwrap();
    let output = Command::new(nvdisasm()).arg("--print-code").arg(&path).output().unwrap();
    assert!(output.status.success(), "nvdisasm: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let sections = text.split(".section\t.text.").skip(1);
    sections
        .map(|section| {
            let name = section.split([',', '\n']).next().unwrap_or_default();
            (name.to_string(), section.to_string())
        })
        .collect()
}

#[test]
fn products_use_the_tensor_cores() {
    let mut seen = 0;
    for module in modules() {
        let products = module.reports().into_iter().map(|report| report.kernel).filter(|kernel| is_product(kernel));
        let products: Vec<String> = products.collect();
        if products.is_empty() {
            continue;
        }
        let code = disassemble(module);
        for kernel in products {
            let (_, code) = code.iter().find(|(name, _)| *name == kernel).expect("every kernel is in the disassembly");
            let instruction = if kernel.contains("wgmma") { "HGMMA" } else { "HMMA" };
            assert!(code.contains(instruction), "{kernel} for {} has no {instruction}", module.target.name());
            seen += 1;
        }
    }
    assert!(seen > 0, "no kernel of products was found");
}

fn is_product(kernel: &str) -> bool {
    PRODUCTS.iter().any(|name| kernel.starts_with(name)) && !NO_PRODUCTS.contains(&kernel)
}

#[test]
fn ptx_is_written_in_one_file() {
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")).unwrap() {
        let path = entry.unwrap().path();
        let inline = std::fs::read_to_string(&path).unwrap().contains("asm");
        assert_eq!(inline, path.ends_with("ptx.cuh"), "{}", path.display());
    }
}
