# What the recipes of guest images share; each `build` sources it after it has set `name`.
#
# A recipe fetches Debian packages with apt-get download (no root; private package lists where the host has none), takes
# kernel and modules out of them, and makes an initrd, a root file system and a manifest. The output appears whole or
# not at all. When it is there and the recipe has not changed, nothing is done and no network is used.
export LC_ALL=C TZ=UTC PATH="$PATH:/usr/sbin:/sbin"
umask 022

# Any fixed moment will do; this one is 2023-11-14T22:13:20Z.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1700000000}"
export E2FSPROGS_FAKE_TIME="$SOURCE_DATE_EPOCH"

# What finds the root disk and lets the guest agent speak.
readonly INITRD_MODULES=(virtio_pci virtio_blk virtio_console)

# What a recipe makes, unless it says otherwise beforehand, and what it makes it from, below images/.
[ -v products ] || products=(kernel initrd rootfs image.json)
[ -v sources ] || sources=("$name/build" "$name/rootfs")

say() { printf '%s: %s\n' "$name" "$*" >&2; }
die() { say "$*"; exit 1; }

parse_arguments() {
    images="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
    here="$images/$name"
    output="$images/../target/images/$name"
    refresh=no
    for argument; do
        case "$argument" in
            --refresh) refresh=yes ;;
            -*) die "unknown option $argument; usage: build [--refresh] [OUTPUT]" ;;
            *) output="$argument" ;;
        esac
    done
    mkdir -p "$(dirname "$output")"
    output="$(cd "$(dirname "$output")" && pwd)/$(basename "$output")"
    part="$output.part"
    cache="${HOSTLER_PACKAGE_CACHE:-$(dirname "$output")/packages}"
}

# What a recipe that has something to prepare overrides.
prepare() { :; }

# Makes the image with `make_image`, unless there is nothing to do.
build() {
    parse_arguments "$@"
    prepare
    recipe="$(recipe_hash)"
    if [ "$refresh" = no ] && up_to_date; then
        say "up to date in $output"
        return
    fi
    need_commands
    wait_for_other_build
    if [ "$refresh" = no ] && up_to_date; then return; fi
    start_fresh
    make_image
    publish
}

# --- is there anything to do ---------------------------------------------------------------------------------------

# Of every file that the image is made from: its name, whether it is a program, and its bytes.
recipe_hash() {
    (cd "$images" && {
        find common.sh initrd "${sources[@]}" -type f -printf '%p\0' | sort -z | xargs -0 sha256sum
        find initrd "${sources[@]}" -type f -perm -u+x | sort
        echo "$SOURCE_DATE_EPOCH"
    }) | sha256sum | cut -d' ' -f1
}

up_to_date() {
    [ -f "$output/.stamp" ] && grep -qx "recipe $recipe" "$output/.stamp" || return 1
    local file
    for file in "${products[@]}"; do
        [ -s "$output/$file" ] || return 1
    done
}

