fn main() {
    println!("cargo:rustc-env=PERENNIAL_EMULATOR=none");
}
