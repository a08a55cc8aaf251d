#!/usr/bin/env bash
# Validates the API document, then fires generated requests, right and wrong, at every operation in it, against a hostler
# with the simulated driver. Any answer of 500 or above fails, and so does one that the document does not describe.
#
#   scripts/schemathesis.sh           installs what it needs below target/ at first
#   scripts/schemathesis.sh install   does only that
set -euo pipefail
cd "$(dirname "$0")/.."

hostler=${HOSTLER_BIN:-target/debug/hostler}
venv=target/schemathesis
examples=${EXAMPLES:-25}

if [ ! -x "$venv/bin/schemathesis" ] || [ ! -x "$venv/bin/openapi-spec-validator" ]; then
    echo "installing schemathesis and openapi-spec-validator into $venv …" >&2
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet 'schemathesis>=4,<5' openapi-spec-validator
fi
[ "${1:-}" != install ] || exit 0
"$venv/bin/openapi-spec-validator" docs/openapi.json
[ -x "$hostler" ] || cargo build --locked --workspace --all-features --all-targets

work=$(mktemp -d "${TMPDIR:-/tmp}/hostler-api.XXXXXX")
"$hostler" dev --ephemeral --driver sim --data "$work/data" --listen 127.0.0.1:0 --images target/images >"$work/server.log" 2>&1 &
server=$!
finish() {
    local status=$?
    trap - EXIT
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    [ "$status" -eq 0 ] || tail -n 20 "$work/server.log" >&2
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

for _ in $(seq 200); do
    [ -s "$work/data/client.json" ] && break
    kill -0 "$server"
    sleep 0.05
done
field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/data/client.json" "$1"; }

# The event stream never ends by itself: its own tests read it. No answer is waited for longer than `Prefer: wait` may ask
# (60 s), and some time to make it.
SCHEMATHESIS_HOOKS=schemathesis_hooks PYTHONPATH=scripts "$venv/bin/schemathesis" run docs/openapi.json --url "$(field url)" --header "Authorization: Bearer $(field token)" \
    --exclude-path /api/v1/events --phases examples,coverage,fuzzing --max-examples "$examples" --request-timeout 70 \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
    --suppress-health-check all --warnings off --generation-database none --no-color
