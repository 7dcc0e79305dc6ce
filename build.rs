//! Compiles the CUDA kernels, for the feature `cuda` only.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the kernels are compiled for. bf16 and cp.async came with 8.0, launches
/// that overlap with 9.0. The driver compiles the PTX for devices in between
/// and later ones.
const ARCHITECTURES: [&str; 2] = ["80", "90"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for variable in [
        "NVCC",
        "NVCC_APPEND_FLAGS",
        "CUDA_HOME",
        "CUDA_PATH",
        "PATH",
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=src/cuda/kernels");
    if let Err(error) = compile() {
        println!("cargo::error={error}");
    }
}

fn compile() -> Result<(), String> {
    let nvcc = find_nvcc()?;
    let out = env::var("OUT_DIR").map_err(|e| format!("OUT_DIR: {e}"))?;
    let generate = ARCHITECTURES
        .map(|arch| format!("-gencode=arch=compute_{arch},code=[compute_{arch},sm_{arch}]"));
    let output = Command::new(&nvcc)
        // No multiplication and addition is fused that isn't written so: else
        // two kernels that compute the same might differ in what is.
        .args(["-fatbin", "--options-file", "src/cuda/kernels/nvcc.options"])
        .args(generate)
        .arg("-o")
        .arg(Path::new(&out).join("kernels.fatbin"))
        .arg("src/cuda/kernels/kernels.cu")
        .output()
        .map_err(|e| format!("{}: {e}", nvcc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    // One line each, as cargo takes them.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).replace('\n', "; ");
    Err(format!("{} failed: {said}", nvcc.display()))
}

/// nvcc where `NVCC`, `CUDA_HOME` or `CUDA_PATH` say, on the `PATH`, or where
/// CUDA is usually installed.
fn find_nvcc() -> Result<PathBuf, String> {
    if let Some(nvcc) = env::var_os("NVCC") {
        return Ok(nvcc.into());
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os);
    let homes = homes.map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/cuda/bin", "/opt/cuda/bin"].map(PathBuf::from);
    let mut folders = homes.chain(env::split_paths(&path)).chain(usual);
    folders
        .find_map(|folder| Some(folder.join("nvcc")).filter(|nvcc| nvcc.is_file()))
        .ok_or_else(|| {
            "the feature `cuda` needs nvcc: set CUDA_HOME, or NVCC to the compiler itself \
             (without a CUDA installation, `tests/cuda/nvcc.sh FOLDER` brings it from PyPI)"
                .to_owned()
        })
}
