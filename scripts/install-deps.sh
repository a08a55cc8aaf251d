#!/usr/bin/env bash
# Installs with apt what this host lacks of the programs that hostler uses. Silent when nothing is missing.
#
#   scripts/install-deps.sh [demo|test]         demo (the default): build the guest image and boot machines
#                                               test: also what the whole test suite calls
#
# What is missing is judged by command, not by package: apt may remove one package to install another (an emulator from
# one suite and its tools from another cannot stay together), so after each round the host is looked at again.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

readonly ROUNDS=3

# command:package
readonly DEMO=(
    qemu-system-x86_64:qemu-system-x86
    qemu-img:qemu-utils
    mke2fs:e2fsprogs
    debugfs:e2fsprogs
    cpio:cpio
    xz:xz-utils
    flock:util-linux
    awk:mawk
    find:findutils
    dpkg-deb:dpkg
    sha256sum:coreutils
)
readonly TEST=(
    mmdebstrap:mmdebstrap
    sfdisk:fdisk
    mcopy:mtools
    ovmf:ovmf
    ssh:openssh-client
    ip:iproute2
    python3:python3
    python3-venv:python3-venv
    rabbitmq-server:rabbitmq-server
    python3-pika:python3-pika
    postgres:postgresql
    pgbouncer:pgbouncer
)

say() { printf '%s\n' "$*" >&2; }
die() { say "install-deps: $*"; exit 1; }

main() {
    local wanted round packages
    choose_profile "${1:-demo}"
    [ -n "$(missing_commands)" ] || return 0
    need_apt
    say "refreshing package lists …"
    as_root apt-get -qq update || say "install-deps: apt could not refresh every package list; going on with what it has"
    for ((round = 1; round <= ROUNDS; round++)); do
        read -ra packages < <(missing_packages)
        [ ${#packages[@]} -gt 0 ] || return 0
        install_each "${packages[@]}"
    done
    [ -z "$(missing_commands)" ] || give_up
}

choose_profile() {
    case "$1" in
        demo) wanted=("${DEMO[@]}") ;;
        test) wanted=("${DEMO[@]}" "${TEST[@]}") ;;
        *) die "unknown profile $1; usage: install-deps.sh [demo|test]" ;;
    esac
}

missing_commands() {
    local pair commands=()
    for pair in "${wanted[@]}"; do
        present "${pair%%:*}" || commands+=("${pair%%:*}")
    done
    echo "${commands[*]}"
}

missing_packages() {
    local pair packages=' '
    for pair in "${wanted[@]}"; do
        present "${pair%%:*}" || [[ $packages == *" ${pair##*:} "* ]] || packages+="${pair##*:} "
    done
    echo $packages
}

present() {
    case "$1" in
        ovmf) [ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || [ -e /usr/share/OVMF/OVMF_CODE.fd ] ;;
        postgres) compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ;;
        pgbouncer) [ -x /usr/sbin/pgbouncer ] ;;
        python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
        python3-pika) /usr/bin/python3 -c 'import pika' 2>/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

need_apt() {
    command -v apt-get >/dev/null ||
        die "missing: $(missing_commands); this host has no apt, so install them with its own package manager"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        die "missing: $(missing_commands); run as root: apt-get install --no-install-recommends $(missing_packages)"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo --preserve-env=DEBIAN_FRONTEND "$@"; fi
}

# What packages ask whether they may start their servers. Tests start their own, with their own data, and need none other.
readonly POLICY=/usr/sbin/policy-rc.d

# One at a time: asked for together, packages of different suites can be refused where each alone is not.
install_each() {
    local package
    if [ ! -e "$POLICY" ]; then
        trap 'as_root rm -f "$POLICY"' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
        as_root chmod 755 "$POLICY"
    fi
    for package; do
        say "installing $package …"
        install_one "$package" || true
    done
}

# apt's own words only when it failed.
install_one() {
    local words
    words="$(as_root apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=120 install "$1" 2>&1 </dev/null)" ||
        { say "install-deps: apt could not install $1: $(grep -m1 '^E:' <<<"$words" || tail -n1 <<<"$words")"; return 1; }
}

give_up() {
    die "still missing after $ROUNDS rounds: $(missing_commands); install by hand, from one suite:" \
        "apt-get install --no-install-recommends --allow-downgrades $(missing_packages)"
}

main "$@"
