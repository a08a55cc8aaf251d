#!/usr/bin/env bash
# A machine made, used and deleted through the API of a hostler that is there only for this: nothing is left behind,
# whether it ends well, fails or is interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

hostler=${HOSTLER_BIN:-target/release/hostler}
work=$(mktemp -d "${TMPDIR:-/tmp}/hostler-demo.XXXXXX")
server=
step="the beginning"

finish() {
    local status=$?
    trap - EXIT INT TERM HUP
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    if [ "$status" -ne 0 ]; then
        echo "demo: stopped during $step (exit $status)$(reason)" >&2
    fi
    rm -rf "$work"
    exit "$status"
}

# The last error of the server's log, for the one line that says why.
reason() {
    local line
    line=$(grep -E 'ERROR|error:' "$work/server.log" 2>/dev/null | tail -n 1 | cut -c1-300) || true
    [ -z "$line" ] || printf ': %s' "$line"
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

now_ms() { date +%s%3N; }

run() { # run NAME COMMAND…: a step with its time
    step=$1
    shift
    local begun
    begun=$(now_ms)
    printf '\n$ hostler %s\n' "$*"
    "$hostler" "$@"
    times+=("$(printf '%-34s %7d ms' "$step" $(($(now_ms) - begun)))")
}

start_server() {
    step="the server's start"
    local begun
    begun=$(now_ms)
    "$hostler" dev --ephemeral --data "$work/data" --images target/images >"$work/server.log" 2>&1 &
    server=$!
    until [ -s "$work/data/client.json" ] && "$hostler" node list >/dev/null 2>&1; do
        kill -0 "$server" 2>/dev/null || { wait "$server"; exit 1; }
        [ $(($(now_ms) - begun)) -lt 60000 ] || { echo "demo: the server did not answer in 60 s" >&2; exit 1; }
        sleep 0.05
    done
    times+=("$(printf '%-34s %7d ms' "server and agent" $(($(now_ms) - begun)))")
}

export HOSTLER_DATA="$work/data"
times=()
printf '$ hostler dev --ephemeral\n'
start_server
run "create, until the guest answers" vm create demo
run "a command in it" vm exec demo -- uname -a
run "delete" vm delete demo

printf '\nhow long each step took\n'
printf '  %s\n' "${times[@]}"
