#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# gdb with the commands of quire_gdb.py, on a machine in QEMU.
#
#   gdb.sh start ELF            starts one, stopped at its first instruction; qemu.sh's variables say which. What its
#                               console says goes to target/gdb/console; what is written to target/gdb/keys is typed.
#   gdb.sh attach ELF TARGET    HOST:PORT or a socket, of a QEMU with -gdb that runs this very ELF, or has crashed in it
#
# More arguments go to gdb: -batch -ex "quire buddy".
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
die() { echo "gdb.sh: $*" >&2; exit 2; }

mode=$1 elf=$2
shift 2
command -v gdb-multiarch >/dev/null || die "gdb is missing: apt-get install gdb-multiarch"
debug() { # TARGET [GDB-ARGUMENT...]
    local target=$1
    shift
    # What was built elsewhere has its sources by their path from the top.
    gdb-multiarch -q -nx -ex "set pagination off" -ex "set confirm off" -ex "set language rust" \
        -ex "directory $root" -ex "file $elf" -ex "target remote $target" -ex "source $root/firmware/tools/quire_gdb.py" "$@"
}
case $mode in
attach)
    target=${1:-}
    [ -n "$target" ] || die "which QEMU? ATTACH=localhost:1234"
    shift
    debug "$target" "$@" ;;
start)
    place=$root/target/gdb
    mkdir -p "$place"
    rm -f "$place/socket" "$place/keys"
    mkfifo "$place/keys"
    # The pipe stays open, so that the machine sees no end of its keys.
    exec 3<>"$place/keys"
    QUIET=1 QEMU_ARGS="-S -gdb unix:$place/socket,server=on,wait=off ${QEMU_ARGS:-}" setsid "$root/firmware/tools/qemu.sh" "$elf" \
        <&3 >"$place/console" 2>&1 &
    machine=$!
    # Its group: the runner, what stands behind it, and QEMU.
    trap 'kill -- "-$machine" 2>/dev/null || true' EXIT
    for _ in {1..300}; do
        [ -S "$place/socket" ] && break
        kill -0 "$machine" 2>/dev/null || { cat "$place/console"; die "QEMU did not start"; }
        sleep 0.1
    done
    echo "its console: tail -f target/gdb/console; to type: echo free >target/gdb/keys; here: continue, Ctrl-C, help quire" >&2
    debug "$place/socket" "$@" ;;
*) die "start or attach, not $mode" ;;
esac
