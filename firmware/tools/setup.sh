#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what is missing to build, run and test Quire on Debian 12, and says what. Does nothing, and
# prints nothing, when all is there.
#
#   setup.sh run     Rust target, objcopy, QEMU >= 9 with raspi4b, dtc, and the Raspberry Pi trees
#   setup.sh card    the same, and mtools
#   setup.sh gdb     as for run, and gdb for AArch64
#   setup.sh target  as for run, and U-Boot for QEMU, mtools, gdb
#   setup.sh test    the same, and what all tests need: procps, nightly's Miri, cargo-fuzz
set -euo pipefail
cd "$(dirname "$0")/../.."

need=${1:-run}
target=aarch64-unknown-none-softfloat
trees=target/dtb

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif have sudo; then sudo "$@"
    else return 127
    fi
}

apt_install() { # [-t SUITE] PACKAGE...
    say "installing by apt: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null ||
        die "could not install; as root: apt-get install $*"
}

apt_updated=
apt_update() {
    [ -n "$apt_updated" ] && return
    have apt-get || die "this is no Debian: please install QEMU >= 9 (qemu-system-aarch64), dtc, mtools and a C compiler"
    as_root apt-get update -qq || die "neither root nor sudo: please have someone install qemu-system-arm >= 9, device-tree-compiler, mtools, gcc"
    apt_updated=1
}

# The address that this machine takes Debian's packages from.
debian_uri() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(IDENTIFIER)' |
        awk '$2 == "bookworm" && $3 == "Packages" { print $1; exit }'
}

rust() {
    have cargo || die "Rust is missing: install rustup from https://rustup.rs, then come back"
    if have rustup; then
        rustup target list --installed | grep -qx "$target" || {
            say "adding the Rust target $target"
            rustup -q target add "$target" || die "could not add it: rustup target add $target"
        }
        for component in llvm-tools rustfmt clippy; do
            rustup component list --installed | grep -q "^${component%-preview}" || {
                say "adding the Rust component $component"
                rustup -q component add "$component" || die "could not add it: rustup component add $component"
            }
        done
    fi
    have cc || { apt_update; apt_install gcc libc6-dev; }
}

qemu_is_good() {
    have qemu-system-aarch64 && qemu-system-aarch64 -M help | grep -q '^raspi4b '
}

qemu() {
    qemu_is_good && return
    apt_update
    local suite=()
    if [ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" = bookworm ]; then
        if ! apt-get indextargets --format '$(RELEASE)' | grep -qx 'bookworm-backports'; then
            say "adding bookworm-backports to apt: bookworm's own QEMU 7.2 has no raspi4b"
            printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' "$(debian_uri)" |
                as_root tee /etc/apt/sources.list.d/quire-backports.sources >/dev/null
            apt_updated=
            apt_update
        fi
        suite=(-t bookworm-backports)
    fi
    apt_install "${suite[@]}" qemu-system-arm
    qemu_is_good || die "this QEMU has no raspi4b: $(qemu-system-aarch64 --version | head -1); please install QEMU >= 9"
}

package() { # COMMAND PACKAGE
    have "$1" || { apt_update; apt_install "$2"; }
}

# The device trees of real boards come with Debian's arm64 kernel. The package is unpacked, not
# installed, through an apt of our own, so that this machine's apt never hears of arm64.
real_trees() {
    [ -e "$trees/.complete" ] || [ -e "$trees/.tried" ] && return
    mkdir -p "$trees"
    touch "$trees/.tried"
    have apt-get && have dpkg-deb || { say "no apt: the Raspberry Pi trees will be our own fixtures"; return; }
    local uri work
    uri=$(debian_uri)
    [ -n "$uri" ] || { say "no Debian 12 mirror: the Raspberry Pi trees will be our own fixtures"; return; }
    say "unpacking the device trees of Debian's arm64 kernel into $trees (once, about 100 MB to download)"
    work=$(mktemp -d)
    mkdir -p "$work"/{lists,cache,etc}/partial
    printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nArchitectures: arm64\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' "$uri" >"$work/arm64.sources"
    touch "$work/status"
    local apt=(-qq -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o Dir::State::status="$work/status"
        -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/etc" -o APT::Architecture=arm64
        -o APT::Architectures::=arm64 -o APT::Sandbox::User=root)
    mv "$work/arm64.sources" "$work/etc/"
    if (
        cd "$work"
        apt-get "${apt[@]}" update &&
            kernel=$(apt-cache "${apt[@]}" depends linux-image-arm64 | awk '$1 == "Depends:" { print $2; exit }') &&
            apt-get "${apt[@]}" download "$kernel" &&
            dpkg-deb --fsys-tarfile ./linux-image-*.deb | tar -x --wildcards --strip-components=4 './usr/lib/linux-image-*'
    ) >/dev/null 2>"$work/log"; then
        (cd "$work" && find . -name '*.dtb' -print0 | tar -c --null -T -) | tar -x -C "$trees"
        touch "$trees/.complete"
        say "$(find "$trees" -name '*.dtb' | wc -l) device trees unpacked"
    else
        say "could not unpack them ($(tail -n 1 "$work/log")): the Raspberry Pi trees will be our own fixtures"
    fi
    rm -rf "$work"
}

rust
qemu
package dtc device-tree-compiler
real_trees
case $need in run | card | gdb) ;; *) [ -e /usr/lib/u-boot/qemu_arm64/u-boot.bin ] || { apt_update; apt_install u-boot-qemu; } ;; esac
case $need in run | gdb) ;; *) package mcopy mtools ;; esac
case $need in gdb | target | test) package gdb-multiarch gdb-multiarch ;; esac
if [ "$need" = test ]; then
    package free procps
    have rustup && rustup toolchain list | grep -q '^nightly' || die "the tests need nightly Rust for Miri and fuzzing: rustup toolchain install nightly"
    for component in miri rust-src; do
        rustup component list --installed --toolchain nightly | grep -q "^$component" || {
            say "adding nightly's $component"
            rustup -q component add --toolchain nightly "$component" || die "could not add it: rustup component add --toolchain nightly $component"
        }
    done
    cargo fuzz --version >/dev/null 2>&1 || {
        package g++ g++
        say "installing cargo-fuzz (a few minutes)"
        cargo install -q cargo-fuzz --version 0.13.2 --locked || die "could not install it: cargo install cargo-fuzz"
    }
fi
