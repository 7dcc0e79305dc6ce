#!/usr/bin/env bash
# Brings nvcc from PyPI into a folder, for a machine without CUDA, and prints
# what CUDA_HOME is then. 13.0, because the PTX of a newer compiler asks for a
# newer driver. Needs Python 3 with venv.
set -euo pipefail
folder=${1:?usage: nvcc.sh FOLDER}
if [ ! -f "$folder/installed" ]; then
    rm -rf "$folder/venv"
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
        'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-runtime==13.0.*' \
        'nvidia-cuda-cccl==13.0.*' 'nvidia-nvvm==13.0.*' >&2
    touch "$folder/installed"
fi
realpath "$folder"/venv/lib/python3*/site-packages/nvidia/cu13
