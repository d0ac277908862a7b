#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Starts a Quire ELF (given by cargo) or a flat Image in QEMU; the exit status is the guest's.
#
#   BOARD=virt|rpi4|rpi3  DTB=file  MEM=512M  SMP=1  CPU=cortex-a72  GIC=2|3  EL2=1
#   APPEND="bootargs"  RUN="console commands"  ICOUNT=1  TIMEOUT=seconds  QEMU_ARGS="more"
#   LOADER=u-boot: virt starts U-Boot, and its booti the image (Debian's u-boot-qemu)
#   LOG=1 sends structured records and shows them decoded, LOG_UART=1 on a serial port of their own (virt);
#   LOG_FILE=file keeps what came over the wire, for decode-log or defmt-print
#
# Keys in a terminal: Ctrl-A X ends QEMU.
#
# qemu.sh --image ELF FILE only writes the flat Image.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

only_image=
[ "$1" = --image ] && { only_image=$3; shift; }
file=$1
board=${BOARD:-virt}
append=${APPEND:-}
log_uart=${LOG_UART:-0} decoded=
[ "${LOG:-0}$log_uart" = 00 ] || decoded=1 append="$append log=defmt"
[ "$log_uart" = 0 ] || append=$append,ttyAMA1
[ -n "${RUN:-}" ] && append="$append run=\"$RUN\""

die() { echo "qemu.sh: $*" >&2; exit 2; }

# QEMU and U-Boot start flat Images: an ELF would enter at the wrong exception level and without a tree.
image=${only_image:-$file}
if [ "$(head -c 4 "$file" | tail -c 3 | tr -d '\0')" = ELF ]; then
    [ -n "$only_image" ] || image=$file.img
    # Cargo tells its runners about the target; this is for the host.
    env -u CARGO_BUILD_TARGET cargo run --quiet --manifest-path "$root/firmware/tools/Cargo.toml" --bin mkimage -- \
        "$file" "$image" || die "no image could be made"
fi
[ -n "$only_image" ] && { ls -l "$image"; exit; }

# The Raspberry Pi machines make no tree of their own: a real one if set-up has it, else our fixture.
tree() { # NAME-OF-REAL-TREE NAME-OF-FIXTURE
    local real=$root/target/dtb/broadcom/$1.dtb fixture=$root/target/dtb/$2.dtb
    if [ -n "${DTB-unset}" ] && [ "${DTB-unset}" != unset ]; then echo "$DTB"
    elif [ -e "$real" ]; then echo "$real"
    else
        mkdir -p "$(dirname "$fixture")"
        dtc -q -I dts -O dtb -o "$fixture" "$root/tests/fixtures/$2.dts" && echo "$fixture"
    fi
}

work=$(mktemp -d)
trap 'rm -rf "$work"; [ -t 0 ] && stty sane' EXIT
# The decoder is built, and finds the records' texts, before the clock runs.
decode() { "$root/firmware/tools/decode-log" "$file"; }
[ -z "$decoded" ] || decode </dev/null || die "no decoder"

console=stdio,id=console,mux=on,signal=off
args=(-display none -nic none -no-reboot -monitor none -semihosting-config enable=on,target=native
    -chardev "$console")
u_boot=
case ${LOADER:-} in
"") args+=(-kernel "$image") ;;
u-boot)
    [ "$board" = virt ] || die "U-Boot is there for virt only"
    u_boot=${U_BOOT:-/usr/lib/u-boot/qemu_arm64/u-boot.bin}
    [ -e "$u_boot" ] || die "no U-Boot at $u_boot: apt-get install u-boot-qemu"
    case $append in *\'*) die "U-Boot is given the command line between single quotes: it must have none" ;; esac
    args+=(-bios "$u_boot" -device "loader,file=$image,addr=0x42000000,force-raw=on") ;;
*) die "LOADER is u-boot or nothing, not $LOADER" ;;
esac
case $board in
virt)
    mem=${MEM:-512M}
    machine=virt
    [ -n "${GIC:-}" ] && machine+=,gic-version=$GIC
    [ "${EL2:-0}" = 1 ] && machine+=,virtualization=on
    case ${QEMU_ARGS:-} in
    *memory-backend*) ;;
    *)  # Sparse: a guest may have more RAM than the host.
        args+=(-object "memory-backend-ram,id=quire.ram,size=$mem,reserve=off")
        machine+=,memory-backend=quire.ram ;;
    esac
    args+=(-M "$machine" -cpu "${CPU:-cortex-a72}" -m "$mem" -smp "${SMP:-1}" -serial chardev:console)
    [ "${DTB:-}" = none ] && die "virt makes a tree of its own: DTB=none is for the Raspberry Pis"
    [ -n "${DTB:-}" ] && args+=(-dtb "$DTB")
    if [ "$log_uart" != 0 ]; then
        mkfifo "$work/records"
        args+=(-chardev "file,id=records,path=$work/records" -serial chardev:records)
    fi
    ;;
