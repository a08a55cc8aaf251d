#!/usr/bin/env bash
# Tries the package where it is meant to be: in a Debian guest with systemd. It is installed there as docs/install.md
# says, makes a machine, and then server and agent are restarted, stopped, upgraded, rebooted and purged. The machine must
# live through all of it but the reboot, from which it must come back.
#
#   scripts/units-in-a-guest.sh [DEB]       DEB is the newest target/hostler_*.deb when not given
#
# Needs root, because packages are installed in a chroot. Without KVM the guest's machine is emulated in an emulated
# machine: a quarter of an hour is usual. What lies in target/units-guest is made once and used again.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

readonly PACKAGES=(usr-is-merged systemd-sysv dbus udev kmod procps qemu-system-x86 qemu-utils ca-certificates)
readonly LIMIT_SECONDS=${LIMIT_SECONDS:-3600}

say() { printf 'units-in-a-guest: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

main() {
    deb=${1:-$(ls -t target/hostler_*.deb 2>/dev/null | head -n 1)}
    [ -s "${deb:-}" ] || die "there is no package; \`make deb\` builds one"
    [ -s target/images/tiny/image.json ] || die "the guest's kernel is tiny's; \`make image\` makes it"
    [ "$(id -u)" = 0 ] || die "run as root: packages are installed in a chroot"
    folder=target/units-guest
    mkdir -p "$folder"
    base
    work=$(mktemp -d "$PWD/$folder/run.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM HUP
    disk
    boot
}

# The guest without hostler: made once, in place only when it is whole.
base() {
    local words wanted="${PACKAGES[*]}"
    [ "$(cat "$folder/base.packages" 2>/dev/null)" != "$wanted" ] || return 0
    say "installing the guest's packages (some minutes, once)"
    rm -rf "$folder/base" "$folder/base.packages"
    local hooks=()
    [ ! -d /usr/share/mmdebstrap/hooks/merged-usr ] || hooks=(--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr)
    words="$(mmdebstrap --quiet --mode=root --format=directory --variant=apt "${hooks[@]}" \
        --include="$(IFS=,; echo "${PACKAGES[*]}")" --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' "$(suite)" "$folder/base" $(mirror) 2>&1 </dev/null)" ||
        die "mmdebstrap could not install the packages: $(tail -n 20 <<<"$words")"
    rm -rf "$folder"/base/var/cache/apt/*.bin "$folder"/base/var/lib/apt/lists/*
    echo "$wanted" >"$folder/base.packages"
}

suite() {
    (. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-bookworm}") || echo bookworm
}

mirror() {
    echo "${HOSTLER_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
        "Codename: $(suite)" 'Component: main' 2>/dev/null | head -n 1)}"
}

# The base with the package, one of the next version, and what walks through them; as a disk.
disk() {
    local root="$work/root"
    cp -a --reflink=auto "$folder/base" "$root"
    mkdir "$root/walk"
    cp "$deb" "$root/walk/hostler.deb"
    next_version "$root/walk/next.deb"
    install -m 755 scripts/units-in-a-guest/walk "$root/walk/walk"
    install -m 644 scripts/units-in-a-guest/walk.service "$root/etc/systemd/system/walk.service"
    ln -s /etc/systemd/system/walk.service "$root/etc/systemd/system/multi-user.target.wants/walk.service"
    ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
    echo guest >"$root/etc/hostname"
    printf '127.0.0.1 localhost guest\n' >"$root/etc/hosts"
    : >"$root/etc/machine-id"
    truncate -s 5G "$work/disk.raw"
    mke2fs -q -F -t ext4 -d "$root" -E root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0 "$work/disk.raw"
    rm -rf "$root"
}

# The same package, as the version after it.
next_version() {
    dpkg-deb --raw-extract "$deb" "$work/next"
    sed -i 's/^Version: .*/&+next/' "$work/next/DEBIAN/control"
    dpkg-deb --root-owner-group -Zxz -z0 --build "$work/next" "$1" >/dev/null
    rm -rf "$work/next"
}

boot() {
    local begun=$SECONDS log="$folder/console.log" accel=tcg,thread=multi
    ! grep -qE '^flags.*\b(vmx|svm)\b' /proc/cpuinfo || [ ! -w /dev/kvm ] || accel=kvm
    say "booting ($accel); the guest's words are in $log"
    : >"$log"
    timeout --foreground "$LIMIT_SECONDS" qemu-system-x86_64 -nodefaults -no-user-config -machine q35 -accel "$accel" \
        -cpu max -smp "$(nproc)" -m 2048 -kernel target/images/tiny/kernel -initrd target/images/tiny/initrd \
        -append "console=ttyS0 quiet net.ifnames=0" -drive "if=none,id=root,format=raw,cache=unsafe,file=$work/disk.raw" \
        -device virtio-blk-pci,drive=root -device virtio-rng-pci -display none -serial "file:$log" </dev/null &
    local qemu=$!
    tail -n +1 -f --pid="$qemu" "$log" | grep --line-buffered '^walk: ' || true
    wait "$qemu" || die "the guest did not end by itself within $LIMIT_SECONDS s"
    grep -q '^walk: all is well' "$log" || die "it failed; $log has the whole of it"
    say "all is well after $((SECONDS - begun)) s"
}

main "$@"
