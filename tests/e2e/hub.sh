#!/usr/bin/env bash
# tests/e2e/hub.rs: one cache for Python's huggingface_hub and us, and a disk
# that becomes full. Needs Python 3 with venv, PyPI, and unshare.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/e2e/requirements.txt

if ! unshare -rm true 2>/dev/null; then
    echo "NOT CHECKED: a disk that becomes full (no mount namespaces here)"
    export GPT2_E2E_NO_NAMESPACES=1
fi
GPT2_E2E_PYTHON="$venv/bin/python" cargo test --test hub_e2e