rpi4 | rpi3)
    if [ "$board" = rpi4 ]; then machine=raspi4b dtb=$(tree bcm2711-rpi-4-b rpi4)
    else machine=raspi3b dtb=$(tree bcm2837-rpi-3-b rpi3); fi
    # Both UARTs share the terminal, so that whichever the tree chooses is seen. Keys go to the last one,
    # the mini UART; if PL011 is asked for, it is the only one.
    second=chardev:console
    case " $append " in *" console=ttyAMA"*) second=null ;; esac
    args+=(-M "$machine" -serial chardev:console -serial "$second")
    [ "${DTB-unset}" = none ] || { [ -e "$dtb" ] || die "no device tree: DTB=$dtb"; args+=(-dtb "$dtb"); }
    ;;
*) die "BOARD is virt, rpi4 or rpi3, not $board" ;;
esac
[ -n "$append" ] && [ -z "$u_boot" ] && args+=(-append "${append# }")
[ "${ICOUNT:-0}" != 0 ] && args+=(-icount shift=0,sleep=off)
# shellcheck disable=SC2206 # split into words on purpose
args+=(${QEMU_ARGS:-})

command -v qemu-system-aarch64 >/dev/null || die "QEMU is missing: make setup"
[ "${QUIET:-0}" = 1 ] || qemu-system-aarch64 --version | head -n 1 >&2

log=$work/log
: >"$log"
limit=()
[ -n "${TIMEOUT:-}" ] && limit=(timeout --foreground -k 5 "$TIMEOUT")
qemu() { "${limit[@]}" qemu-system-aarch64 "${args[@]}"; }
# What is typed at U-Boot, each line once it is asked for; then the keys are the user's.
keys() {
    until grep -aq 'Hit any key' "$log"; do sleep 0.1; done
    # The first key may come before anybody listens.
    until grep -aq '^=> ' "$log"; do echo; sleep 0.2; done
    printf "setenv bootargs '%s'\nbooti 0x42000000 - \$fdtcontroladdr\n" "${append# }"
    exec cat
}
machine() {
    [ -n "$u_boot" ] || { qemu; return; }
    # A file descriptor of its own: bash gives what runs in the background no keys.
    exec 5<&0
    [ -t 5 ] && stty raw -echo <&5
    qemu < <(keys <&5)
    local status=$?
    # It may still wait for U-Boot, or for a key.
    kill $! 2>/dev/null
    return $status
}
keep() { if [ -n "${LOG_FILE:-}" ]; then tee "$LOG_FILE"; else cat; fi; }
# Without a terminal: plain lines, as every other program prints them; but every byte for `top`, which says so by RAW=1.
plain() { if [ -t 3 ] || [ -n "${RAW:-}" ]; then cat; else sed -u 's/\r$//'; fi; }
exec 3>&1
if [ -z "$decoded" ]; then
    machine | plain | tee "$log"
    status=${PIPESTATUS[0]}
elif [ "$log_uart" = 0 ]; then
    machine | keep | decode | plain | tee "$log"
    status=${PIPESTATUS[0]}
else
    # Held open from here, so that nobody waits for a QEMU that never comes up.
    exec 4<>"$work/records"
    keep <"$work/records" 4>&- | decode 4>&- &
    machine 4>&- | plain | tee "$log"
    status=${PIPESTATUS[0]}
    exec 4>&-
    wait
fi
if [ "$status" = 124 ] || [ "$status" = 137 ]; then
    # As one reads it: without what only a terminal understands, and what a carriage return has overwritten.
    last=$(tail -c 4096 "$log" | tr -d '\0' | sed -E 's/\x1b(\[[0-9;?]*[A-Za-z]|[78])//g; s/\r*$//; s/.*\r//' | grep -av '^$' | tail -n 1)
    echo "qemu.sh: no end within $TIMEOUT s; the last line was: $last" >&2
fi
exit "$status"
