//! Compiles the kernels with NVRTC, where it is found, and embeds the cubins with the compiler's report; with the feature
//! `emulator` also builds the emulated GPU.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, thread};

use libloading::Library;

#[path = "build/declarations.rs"]
mod declarations;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What is embedded: machine code, of which Ampere's runs on Ada too and Hopper's has wgmma and TMA; and PTX, which the driver
/// of any other GPU from Ampere on makes machine code of.
const TARGETS: [&str; 3] = ["sm_80", "sm_90a", "compute_80"];
const OPTIONS: [&str; 2] = ["--std=c++17", "-lineinfo"];

fn is_ptx(target: &str) -> bool {
    target.starts_with("compute_")
}

fn main() -> Result<(), Error> {
    for path in ["kernels", "build.rs", "build"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["PERENNIAL_NVRTC", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // target/<profile>/build/<package>/out
    let target = out.ancestors().nth(4).ok_or("OUT_DIR lies in target/")?.to_path_buf();
    println!("cargo:rerun-if-changed={}", target.join("nvrtc").display());

    let mut version = (0, 0);
    let sources = read_sources()?;
    write_declarations(&out, &sources)?;
    let compiled = match find_nvrtc(&target) {
        Some(path) => {
            let nvrtc = Nvrtc::load(&path)?;
            version = nvrtc.version;
            compile_all(&nvrtc, &sources, &target.join("kernels"))?
        }
        None => {
            println!(
                "cargo:warning=no libnvrtc found, so no CUDA kernels are in this build: run `make`, which fetches it, or \
                 name it in PERENNIAL_NVRTC"
            );
            Vec::new()
        }
    };
    write_table(&out, &compiled)?;
    fs::write(out.join("cuda_version.rs"), format!("{version:?}"))?;
    if env::var_os("CARGO_FEATURE_EMULATOR").is_some() {
        build_emulator(&target)?;
    }
    Ok(())
}

/// One .cu file for one target, and what the compiler said.
struct Compiled {
    file: String,
    target: &'static str,
    code: Vec<u8>,
    log: String,
}

/// libnvrtc: the one named by the user, a toolkit's, a Python package's, or the one that `make` fetched.
fn find_nvrtc(target: &Path) -> Option<PathBuf> {
    if let Some(path) = env::var_os("PERENNIAL_NVRTC") {
        return Some(path.into());
    }
    let mut folders: Vec<PathBuf> = Vec::new();
    for home in ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os) {
        folders.push(Path::new(&home).join("lib64"));
        folders.push(Path::new(&home).join("lib"));
    }
    // `make` says which of the packages that it fetched is the one.
    if let Ok(package) = fs::read_to_string(target.join("nvrtc/package")) {
        let package = target.join("nvrtc").join(package.trim());
        folders.push(package.join("nvidia/cu13/lib"));
        folders.push(package.join("nvidia/cuda_nvrtc/lib"));
    }
    folders.extend(["/usr/local/cuda/lib64", "/opt/cuda/lib64", "/usr/lib64"].map(PathBuf::from));
    // Debian's place for libraries of this machine's architecture.
    folders.push(format!("/usr/lib/{}-linux-gnu", env::consts::ARCH).into());
    for python in [env::var_os("VIRTUAL_ENV").map(PathBuf::from), env::home_dir().map(|home| home.join(".local"))] {
        let Some(versions) = python.and_then(|python| fs::read_dir(python.join("lib")).ok()) else { continue };
        folders.extend(versions.flatten().map(|version| version.path().join("site-packages/nvidia/cu13/lib")));
    }
    let names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
    folders.iter().flat_map(|folder| names.map(|name| folder.join(name))).find(|path| path.exists())
}

/// The functions of NVRTC that a compilation needs. (cudarc's table of them is loaded by name alone, from wherever the
/// system finds it first; here the path is known.)
struct Nvrtc {
    library: Library,
    version: (c_int, c_int),
    _builtins: Option<Library>,
}

type Program = *mut c_void;

impl Nvrtc {
    fn load(path: &Path) -> Result<Nvrtc, Error> {
        // NVRTC looks for its builtins by name: they must be loaded before.
        let folder = path.parent().ok_or("libnvrtc lies in a folder")?;
        let builtins = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).find(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("libnvrtc-builtins.so") && !name.contains(".alt.")
        });
        // SAFETY: NVIDIA's libraries' initialisers do nothing to us.
        let load = |path: &Path| unsafe { Library::new(path) }.map_err(|cause| format!("{}: {cause}", path.display()));
        let builtins = builtins.map(|path| load(&path)).transpose()?;
        let library = load(path)?;
        let mut version = (0, 0);
        // SAFETY: nvrtc.h declares nvrtcVersion(int*, int*).
        unsafe {
            let function = library.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(c"nvrtcVersion")?;
            function(&mut version.0, &mut version.1);
        }
        Ok(Nvrtc { library, version, _builtins: builtins })
    }

    /// What a pair of functions nvrtcGet`what`Size and nvrtcGet`what` give.
    fn get(&self, program: Program, what: &str) -> Result<Vec<u8>, Error> {
        let (size_name, name) = (format!("nvrtcGet{what}Size"), format!("nvrtcGet{what}"));
        let mut size = 0usize;
        // SAFETY: nvrtc.h declares (nvrtcProgram, size_t*) and (nvrtcProgram, char*).
        unsafe {
            let function =
                self.library.get::<unsafe extern "C" fn(Program, *mut usize) -> c_int>(size_name.as_str())?;
            if function(program, &mut size) != 0 {
                return Err(format!("{size_name} failed").into());
            }
            let mut bytes = vec![0u8; size];
            let function = self.library.get::<unsafe extern "C" fn(Program, *mut c_char) -> c_int>(name.as_str())?;
            if function(program, bytes.as_mut_ptr().cast()) != 0 {
                return Err(format!("nvrtcGet{what} failed").into());
            }
            Ok(bytes)
        }
    }

    /// Compiles one file, with the headers beside it, for one target. Returns the code and the log.
    fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &BTreeMap<String, String>,
        target: &str,
    ) -> Result<(Vec<u8>, String), Error> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        let (source, name) = (CString::new(source)?, CString::new(name)?);
        let strings = |strings: Vec<String>| strings.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
        let (names, texts) =
            (strings(headers.keys().cloned().collect())?, strings(headers.values().cloned().collect())?);
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (names, texts) = (pointers(&names), pointers(&texts));
        let mut options = vec![format!("--gpu-architecture={target}")];
        options.extend(OPTIONS.map(String::from));
        if !is_ptx(target) {
            options.push("--ptxas-options=-v".to_string());
        }
        let options = strings(options)?;
        let options = pointers(&options);
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the types are those of nvrtc.h, and every string lives until the call returns.
        let status = unsafe {
            let create = self.library.get::<Create>(c"nvrtcCreateProgram")?;
            create(&mut program, source.as_ptr(), name.as_ptr(), names.len() as c_int, texts.as_ptr(), names.as_ptr());
            let compile = self
                .library
                .get::<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int>(c"nvrtcCompileProgram")?;
            compile(program, options.len() as c_int, options.as_ptr())
        };
        let log = self.get(program, "ProgramLog")?;
        let log = CStr::from_bytes_until_nul(&log).map(|log| log.to_string_lossy().into_owned()).unwrap_or_default();
        if status != 0 {
            return Err(format!("{}, {target}:\n{log}", name.to_string_lossy()).into());
        }
        Ok((self.get(program, if is_ptx(target) { "PTX" } else { "CUBIN" })?, log))
    }
}

