#!/usr/bin/env bash
# Everything that needs a GPU, in less than ten minutes: the tests on it, then
# the benchmark of GPT-2 124M and of the shape of gpt2-xl, transformers beside
# them where PyTorch is there, and each kernel's time where Nsight Compute is.
# Needs an NVIDIA driver for CUDA 13, and what build.sh needs; or, as an argument,
# the folder into which that has built.
# What is printed is also kept in the folder OUT, if that is set. BUDGET is how
# many seconds there are, the build left out; what finds none left is skipped.
# It is an error if anything failed or found no time; what is not installed is
# not missed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
built="${1:-}"
if [ -z "$built" ]; then
    built="${CARGO_TARGET_DIR:-target}/cuda/built"
    bash benches/cuda/build.sh "$built" || exit
fi
SECONDS=0
budget="${BUDGET:-570}"
logs="${OUT:-$(mktemp -d)}"
mkdir -p "$logs" || exit
export CARGO_MANIFEST_DIR="$PWD" PYTHONUNBUFFERED=1
failed=0

has() { command -v "$1" >/dev/null; }

# Whether so many seconds are left.
left() { [ $((budget - SECONDS)) -ge "$1" ]; }

# part LOG SECONDS COMMAND...: what fails, or takes longer, is shown, and the
# rest is measured all the same.
part() {
    local log="$logs/$1.log" limit="$2" rest=$((budget - SECONDS))
    shift 2
    if ! left 10; then
        echo "--- skipped, no time is left: $*" | tee -a "$log"
        failed=1
        return 1
    fi
    echo "--- at $SECONDS s: $*" | tee -a "$log"
    timeout -k 5 $((limit < rest ? limit : rest)) "$@" 2>&1 | tee -a "$log" && return
    echo "--- failed, or took too long: $*" | tee -a "$log"
    failed=1
    return 1
}
bench() { part bench 90 "$built/gpt2" bench --device cuda "$@"; }
# Of a test or a story that failed: which kernel touches what it must not.
sanitized() {
    if has compute-sanitizer; then part tests 60 compute-sanitizer "$@"; fi
}

{
    ldconfig -p | grep libcuda
    echo "LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}"
    if has nvidia-smi; then nvidia-smi | grep Driver; fi
} 2>&1 | tee "$logs/machine.log"

story=("$built/gpt2" generate --device cuda --dtype bf16 --max-tokens 40 "Once upon a time")
if ! part tests 60 "${story[@]}"; then
    echo "--- does it help to launch each kernel after the one before it, or to record no step?"
    told=
    for settings in GPT2_CUDA_OVERLAP=0 GPT2_CUDA_GRAPHS=0 "GPT2_CUDA_OVERLAP=0 GPT2_CUDA_GRAPHS=0"; do
        # shellcheck disable=SC2086
        if part tests 30 env $settings "${story[@]}"; then
            told="$settings"
            break
        fi
    done
    if [ -z "$told" ]; then
        sanitized "${story[@]}"
        echo "--- nothing else can be measured"
        exit 1
    fi
    echo "--- from here on with $told"
    # shellcheck disable=SC2086,SC2163
    export $told
fi

tests=("$built/tests" --nocapture)
again=60
if ! part tests 180 "${tests[@]}"; then
    again=30
    # The driver may load a kernel only where all is done that was asked; and a
    # kernel that fails makes all fail that come after it in its process.
    one_by_one=(env CUDA_MODULE_LOADING=EAGER "${tests[@]}" --test-threads=1)
    if part tests 120 "${one_by_one[@]}"; then
        tests=("${one_by_one[@]}")
    else
        first=
        for name in $("$built/tests" --list | sed -n 's/: test$//p'); do
            part tests 20 "$built/tests" --exact "$name" || first="${first:-$name}"
            # What is left of the time is for the rest.
            if ! left 300; then break; fi
        done
        if [ -n "$first" ]; then sanitized "$built/tests" --exact "$first"; fi
    fi
fi
# Which kernel computes a linear layer depends on the multiprocessors, of which
# a GPU has so many that the small shapes of the tests don't go through all.
for way in few some many; do
    part tests "$again" env GPT2_CUDA_LINEAR=$way "${tests[@]}"
done
part tests "$again" env GPT2_CUDA_OVERLAP=0 "${tests[@]}"
if has compute-sanitizer; then
    part tests 60 env GPT2_CUDA_OVERLAP=0 compute-sanitizer --tool racecheck --error-exitcode 1 \
        "$built/tests" --exact other_tokens_give_other_bits \
        passes_under_way_together_change_no_bit
fi
# At GPT-2's size.
part tests 90 "${tests[@]}" --ignored

bench --shape gpt2 --dtype bf16
# Each kernel after the one before it.
part bench 90 env GPT2_CUDA_OVERLAP=0 "$built/gpt2" bench --device cuda --shape gpt2 --dtype bf16
# Many requests at once, through the engine.
bench --shape gpt2 --dtype bf16 --requests 256
bench --shape gpt2-xl --dtype bf16
with_torch='import torch, transformers; assert torch.cuda.is_available()'
if left 30 && timeout 20 python3 -c "$with_torch" 2>/dev/null; then
    part transformers 150 python3 benches/cuda/transformers_beside.py
    # Again, so that the two are compared A B A.
    bench --shape gpt2 --dtype bf16
else
    echo "no PyTorch with CUDA here, or no time: nothing to compare with"
fi
if has ncu; then
    part profile 90 bash benches/cuda/profile.sh "$built/gpt2"
fi
bench --shape gpt2 --dtype f32
bench --shape gpt2 --dtype f16
part tune 150 bash benches/cuda/tune.sh "$built/gpt2"
exit "$failed"
