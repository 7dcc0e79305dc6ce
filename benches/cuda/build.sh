#!/usr/bin/env bash
# What run.sh needs, built into FOLDER: the binary and the tests, without debug
# information. They run on a machine with a GPU and neither Rust nor nvcc.
# Needs Rust, and nvcc or Python 3 with venv and PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder="${1:?usage: build.sh FOLDER}"
target="${CARGO_TARGET_DIR:-target}"

source tests/cuda/env.sh
# The same machine code, of which tools can say the line. It takes 4 MB, and the
# names of this machine's folders.
export NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:+$NVCC_APPEND_FLAGS }-lineinfo"
cargo build --release --features cuda --bin gpt2
tests=$(cargo test --features cuda --test cuda --no-run 2>&1 | tee /dev/stderr |
    sed -n 's/.*Executable.*(\(.*\))$/\1/p')
mkdir -p "$folder"
strip -o "$folder/gpt2" "$target/release/gpt2"
strip -o "$folder/tests" "$tests"
