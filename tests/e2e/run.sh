#!/usr/bin/env bash
# The README's commands against the real binary: tests/e2e/run.sh path/to/gpt2
set -euo pipefail
gpt2=$1
work=$(mktemp -d)
server=""
cleanup() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap cleanup EXIT

check() { # check NAME PATTERN TEXT
  if ! grep -qE -- "$2" <<<"$3"; then
    printf 'failed: %s\nexpected: %s\nfound: %s\n' "$1" "$2" "$3" >&2
    exit 1
  fi
  echo "ok: $1"
}

check generate '^Once upon a time, .*\.$' "$("$gpt2" generate "Once upon a time")"
check score '"perplexity":[0-9.]+' "$("$gpt2" score "Once upon a time" --json)"
check tokenize '"ids":\[[0-9,]+\]' "$("$gpt2" tokenize "Once upon a time" --json)"

"$gpt2" serve --port 0 2>"$work/log" &
server=$!
for _ in $(seq 100); do
  url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$work/log" | head -n 1 || true)
  if [ -n "$url" ] && curl -sf "$url/health" >/dev/null; then break; fi
  sleep 0.1
done
check 'warning for the demo' 'demo model' "$(cat "$work/log")"
check health '"status":"ok"' "$(curl -s "$url/health")"
check /api/generate '"generated_text":"Once upon a time, .*"params":\{"max_tokens":20' \
  "$(curl -s "$url/api/generate" -H 'Content-Type: application/json' \
    -d '{"prompt": "Once upon a time", "max_tokens": 20}')"
check /api/stream '^data: \[DONE\]$' \
  "$(curl -sN "$url/api/stream" -H 'Content-Type: application/json' \
    -d '{"prompt": "Once upon a time", "max_tokens": 3}')"
kill -TERM "$server"
wait "$server" && echo "ok: SIGTERM ends the server with 0"
server=""
echo "end to end: 8 passed, 0 failed"
