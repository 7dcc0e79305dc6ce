#!/usr/bin/env bash
# Everything that needs a GPU, in a few minutes: the tests on it, then the
# benchmark of GPT-2 124M and of the shape of gpt2-xl, transformers beside them
# where PyTorch is there, and each kernel's time where Nsight Compute is. Needs
# an NVIDIA driver for CUDA 13, and what build.sh needs; or, as an argument, the
# folder into which that has built.
# What is printed is also kept in the folder OUT, if that is set.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
built="${1:-}"
if [ -z "$built" ]; then
    built="${CARGO_TARGET_DIR:-target}/cuda/built"
    bash benches/cuda/build.sh "$built" || exit
fi
SECONDS=0
logs="${OUT:-$(mktemp -d)}"
mkdir -p "$logs" || exit
export CARGO_MANIFEST_DIR="$PWD" PYTHONUNBUFFERED=1
failed=0

# part LOG SECONDS COMMAND...: what fails, or takes longer, is shown, and the
# rest is measured all the same.
part() {
    local log="$logs/$1.log" limit="$2"
    shift 2
    echo "--- $*" | tee -a "$log"
    timeout -k 5 "$limit" "$@" 2>&1 | tee -a "$log" && return
    echo "--- failed: $*" | tee -a "$log"
    failed=1
    return 1
}
bench() { part bench 90 "$built/gpt2" bench --device cuda "$@"; }

story=("$built/gpt2" generate --device cuda --dtype bf16 --max-tokens 40 "Once upon a time")
if ! part tests 60 "${story[@]}"; then
    echo "--- does it help to launch each kernel after the one before it?"
    part tests 60 env GPT2_CUDA_OVERLAP=0 "${story[@]}" && export GPT2_CUDA_OVERLAP=0
fi
if ! part tests 180 "$built/tests" --nocapture; then
    # A kernel that fails makes all fail that come after it in its process.
    first=
    for name in $("$built/tests" --list | sed -n 's/: test$//p'); do
        part tests 20 "$built/tests" --exact "$name" || first="${first:-$name}"
        # What is left of the time is for the rest.
        if [ "$SECONDS" -gt 270 ]; then break; fi
    done
    if [ -n "$first" ] && command -v compute-sanitizer >/dev/null; then
        part tests 60 compute-sanitizer "$built/tests" --exact "$first"
    fi
fi
bench --shape gpt2 --dtype bf16
# Each kernel after the one before it.
part bench 90 env GPT2_CUDA_OVERLAP=0 "$built/gpt2" bench --device cuda --shape gpt2 --dtype bf16
# Many requests at once, through the engine.
bench --shape gpt2 --dtype bf16 --requests 256
bench --shape gpt2-xl --dtype bf16
if python3 -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null; then
    part transformers 150 python3 benches/cuda/transformers_beside.py
    # Again, so that the two are compared A B A.
    bench --shape gpt2 --dtype bf16
else
    echo "no PyTorch with CUDA here: nothing to compare with"
fi
bench --shape gpt2 --dtype f32
bench --shape gpt2 --dtype f16
part tune 150 bash benches/cuda/tune.sh "$built/gpt2"
if command -v ncu >/dev/null; then
    part profile 90 bash benches/cuda/profile.sh "$built/gpt2"
fi
exit "$failed"
