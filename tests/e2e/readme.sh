#!/usr/bin/env bash
# Runs the README's commands and writes what they print below the markers
# `<!-- output: NAME -->` of both READMEs: tests/e2e/readme.sh path/to/gpt2
# With --check after the path nothing is written, and a difference is an error.
set -euo pipefail
gpt2=$(realpath "$1")
mode=${2:-}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
server=""
finish() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

shows() { # shows NAME COMMAND...: what the command prints is NAME's output
  local name=$1
  shift
  printf '%s\n' "$("$@")" >"$work/shown.$name"
}
post() {
  curl -sN "$url$1" -H 'content-type: application/json' -d "$2"
}

prompt="Once upon a time"
shows generate "$gpt2" generate "$prompt"
shows sampled "$gpt2" generate "$prompt" --strategy top-k -k 40 --temperature 0.8 --seed 7 --max-tokens 40
shows json "$gpt2" generate "$prompt" --max-tokens 5 --json
shows score "$gpt2" score "Once upon a time, there was a fox."
shows score_json "$gpt2" score "$prompt" --json
shows tokenize "$gpt2" tokenize "$prompt" --json

"$gpt2" serve --port 0 2>"$work/log" &
server=$!
url=""
for _ in $(seq 100); do
  url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$work/log" | head -n 1 || true)
  if [ -n "$url" ] && curl -sf "$url/health" >"$work/health"; then break; fi
  sleep 0.1
done
shows health curl -sf "$url/health"
shows api_generate post /api/generate '{"prompt": "Once upon a time", "max_tokens": 20, "strategy": "greedy"}'
shows api_stream post /api/stream '{"prompt": "Once upon a time", "max_tokens": 4}'
shows api_error post /api/generate '{"prompt": "Once upon a time", "max_tokens": 0}'

for readme in README.md README.zh-CN.md; do
  awk -v work="$work" '
    /^<!-- output: .* -->$/ { name = $3; print; next }
    name != "" && /^```/ && !inside {
      print; inside = 1; lines = 0
      while ((getline line < (work "/shown." name)) > 0) { print line; lines++ }
      if (!lines) { print "nothing makes the output " name > "/dev/stderr"; exit 1 }
      next
    }
    inside && /^```/ { inside = 0; name = "" }
    !inside { print }
  ' "$readme" >"$work/$readme"
  if [ "$mode" = --check ]; then
    diff -u "$readme" "$work/$readme"
  else
    cat "$work/$readme" >"$readme"
  fi
done
