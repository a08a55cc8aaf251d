#!/usr/bin/env bash
# The Debian image that first boots are tested with: made where it can be. Making it needs root (packages are configured
# in a chroot); once it is there, nobody does.
#
#   scripts/debian-image.sh           makes it; without root and without it, says what will not be tested
#   scripts/debian-image.sh skip      what `cargo test` is to leave out: nothing where the image is there
#   scripts/debian-image.sh remind    says again, at the end, what was not tested
set -euo pipefail
cd "$(dirname "$0")/.."
readonly IMAGE=target/images/debian

main() {
    case "${1:-make}" in
        make) make_image ;;
        skip) is_there || echo --skip debian:: ;;
        remind) is_there || remind ;;
        *) echo "usage: debian-image.sh [make|skip|remind]" >&2; exit 2 ;;
    esac
}

make_image() {
    if [ "$(id -u)" = 0 ]; then
        images/debian/build "$IMAGE"
    elif ! is_there; then
        remind
    fi
}

is_there() {
    [ -s "$IMAGE/image.json" ]
}

remind() {
    echo "NOT TESTED: first boots of a real Debian. Its image is not there, and making it needs root:" \
        "\`sudo make image-debian\` once, then \`make test\` again." >&2
}

main "$@"