/// The files of `kernels/`, by name.
fn read_sources() -> Result<BTreeMap<String, String>, Error> {
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir("kernels")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        sources.insert(name, fs::read_to_string(&path)?);
    }
    Ok(sources)
}

/// Writes `declarations.rs` and the header for C, which `src/ops/cuda/kernels.rs` includes. Kernels that are no part of an op are
/// launched by the tests that they are for, which know them.
fn write_declarations(out: &Path, sources: &BTreeMap<String, String>) -> Result<(), Error> {
    let mut files = Vec::new();
    for name in sources.keys().filter(|name| *name != "conformance.cu") {
        if let Some(file) = name.strip_suffix(".cu") {
            files.push((file, declarations::read(name, sources)?));
        }
    }
    fs::write(
        out.join("declarations.rs"),
        files.iter().map(|(file, declared)| declared.rust(file)).collect::<String>(),
    )?;
    fs::write(out.join("perennial_kernels.h"), declarations::c_header(&files, sources))?;
    Ok(())
}

/// All kernels for all targets; what `cache` holds by the hash of everything that went in is not compiled again.
fn compile_all(nvrtc: &Nvrtc, sources: &BTreeMap<String, String>, cache: &Path) -> Result<Vec<Compiled>, Error> {
    fs::create_dir_all(cache)?;
    let (sources, headers): (BTreeMap<_, _>, BTreeMap<_, _>) =
        sources.clone().into_iter().partition(|(name, _)| name.ends_with(".cu"));
    let jobs: Vec<(&String, &String, &'static str)> =
        sources.iter().flat_map(|(name, source)| TARGETS.map(|target| (name, source, target))).collect();
    let (queue, results) = (Mutex::new(jobs.iter().enumerate()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let Some((index, (name, source, target))) = queue.lock().unwrap().next() else { break };
                    let result = compile_or_recall(nvrtc, cache, name, source, &headers, target);
                    results.lock().unwrap().push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner()?;
    results.sort_by_key(|(index, _)| *index);
    results
        .into_iter()
        .map(|(index, result)| {
            let (name, _, target) = jobs[index];
            let (code, log) = result?;
            Ok(Compiled { file: name.trim_end_matches(".cu").to_string(), target, code, log })
        })
        .collect()
}

fn compile_or_recall(
    nvrtc: &Nvrtc,
    cache: &Path,
    name: &str,
    source: &str,
    headers: &BTreeMap<String, String>,
    target: &str,
) -> Result<(Vec<u8>, String), Error> {
    let mut hasher = DefaultHasher::new();
    (name, source, headers, target, OPTIONS, nvrtc.version).hash(&mut hasher);
    let path = |extension: &str| cache.join(format!("{:016x}.{extension}", hasher.finish()));
    if let (Ok(code), Ok(log)) = (fs::read(path("code")), fs::read_to_string(path("log"))) {
        return Ok((code, log));
    }
    let (code, log) = nvrtc.compile(name, source, headers, target)?;
    // The log last: it says that the code is whole.
    fs::write(path("code"), &code)?;
    fs::write(path("log"), &log)?;
    Ok((code, log))
}

/// Writes the compressed code and `kernels.rs`, the table that `src/ops/cuda/kernels.rs` includes.
fn write_table(out: &Path, compiled: &[Compiled]) -> Result<(), Error> {
    let mut table = String::from("&[\n");
    for Compiled { file, target, code, log } in compiled {
        let path = out.join(format!("{file}.{target}.z"));
        let mut encoder = flate2::write::ZlibEncoder::new(fs::File::create(&path)?, flate2::Compression::best());
        encoder.write_all(code)?;
        encoder.finish()?;
        let variant = match *target {
            "sm_80" => "Sm80",
            "sm_90a" => "Sm90a",
            _ => "Compute80",
        };
        writeln!(
            table,
            "Module {{ file: {file:?}, target: Target::{variant}, bytes: {}, compressed: include_bytes!({:?}), log: {log:?} }},",
            code.len(),
            path
        )?;
    }
    table.push_str("]\n");
    fs::write(out.join("kernels.rs"), table)?;
    Ok(())
}

/// Builds the emulated GPU, its driver and its kernels, and tells the program where they lie.
fn build_emulator(target: &Path) -> Result<(), Error> {
    println!("cargo:rerun-if-changed=tests/emulator");
    let (driver, kernels) = (target.join("emulator/driver"), target.join("emulator/plain"));
    for (goal, build) in [("driver", &driver), ("kernels", &kernels)] {
        let status = Command::new("make")
            .args(["--quiet", "--directory=tests/emulator", "FLAVOUR=plain", goal])
            .arg(format!("--jobs={}", env::var("NUM_JOBS")?))
            .arg(format!("KERNELS={}", env::current_dir()?.join("kernels").display()))
            .arg(format!("BUILD={}", build.display()))
            .env_remove("MAKEFLAGS")
            .status()?;
        if !status.success() {
            return Err("the emulator could not be built; the feature `emulator` needs make and g++".into());
        }
    }
    println!("cargo:rustc-env=PERENNIAL_EMULATED_LIBCUDA={}", driver.join("libcuda.so.1").display());
    println!("cargo:rustc-env=PERENNIAL_EMULATOR={}", kernels.join("libemulator.so").display());
    Ok(())
}
