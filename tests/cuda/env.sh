# Sourced: sets CUDA_HOME where nobody says where nvcc is, with nvcc from PyPI.
if [ -z "${NVCC:-}${CUDA_HOME:-}${CUDA_PATH:-}" ] && ! command -v nvcc >/dev/null; then
    CUDA_HOME=$(bash tests/cuda/nvcc.sh "${CARGO_TARGET_DIR:-target}/cuda")
    export CUDA_HOME
fi
