#!/usr/bin/env bash
# The README's commands against the release binary. What they print has the
# right shape, and is what README.md and README.zh-CN.md show below their
# `<!-- output: NAME -->` markers; `--refresh` writes it there instead.
# Needs bash, curl, awk and coreutils, and what hub.sh needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
unset RUST_LOG GPT2_API_KEY
refresh=${1:-}

cargo build --release --bin gpt2
gpt2="${CARGO_TARGET_DIR:-target}/release/gpt2"
work=$(mktemp -d)
server=""
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

checks=0
fail() {
    printf 'not as the README says: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf -- '--- got\n%s\n' "$@" >&2
    [ ! -s "$work/serve.log" ] || { echo '--- server log'; tail -n 20 "$work/serve.log"; } >&2
    exit 1
}
# matches NAME TEXT REGEX...: every expression is found in the text.
matches() {
    local name=$1 text=$2 pattern
    shift 2
    for pattern in "$@"; do
        grep -Eq -- "$pattern" <<<"$text" || fail "$name: no match for $pattern" "$text"
    done
    checks=$((checks + 1))
}
# shows NAME TEXT: the text is in the READMEs under that name.
shows() {
    printf '%s\n' "$2" >"$work/shown.$1"
}
# with_outputs FILE: its text, with what was shown now in the marked blocks.
with_outputs() {
    awk -v work="$work" '
        /^<!-- output: .* -->$/ { name = $3; print; next }
        name != "" && /^```/ && !inside {
            print; inside = 1
            while ((getline line < (work "/shown." name)) > 0) print line
            next
        }
        inside && /^```/ { inside = 0; name = "" }
        !inside { print }
    ' "$1"
}
# exits STATUS COMMAND...: the command ends with that status; its output is in $out.
exits() {
    local wanted=$1 status=0
    shift
    out=$("$@" 2>&1) || status=$?
    [ "$status" -eq "$wanted" ] || fail "$* exited with $status, not $wanted" "$out"
    checks=$((checks + 1))
}

