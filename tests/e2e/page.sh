#!/usr/bin/env bash
# The page of `gpt2 serve`, used in Chromium: all four views, their errors,
# accessibility, and pictures of each screen in target/page/. `--pictures`
# puts those that the README shows into docs/page/.
# Needs bash, curl, python3, Node 20 or newer with npm, and Chromium; installs
# Chromium and its fonts from Debian's packages where they are missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
unset RUST_LOG GPT2_API_KEY

chromium=$(command -v chromium || command -v chromium-browser || true)
if [ -z "$chromium" ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        chromium fonts-inter fonts-sil-charis fonts-noto-core fonts-noto-cjk python3 >/dev/null
    chromium=$(command -v chromium)
fi
npm ci --prefix tests/e2e/page --ignore-scripts --no-audit --no-fund --loglevel=error

cargo build --release --bin gpt2
target=${CARGO_TARGET_DIR:-target}
GPT2=$(realpath "$target/release/gpt2") CHROMIUM=$chromium \
    timeout 600 node --test --test-concurrency=1 tests/e2e/page/*.test.mjs

if [ "${1:-}" = --pictures ]; then
    mkdir -p docs/page
    for picture in write-light probabilities-light inside-dark; do
        cp "target/page/$picture.png" docs/page/
    done
fi
