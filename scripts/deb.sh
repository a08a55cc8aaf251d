#!/usr/bin/env bash
# Builds target/hostler_VERSION_ARCH.deb from a built program (BIN, else target/release/hostler), with dpkg-deb alone.
#
# BIN      target/release/hostler   the program
# LEVEL    6                        how hard it is packed, 0 to 9
set -euo pipefail
cd "$(dirname "$0")/.."

export BIN=${BIN:-target/release/hostler}
[ -x "$BIN" ] || { echo "deb: $BIN is not there; \`make release\` builds it, BIN names another" >&2; exit 1; }
command -v dpkg-deb >/dev/null || { echo "deb: dpkg-deb is missing: apt install dpkg" >&2; exit 1; }

version=$("$BIN" --version | cut -d' ' -f2)
arch=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"

# What Debian wants to read of each version; the history itself is in the repository.
changelog() {
    printf 'hostler (%s) unstable; urgency=medium\n\n  * Version %s.\n\n -- the hostler project <hostler@localhost>  %s\n' \
        "$version" "$version" "$(date -R --utc --date="@$SOURCE_DATE_EPOCH")"
}

# The newest symbols of the C library that the program asks for say which one it needs.
libc=$(grep -aoE 'GLIBC_2\.[0-9]+' "$BIN" | sort -uV | tail -n1 | cut -d_ -f2)

DESTDIR=$stage PREFIX=/usr scripts/install.sh install
doc=$stage/usr/share/doc/hostler
install -m 644 packaging/debian/copyright "$doc/copyright"
changelog | gzip -9n >"$doc/changelog.gz"
strip --strip-unneeded "$stage/usr/bin/hostler" 2>/dev/null || true
mkdir "$stage/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "packaging/debian/$script" "$stage/DEBIAN/$script"
done
echo /etc/hostler/hostler.toml >"$stage/DEBIAN/conffiles"
cat >"$stage/DEBIAN/control" <<CONTROL
Package: hostler
Version: $version
Architecture: $arch
Maintainer: the hostler project <hostler@localhost>
Installed-Size: $(du -sk "$stage" | cut -f1)
Depends: libc6 (>= ${libc:-2.31}), libgcc-s1
Recommends: qemu-system-x86, qemu-utils, ca-certificates
Section: admin
Priority: optional
Description: control plane for virtual machines
 hostler looks after hosts: it takes a request for a virtual machine over an
 API, reserves quota and room, writes the work down as a durable task, and has
 it done by the agent on a host, which runs QEMU there. One program is server,
 agent and command line.
CONTROL
find "$stage" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p target
deb=target/hostler_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz "-z${LEVEL:-6}" --build "$stage" "$deb" >/dev/null
echo "$deb"
