#!/usr/bin/env bash
# Runs a command, and beside it another, of which nothing is heard until both have ended. Each runs to its end whatever
# becomes of the other, so that one run says all that is wrong; it fails when one of them does.
#
#   scripts/beside.sh LINE COMMAND...     LINE is the other one, for a shell
set -euo pipefail

said=$(mktemp)
# In a group of its own, which ends with this script.
set -m
bash -c "$1" >"$said" 2>&1 </dev/null &
other=$!
set +m
trap 'kill -TERM -- "-$other" 2>/dev/null || true; rm -f "$said"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
shift

status=0
"$@" || status=$?
wait "$other" || status=$?
cat "$said"
exit "$status"
