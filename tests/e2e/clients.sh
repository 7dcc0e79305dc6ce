#!/usr/bin/env bash
# Clients that others wrote, unmodified, against the release binary: the
# openai-python library, lm-evaluation-harness, and schemathesis, which makes
# requests from /openapi.json. Needs bash, curl and Python with venv; the
# clients come from PyPI. `--long` makes 1,000 examples an operation, other ones
# each time, not the same 50.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
examples=(--max-examples 50 --seed 1)
[ "${1:-}" != --long ] || examples=(--max-examples 1000)
unset RUST_LOG GPT2_API_KEY

cargo build --release --bin gpt2
target="${CARGO_TARGET_DIR:-target}"
venv="$(realpath -m "$target")/e2e-venv"
if ! cmp -s tests/e2e/clients.txt "$venv/clients.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/e2e/clients.txt
    cp tests/e2e/clients.txt "$venv/"
fi

work=$(mktemp -d)
servers=()
finish() {
    local status=$?
    [ ${#servers[@]} -eq 0 ] || kill "${servers[@]}" 2>/dev/null || true
    [ $status -eq 0 ] || tail -n 20 "$work"/*.log >&2
    rm -rf "$work"
}
trap finish EXIT

# serve NAME OPTION...: starts a server; its address is in $url.
serve() {
    local name=$1 log="$work/$1.log"
    shift
    "$target/release/gpt2" serve --port 0 "$@" >"$log" 2>&1 &
    servers+=($!)
    for _ in $(seq 100); do
        url=$(grep -Eo 'http://127\.0\.0\.1:[0-9]+' "$log" | head -n 1 || true)
        [ -n "$url" ] && curl -sf "$url/health" >/dev/null && return
        sleep 0.1
    done
    echo "the server $name did not start" >&2
    exit 1
}

echo '{% for message in messages %}{{ message.content }}{% endfor %}' >"$work/chat.jinja"
serve chat --api-key secret --chat-template "$work/chat.jinja"
chat=$url
serve plain
python="$venv/bin/python"
"$python" tests/e2e/openai_client.py "$url" "$chat" secret
"$python" tests/e2e/lm_eval/check.py "$url"
# 400 is an answer to valid data, too: what fits into the context, and that
# n and best_of agree, is beyond a schema.
(cd "$work" && "$venv/bin/schemathesis" \
    --config-file "$OLDPWD/tests/e2e/schemathesis.toml" \
    run "$chat/openapi.json" -H 'Authorization: Bearer secret' \
    --request-timeout 60 "${examples[@]}")

panics=$(curl -sf "$chat/metrics" -H 'Authorization: Bearer secret' | grep gpt2_http_panics_total)
[ "$panics" = "gpt2_http_panics_total 0" ] || { echo "$panics" >&2; exit 1; }
echo "clients: all passed"
