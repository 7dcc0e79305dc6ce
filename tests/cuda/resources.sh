#!/usr/bin/env bash
# What the kernels take of a multiprocessor of the architectures given, as
# ptxas says. It is an error if registers had to move to memory, if a block has
# more shared memory than it gets without asking, or if a block of the size
# that is launched needs more registers than there are: then it would not run.
# Needs nvcc.
set -euo pipefail
nvcc="${NVCC:-${CUDA_HOME:-${CUDA_PATH:-}}/bin/nvcc}"
command -v "$nvcc" >/dev/null || nvcc=nvcc
for architecture in "$@"; do
    "$nvcc" -cubin --options-file src/cuda/kernels/nvcc.options -arch "$architecture" \
        -Xptxas -v -o /dev/null src/cuda/kernels/kernels.cu 2>&1 | awk -v architecture="$architecture" '
        function before(unit) {
            return match($0, "[0-9]+ " unit) ? substr($0, RSTART) + 0 : 0
        }
        /error|fatal/ { print; failed = 1 }
        /Compiling entry function/ { kernel = $0; gsub(/.*function .|. for .*/, "", kernel) }
        /spill stores/ { spilled = before("bytes spill stores") + before("bytes spill loads") }
        /Used [0-9]+ registers/ {
            registers = before("registers")
            shared = before("bytes smem")
            # As launched: launch.rs, linear.rs, sample.rs.
            threads = kernel ~ /^linear_few_f32/ ? 1024 : \
                kernel ~ /^(linear_(few|normed|some)|scan|sample)/ ? 512 : \
                kernel ~ /^attention_few/ ? 256 : \
                kernel ~ /^attention_many/ ? 128 : 256
            # A warp takes registers by 256.
            taken = int((registers + 7) / 8) * 8 * threads
            if (spilled > 0 || shared > 48 * 1024 || taken > 64 * 1024) {
                printf "%s, %s: %d registers, %d bytes of shared memory, %d bytes spilled\n",
                    architecture, kernel, registers, shared, spilled
                failed = 1
            }
            most = registers > most ? registers : most
            largest = shared > largest ? shared : largest
            kernels++
        }
        END {
            printf "%s: %d kernels, of %d registers and %d bytes of shared memory at most\n",
                architecture, kernels, most, largest
            exit failed || !kernels
        }'
done
