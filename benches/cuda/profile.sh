#!/usr/bin/env bash
# Where a step's time goes, by Nsight Compute: for each kernel how long it takes,
# alone and after the one before it, and how near it comes to what the device's
# memory and multiprocessors do. GPT2 is the binary with CUDA; a DTYPE other than
# bf16 comes after it.
set -euo pipefail
gpt2="${1:?usage: profile.sh GPT2 [DTYPE]}"
dtype="${2:-bf16}"

# of SKIPPED LAUNCHES CASE: so many launches after those that are skipped.
of() {
    echo "--- $3"
    GPT2_CUDA_OVERLAP=0 GPT2_CUDA_GRAPHS=0 ncu --clock-control none --cache-control none \
        --section SpeedOfLight --print-summary per-kernel \
        --launch-skip "$1" --launch-count "$2" \
        "$gpt2" bench --device cuda --shape gpt2 --dtype "$dtype" --repl <<<"$3" |
        grep -v '^==PROF=='
}

# A prompt of 32 tokens, each computed alone, is 97 launches in every format; a
# step is 64 of one row in bf16 and f16, else 89; the long prompt is 101 at most.
of 97 178 '{"case": "decode", "batch": 1, "prompt": 32, "tokens": 4}'
of 0 101 '{"case": "prefill", "tokens": 1024}'
# Last: to skip so many takes its time, too.
of $((256 * 97)) 178 '{"case": "decode", "batch": 256, "prompt": 32, "tokens": 4}'
