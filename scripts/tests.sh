#!/usr/bin/env bash
# The tests, in two parts that run beside each other: of what a machine with two processors does they ask for one each.
#
#   scripts/tests.sh PART [WORDS...]
#
# PART     waiting     the programs of tests that mostly wait: for time to pass, for others; and what is in comments
#          working     all others
# WORDS                for the programs: `--skip NAME`
set -euo pipefail
cd "$(dirname "$0")/.."

# They leave one processor of two to others.
readonly WAITING=(join partition rabbitmq storm)

main() {
    local part=$1 program waiting=() working=(--lib --bins)
    shift
    for program in $(programs); do
        if [[ " ${WAITING[*]} " == *" $program "* ]]; then waiting+=(--test "$program"); else working+=(--test "$program"); fi
    done
    case "$part" in
        waiting) run "${waiting[@]}" -- "$@" && run --doc ;;
        working) run "${working[@]}" -- "$@" ;;
        *) echo "usage: tests.sh waiting|working [WORDS...]" >&2; exit 2 ;;
    esac
}

# Each file beside others, and each folder with a main.rs, is one.
programs() {
    ls crates/*/tests/*.rs crates/*/tests/*/main.rs | sed -E 's#(/main)?\.rs$##; s#.*/##'
}

run() {
    cargo test --locked --workspace --all-features --no-fail-fast "$@"
}

main "$@"
