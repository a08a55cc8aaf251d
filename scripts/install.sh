#!/usr/bin/env bash
# Puts the program and what belongs to it where programs belong, or takes it away again.
#
#   scripts/install.sh install|uninstall
#
# PREFIX   /usr/local     where to
# DESTDIR  (nothing)      a folder before it, for packages
# BIN      target/release/hostler
#
# Never touched: /etc/hostler/hostler.toml where there is one, /var/lib/hostler, users, running services.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${PREFIX:-/usr/local}
dest=${DESTDIR:-}
bin=${BIN:-target/release/hostler}
bindir=$prefix/bin
share=$prefix/share
units=$prefix/lib/systemd/system

main() {
    case "${1:-}" in
        install) install_all ;;
        uninstall) uninstall_all ;;
        *) echo "usage: install.sh install|uninstall" >&2; exit 2 ;;
    esac
}

install_all() {
    [ -x "$bin" ] || { echo "install: $bin is not there; \`make release\` builds it, BIN names another" >&2; exit 1; }
    put 755 "$bin" "$bindir/hostler"
    completions
    manual
    for unit in server agent; do
        sed "s|@BINDIR@|$bindir|" "packaging/systemd/hostler-$unit.service" | put 644 - "$units/hostler-$unit.service"
    done
    put 644 packaging/hostler.sysusers "$prefix/lib/sysusers.d/hostler.conf"
    put 644 docs/install.md "$share/doc/hostler/install.md"
    put 644 packaging/hostler.toml "$share/doc/hostler/hostler.toml"
    [ -e "$dest/etc/hostler/hostler.toml" ] || put 644 packaging/hostler.toml /etc/hostler/hostler.toml
    image
}

completions() {
    "$bin" completions bash | put 644 - "$share/bash-completion/completions/hostler"
    "$bin" completions zsh | put 644 - "$share/zsh/vendor-completions/_hostler"
    "$bin" completions fish | put 644 - "$share/fish/vendor_completions.d/hostler.fish"
}

manual() {
    local pages page
    pages=$(mktemp -d)
    "$bin" man "$pages" >/dev/null
    for page in "$pages"/*.1; do
        gzip -9nc "$page" | put 644 - "$share/man/man1/$(basename "$page").gz"
    done
    rm -r "$pages"
}

# The small guest, where it was built: then the first machine needs no network.
image() {
    local file
    [ -f target/images/tiny/image.json ] || return 0
    for file in image.json kernel initrd rootfs; do
        put 644 "target/images/tiny/$file" "$share/hostler/images/tiny/$file"
    done
}

put() { # put MODE FILE|- PATH
    mkdir -p "$(dirname "$dest$3")"
    if [ "$2" = - ]; then cat >"$dest$3"; else cp --sparse=always "$2" "$dest$3"; fi
    chmod "$1" "$dest$3"
}

uninstall_all() {
    rm -f "$dest$bindir/hostler" "$dest$units"/hostler-{server,agent}.service "$dest$prefix/lib/sysusers.d/hostler.conf" \
        "$dest$share/bash-completion/completions/hostler" "$dest$share/zsh/vendor-completions/_hostler" \
        "$dest$share/fish/vendor_completions.d/hostler.fish" "$dest$share"/man/man1/hostler{,-*}.1.gz
    rm -rf "$dest$share/doc/hostler" "$dest$share/hostler"
    echo "the configuration in /etc/hostler and the data in /var/lib/hostler stay"
}

main "$@"
