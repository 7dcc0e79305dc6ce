#!/usr/bin/env bash
# Which kernel of linear layers is best for how many rows, for the borders in
# src/cuda/linear.rs: tokens per second of GPT-2 124M with the one that is
# chosen, and with each of them for all rows, two rounds. GPT2 is the binary with
# CUDA; a DTYPE other than bf16 comes after it.
set -euo pipefail
gpt2="${1:?usage: tune.sh GPT2 [DTYPE]}"
dtype="${2:-bf16}"
batches=(1 2 4 8 16 24 32 48 64 96 128 256)
prompts=(64 128 256 512 1024)

cases() {
    # Of two of each, the first finds memory and caches cold.
    for batch in "${batches[@]}"; do
        for tokens in 2 64; do
            echo "{\"case\": \"decode\", \"batch\": $batch, \"prompt\": 32, \"tokens\": $tokens}"
        done
    done
    for tokens in "${prompts[@]}"; do
        for _ in 1 2; do echo "{\"case\": \"prefill\", \"tokens\": $tokens}"; done
    done
}

# Every other answer is one that counts.
rates() {
    sed -n 's/.*"tokens_per_second":\([0-9]*\).*/\1/p; s/.*"error".*/error/p' | sed -n 'n;p'
}

# A line, of a field for each argument and each line of the input.
row() { { printf '%s\n' "$@" && cat; } | paste -s | expand -t 9; }

{ printf '%s rows\n' "${batches[@]}" && printf 'of %s\n' "${prompts[@]}"; } | row kernel
for way in "" few some many "" few some many; do
    if [ -n "$way" ]; then export GPT2_CUDA_LINEAR="$way"; else unset GPT2_CUDA_LINEAR; fi
    cases | "$gpt2" bench --device cuda --shape gpt2 --dtype "$dtype" --repl | rates |
        row "${way:-chosen}"
done
