#!/usr/bin/env bash
# Where a step's time goes, by Nsight Compute: for each kernel how long it takes,
# alone and after the one before it, and how near it comes to what the device's
# memory and multiprocessors do. GPT2 is the binary with CUDA; a DTYPE other than
# bf16 comes after it.
set -euo pipefail
gpt2="${1:?usage: profile.sh GPT2 [DTYPE]}"
dtype="${2:-bf16}"

# of LAUNCHES CASE: the first of them, which are a step of each kind at least.
of() {
    echo "--- $2"
    GPT2_CUDA_OVERLAP=0 ncu --clock-control none --cache-control none \
        --section SpeedOfLight --print-summary per-kernel --launch-count "$1" \
        "$gpt2" bench --device cuda --shape gpt2 --dtype "$dtype" --repl <<<"$2" |
        grep -v '^==PROF=='
}

of 250 '{"case": "decode", "batch": 1, "prompt": 32, "tokens": 4}'
of 400 '{"case": "decode", "batch": 256, "prompt": 32, "tokens": 4}'
of 150 '{"case": "prefill", "tokens": 1024}'
