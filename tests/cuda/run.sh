#!/usr/bin/env bash
# `--device cuda` without a GPU: a driver that runs our kernels on the
# processor, built from the same source; with `--gpu`, on the GPU that is there.
# Needs bash, g++ (C++20), and nvcc or Python 3 with venv and PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder="$(realpath -m "${CARGO_TARGET_DIR:-target}")/cuda"
mkdir -p "$folder"

source tests/cuda/env.sh

tests() { cargo test --features cuda --test cuda -- --nocapture; }

if [ "${1:-}" = --gpu ]; then
    tests
    exit
fi

# The oldest architecture that is supported, and a recent one.
bash tests/cuda/resources.sh sm_80 sm_90

cargo clippy --features cuda --lib --bins --test cuda -- -D warnings
# What of it needs no driver.
cargo test --features cuda --lib cuda::

# Without a driver: the binary runs, and says what is missing.
cargo build --features cuda --bin gpt2
gpt2="${CARGO_TARGET_DIR:-target}/debug/gpt2"
if ! ldconfig -p | grep libcuda.so >/dev/null; then
    "$gpt2" generate "Once upon a time" --max-tokens 5 >/dev/null
    said=$("$gpt2" generate "Once" --device cuda 2>&1 >/dev/null) && exit 1
    echo "$said"
    [[ $said == *"no NVIDIA driver is installed"* ]]
fi

# Fused products and half precision in hardware take half the time, and give the
# same bits as the library's.
has() { grep -qw "$1" /proc/cpuinfo; }
hardware=""
if has avx2 && has fma && has f16c; then hardware="-mavx2 -mfma -mf16c"; fi
# shellcheck disable=SC2086
g++ -std=c++20 -O2 $hardware -ffp-contract=off -fPIC -shared -Itests/cuda -Wl,-soname,libcuda.so.1 \
    -x c++ tests/cuda/driver.cpp -o "$folder/libcuda.so.1"
ln -sf libcuda.so.1 "$folder/libcuda.so"
export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
tests
# On as many multiprocessors as a large GPU has, which take other kernels.
CUDA_EMULATED_ORDER=backward CUDA_EMULATED_LAZY=1 CUDA_EMULATED_MULTIPROCESSORS=132 tests

# The command line: the same text, and clear errors.
export CUDA_EMULATED_CLOSED=1
story() { "$gpt2" generate "Once upon a time" --max-tokens 20 "$@"; }
[ "$(story)" = "$(story --device cuda)" ]
# Whichever kernel computes its linear layers.
halves=$(story --device cuda --dtype bf16)
for way in few some many; do
    [ "$halves" = "$(GPT2_CUDA_LINEAR=$way story --device cuda --dtype bf16)" ]
done
# And with no step recorded.
[ "$halves" = "$(GPT2_CUDA_GRAPHS=0 story --device cuda --dtype bf16)" ]
for wrong in "--device cuda:7" "--device cuda --dtype q8" "--device gpu" "--dtype f16"; do
    # shellcheck disable=SC2086
    said=$(story $wrong 2>&1 >/dev/null) && exit 1
    echo "$wrong: $said"
done
# The server, too, closes the device when it ends.
log="$folder/serve.log"
"$gpt2" serve --device cuda --port 0 2>"$log" &
server=$!
for _ in $(seq 300); do
    if grep -q "is loaded" "$log"; then break; fi
    sleep 0.1
done
kill "$server"
wait "$server"
said=$(CUDA_EMULATED_NO_DEVICE=1 story --device cuda 2>&1 >/dev/null) && exit 1
echo "$said"
echo "cuda: all passed"