echo "command line"
story=$("$gpt2" generate "Once upon a time")
matches "generate" "$story" '^Once upon a time.'
[ ${#story} -gt 100 ] || fail "generate: too short for a story" "$story"
[ "$story" = "$("$gpt2" generate "Once upon a time")" ] || fail "generate: greedy text differs between two runs"
shows generate "$story"

sampled=(generate "Once upon a time" --strategy top-k -k 40 --temperature 0.8 --seed 7 --max-tokens 40)
text=$("$gpt2" "${sampled[@]}")
matches "generate, sampled" "$text" '^Once upon a time.'
[ "$text" = "$("$gpt2" "${sampled[@]}")" ] || fail "generate: the same seed gave another text" "$text"
shows sampled "$text"

json=$("$gpt2" generate "Once upon a time" --max-tokens 5 --json)
matches "generate --json" "$json" '"prompt": ?"Once upon a time"' '"generated_text": ?"Once upon a time' \
    '"token_ids": ?\[' '"finish_reason": ?"length"' '"prompt_tokens": ?[0-9]+' '"completion_tokens": ?5'
shows json "$json"

matches "prompt from stdin" "$(echo -n "Once upon a time" | "$gpt2" generate - --max-tokens 5)" '^Once upon a time'

text=$("$gpt2" score "The cat sat.")
matches "score" "$text" '[Pp]erplexity'
shows score "$text"
json=$("$gpt2" score --ids 1,2,3 --json)
matches "score --json" "$json" '"model": ?"demo"' '"logprob": ?null' '"rank": ?null' '"logprob_sum": ?-' \
    '"token_count": ?3' '"perplexity": ?[0-9]'
shows score_json "$json"
text=$(printf 'The cat sat.\nOnce upon a time\n' | "$gpt2" score --lines -)
matches "score --lines" "$text" '^[0-9.]+	-[0-9.]+	5'
shows score_lines "$text"

json=$("$gpt2" tokenize "Once upon a time" --json)
matches "tokenize" "$json" '"ids": ?\[' '"tokens": ?\['
shows tokenize "$json"
ids=$(tr -d '\n ' <<<"$json" | sed -E 's/.*"ids":\[([0-9,]*)\].*/\1/' | tr ',' ' ')
# shellcheck disable=SC2086  # one argument per id
matches "detokenize" "$("$gpt2" detokenize $ids)" '^Once upon a time$'

exits 1 "$gpt2" generate x --model ./no-such-folder
matches "a missing folder" "$out" 'no-such-folder'
exits 2 "$gpt2" generate x --dtype f16
matches "a dtype for CUDA" "$out" 'CUDA only'
exits 2 "$gpt2" generate x --strategy beam

echo "server"
"$gpt2" serve --port 0 >"$work/serve.log" 2>&1 &
server=$!
url=""
for _ in $(seq 100); do
    url=$(grep -Eo 'http://127\.0\.0\.1:[0-9]+' "$work/serve.log" | head -n 1 || true)
    [ -n "$url" ] && curl -sf "$url/health" >/dev/null && break
    kill -0 "$server" 2>/dev/null || fail "serve ended"
    sleep 0.1
done
[ -n "$url" ] || fail "serve named no address"

post() {
    curl -sN "$url$1" -H 'content-type: application/json' -d "$2" "${@:3}"
}
json=$(curl -s "$url/health")
matches "health" "$json" '"status": ?"ok"' '"model_loaded": ?true' '"demo"'
shows health "$json"

json=$(post /api/generate '{"prompt": "Once upon a time", "max_tokens": 20, "strategy": "greedy"}')
matches "/api/generate" "$json" '"generated_text": ?"Once upon a time' '"prompt": ?"Once upon a time"' \
    '"params": ?\{.*"max_tokens": ?20.*"strategy": ?"greedy".*"k": ?50.*"temperature": ?1\.0'
shows api_generate "$json"

stream=$(post /api/stream '{"prompt": "Once upon a time", "max_tokens": 4}')
matches "/api/stream" "$stream" '^data: ?\{"index":0,"token_id":[0-9]+,"token":"' \
    '^data: ?\{"done":true,"finish_reason":"(stop|length)","generated_text":"Once upon a time' '^data: ?\[DONE\]$'
[ "$(grep -c '"index"' <<<"$stream")" -eq 4 ] || fail "/api/stream: not four tokens" "$stream"
shows api_stream "$stream"

json=$(post /v1/completions '{"model": "demo", "prompt": "Once upon a time", "max_tokens": 5, "temperature": 0, "logprobs": 1}')
matches "/v1/completions" "$json" '"object": ?"text_completion"' '"text": ?", there was' '"finish_reason": ?"length"' \
    '"token_logprobs": ?\[-' '"total_tokens": ?9'
# The id and the time are new each time.
shows completion "$(sed -E 's/"id":"cmpl-[0-9a-f]+"/"id":"cmpl-…"/; s/"created":[0-9]+/"created":…/' <<<"$json")"

json=$(post /api/score '{"input": ["The cat"]}')
matches "/api/score" "$json" '"results": ?\[' '"logprob": ?null' '"perplexity": ?[0-9]'
shows api_score "$json"

bad='{"prompt": "Once upon a time", "max_tokens": 0}'
json=$(post /api/generate "$bad")
matches "a bad request" "$json" '"error": ?\{' '"message": ?"' '"param": ?"max_tokens"'
shows api_error "$json"
matches "its status" "$(post /api/generate "$bad" -o "$work/discarded" -w '%{http_code}')" '^400$'

kill -TERM "$server"
for _ in $(seq 100); do
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
if kill -0 "$server" 2>/dev/null; then fail "serve did not stop within 10 s of SIGTERM"; fi
server=""

echo "models from a hub"
tests/e2e/hub.sh
checks=$((checks + 1))

echo "README"
for readme in README.md README.zh-CN.md; do
    while read -r name; do
        [ -f "$work/shown.$name" ] || fail "$readme marks an output that nothing makes: $name"
    done < <(sed -nE 's/^<!-- output: (.*) -->$/\1/p' "$readme")
    with_outputs "$readme" >"$work/$readme"
    if [ "$refresh" = --refresh ]; then
        cat "$work/$readme" >"$readme"
    else
        diff -u "$readme" "$work/$readme" || fail "$readme shows other outputs; see tests/e2e/run.sh --refresh"
    fi
    checks=$((checks + 1))
done

echo "end to end: $checks checks passed"
