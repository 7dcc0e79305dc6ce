#!/usr/bin/env bash
# Everything that needs a GPU, in a few minutes: the tests on it, then the
# benchmark of GPT-2 124M and of the shape of gpt2-xl, then transformers beside
# them where PyTorch is there. Needs Rust, nvcc (or Python 3 with venv and PyPI)
# and an NVIDIA driver for CUDA 13.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target="${CARGO_TARGET_DIR:-target}"

source tests/cuda/env.sh
cargo build --release --features cuda --bin gpt2
bash tests/cuda/run.sh --gpu
bench() { "$target/release/gpt2" bench --device cuda "$@"; }
bench --shape gpt2
# Many requests at once, through the engine.
bench --shape gpt2 --dtype bf16 --requests 256
bench --shape gpt2-xl --dtype bf16
if python3 -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null; then
    python3 benches/cuda/transformers_static.py
    # Again, so that the two are compared A B A.
    bench --shape gpt2 --dtype bf16
else
    echo "no PyTorch with CUDA here: nothing to compare with"
fi
