#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# What gdb reads from the memory of a machine is what its console said a moment before; and it reads a crashed one.
#   gdb.sh ELF
set -euo pipefail
cd "$(dirname "$0")/.."
elf=$1
work=$(mktemp -d)
machine=
trap '[ -z "$machine" ] || kill -- "-$machine" 2>/dev/null || true; rm -rf "$work"' EXIT

start() { # TEXT-TO-WAIT-FOR NAME=VALUE...
    local text=$1
    shift
    rm -f "$work/socket"
    # Its standard input stays open and empty.
    sleep 120 2>/dev/null | env "$@" QUIET=1 QEMU_ARGS="-gdb unix:$work/socket,server=on,wait=off ${QEMU_MORE:-}" \
        setsid firmware/tools/qemu.sh "$elf" >"$work/console" 2>&1 &
    for _ in {1..600}; do
        grep -aq "$text" "$work/console" && break
        sleep 0.1
    done
    machine=$(ps -eo pgid,args | awk -v socket="$work/socket" '/qemu-system-aarch64/ && index($0, socket) && !/awk/ { print $1; exit }')
    grep -aq "$text" "$work/console" || { cat "$work/console"; echo "FAILED: it does not say: $text"; exit 1; }
    # The console is through with it, and waits.
    sleep 0.5
}
ask() { # FILE COMMAND...
    local file=$1 command=() line
    shift
    for line in "$@"; do command+=(-ex "echo quire> $line\n" -ex "quire $line"); done
    timeout 120 firmware/tools/gdb.sh attach "$elf" "$work/socket" -batch "${command[@]}" -ex detach >"$work/$file" 2>&1 ||
        { cat "$work/$file"; echo "FAILED: gdb"; exit 1; }
}
stop() { kill -- "-$machine" 2>/dev/null || true; machine=; }

# What follows a command: on the console, or asked from gdb.
part() { tr -d '\r' <"$work/$1" | awk -v part="quire> $2" '/^quire> / { on = $0 == part; next } on && !/^\[Inferior/'; }
same() { # CONSOLE'S GDB'S FILTER
    local console gdb
    console=$(part console "$1" | eval "$3") gdb=$(part gdb "$2" | eval "$3")
    [ -n "$console" ] || { cat "$work/console"; echo "FAILED: the console has no $1"; exit 1; }
    diff -u --label "console: $1" --label "gdb: quire $2" <(echo "$console") <(echo "$gdb") ||
        { echo "FAILED: quire $2"; exit 1; }
    echo "quire $2 and $1: $(wc -l <<<"$console") lines, the same"
}

# The last area is long, and mapped by pages: some of it still is.
start '^@done' SMP=2 TIMEOUT=120 APPEND=nohugevmalloc \
    RUN='modprobe test_vmalloc test_loop_count=10 run_test_mask=7; vpurge; modprobe test_vmalloc test_loop_count=1 run_test_mask=1 nr_pages=20000; buddyinfo; slabinfo; vmallocinfo; pgtables; echo @done'
ask gdb buddy slab vmalloc tables bt
stop
same buddyinfo buddy cat
same slabinfo slab 'grep -v "^slabinfo\|^#"'
# What has a name of its own to the linker has a path as well to gdb.
same vmallocinfo vmalloc 'sed s/firmware::boot::kernel_start/kernel_start/ | sort'
# Addresses, size, how many of which; the words behind that are gdb's own.
same pgtables tables "sed -nE 's/^(0x.* x (1G|2M|4K) (CONT)?).*/\1/p'"
part gdb bt | grep -qE '\] firmware::boot::kernel_start\+0x.* firmware/src/boot.rs:[0-9]+$' || { cat "$work/gdb"; echo "FAILED: no backtrace"; exit 1; }

QEMU_MORE="-semihosting-config enable=off" start 'halted after a failure' APPEND=panic=0 RUN='crash write' TIMEOUT=120
ask gdb bt buddy
stop
part gdb bt | grep -q 'firmware::exception::provoke::write_text+0x' || { cat "$work/gdb"; echo "FAILED: not where it crashed"; exit 1; }
part gdb buddy | grep -q '^Node 0, zone ' || { cat "$work/gdb"; echo "FAILED: no zones"; exit 1; }
echo "a crashed machine: $(part gdb bt | grep -c '^ *\[\?<') calls, and its zones"