need_commands() {
    local command missing=()
    for command in apt-get apt-cache dpkg-deb mke2fs debugfs cpio xz flock awk sha256sum "${commands[@]}"; do
        command -v "$command" >/dev/null || missing+=("$command")
    done
    [ ${#missing[@]} -eq 0 ] || die "missing on this host: ${missing[*]}; run scripts/install-deps.sh"
}

wait_for_other_build() {
    exec 9>"$output.lock"
    flock -w 900 9 || die "another build of $output is still running"
}

start_fresh() {
    trap 'rm -rf "$part"' EXIT
    trap 'exit 130' INT TERM HUP
    rm -rf "$part"
    work="$part/work"
    mkdir -p "$work/packages" "$work/initrd" "$work/rootfs" "$cache"
}

publish() {
    { echo "recipe $recipe"; printf '%s\n' "${debs[@]}"; } >"$part/.stamp"
    rm -rf "$work" "$part.old"
    [ ! -e "$output" ] || mv -T "$output" "$part.old"
    mv -T "$part" "$output"
    rm -rf "$part.old"
    say "made $output"
}

# --- packages ------------------------------------------------------------------------------------------------------

# What `resolve_packages` of the recipe names. The host's package lists where they serve; where they are absent or
# stale, private ones, so that no root is needed.
fetch_packages() {
    apt_options=()
    try_fetch_packages && return
    say "refreshing package lists"
    mkdir -p "$cache/lists/partial" "$cache/apt/archives/partial"
    apt_options=(-o "Dir::State::Lists=$cache/lists" -o "Dir::Cache=$cache/apt")
    apt-get "${apt_options[@]}" -qq update || die "apt could not refresh its package lists; is a Debian mirror reachable?"
    try_fetch_packages || die "apt could not fetch the packages; is a Debian mirror for amd64 reachable?"
}

try_fetch_packages() {
    local offer file missing=()
    resolve_packages || return 1
    offer="$(cd "$work" && apt-get "${apt_options[@]}" -qq download --print-uris "${packages[@]}" 2>/dev/null)" || return 1
    mapfile -t debs < <(awk '{ print $2 }' <<<"$offer" | sort)
    for file in "${debs[@]}"; do
        [ -s "$cache/$file" ] || missing+=("${file%%_*}")
    done
    fetch "${missing[@]}" || return 1
}

# The package that the kernel's metapackage stands for.
kernel_package() {
    depends linux-image-cloud-amd64 | grep '^linux-image-[0-9]'
}

depends() {
    apt-cache "${apt_options[@]}" depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "$@" 2>/dev/null | sed -n 's/^ *\(Pre\)\{0,1\}Depends: *//; /^[a-z0-9]/p'
}

# Only whole files enter the cache.
fetch() {
    [ $# -gt 0 ] || return 0
    say "fetching $# packages"
    mkdir -p "$work/incoming"
    (cd "$work/incoming" && apt-get "${apt_options[@]}" -qq -o APT::Sandbox::User=root download "$@") || return 1
    mv "$work/incoming"/*.deb "$cache/"
}

unpack_packages() {
    local deb
    for deb in "${debs[@]}"; do
        dpkg-deb --fsys-tarfile "$cache/$deb" | tar -x -C "$work/packages" --keep-directory-symlink --no-same-owner \
            --exclude='./usr/share/*' --exclude='./usr/lib/debug/*'
    done
    packages_root="$work/packages"
}

# What of the packages a guest starts with.
find_kernel() {
    busybox="$(first_of "$packages_root/usr/bin/busybox" "$packages_root/bin/busybox")"
    modules_root="$(first_of "$packages_root"/usr/lib/modules/* "$packages_root"/lib/modules/*)"
    kernel_version="$(basename "$modules_root")"
}

first_of() {
    local path
    for path; do
        [ -e "$path" ] && { echo "$path"; return; }
    done
    die "none of these is in the packages: $*"
}

# --- kernel and initrd ---------------------------------------------------------------------------------------------

make_kernel() {
    cp "$packages_root/boot/vmlinuz-$kernel_version" "$part/kernel"
    chmod 644 "$part/kernel"
}

make_initrd() {
    local root="$work/initrd"
    mkdir -p "$root"/{bin,dev,proc,sys,root}
    install -m 755 "$busybox" "$root/bin/busybox"
    install -m 755 "$images/initrd/init" "$root/init"
    install_modules "$root/lib/modules/$kernel_version" "${INITRD_MODULES[@]}"
    same_times "$root"
    (cd "$root" && find . -print0 | sort -z | cpio --null --quiet --create --format=newc --reproducible --owner=+0:+0) \
        >"$part/initrd"
}

# Copies modules with all they depend on, and makes the list that modprobe reads: it loads a line from its end.
install_modules() {
    local target="$1" module
    shift
    mkdir -p "$target"
    for module; do
        install_module "$target" "$module"
    done
    "$busybox" depmod -b "${target%/lib/modules/*}" "$kernel_version"
    rm -f "$target"/modules.{alias,symbols}
    sort -o "$target/modules.dep" "$target/modules.dep"
}

install_module() {
    local target="$1" module="$2" dependency
    [ ! -e "$target/$module.ko" ] || return 0
    read_module "$module" >"$target/$module.ko"
    for dependency in $(module_depends "$target/$module.ko"); do
        install_module "$target" "$dependency"
    done
}

# A module's file may spell its name with - or _, and newer kernels ship them compressed.
read_module() {
    local file
    file="$(find "$modules_root" -name "${1//[-_]/[-_]}.ko*" -print -quit)"
    case "$file" in
        *.ko) cat "$file" ;;
        *.ko.xz) xz -dc "$file" ;;
        *) die "kernel $kernel_version has no module $1" ;;
    esac
}

module_depends() {
    tr '\0' '\n' <"$1" | sed -n 's/^depends=//p' | tr ',' ' '
}

same_times() {
    find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# --- manifest ------------------------------------------------------------------------------------------------------

# One file of the manifest: `digest_and_size PART`.
digest_and_size() {
    printf '"sha256": "%s", "size": %d' "$(sha256sum <"$part/$1" | cut -d' ' -f1)" "$(stat -c %s "$part/$1")"
}
