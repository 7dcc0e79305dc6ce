#!/usr/bin/env bash
# Everything that needs a GPU, in a few minutes: the tests on it, then the
# benchmark of GPT-2 124M and of the shape of gpt2-xl, then transformers beside
# them where PyTorch is there. Needs an NVIDIA driver for CUDA 13, and what
# build.sh needs; or, as an argument, the folder into which that has built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
built="${1:-}"
if [ -z "$built" ]; then
    built="${CARGO_TARGET_DIR:-target}/cuda/built"
    bash benches/cuda/build.sh "$built"
fi
bench() {
    echo "--- gpt2 bench $*"
    "$built/gpt2" bench --device cuda "$@"
}

# What fails here is shown, and the rest is measured all the same.
failed=0
CARGO_MANIFEST_DIR="$PWD" "$built/tests" --nocapture || failed=1
bench --shape gpt2 --dtype bf16
echo "--- and each kernel after the one before it"
GPT2_CUDA_OVERLAP=0 bench --shape gpt2 --dtype bf16
# Many requests at once, through the engine.
bench --shape gpt2 --dtype bf16 --requests 256
if python3 -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null; then
    python3 benches/cuda/transformers_beside.py
    # Again, so that the two are compared A B A.
    bench --shape gpt2 --dtype bf16
else
    echo "no PyTorch with CUDA here: nothing to compare with"
fi
bench --shape gpt2-xl --dtype bf16
bench --shape gpt2 --dtype f32
bench --shape gpt2 --dtype f16
bash benches/cuda/tune.sh "$built/gpt2"
exit "$failed"
