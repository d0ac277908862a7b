#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Linux's own free, slabtop and vmstat (procps) read our reports in place of /proc's, and say what our commands of those
# names say. It takes user namespaces, for a /proc of one's own; without them it says so and passes.
#   procps.sh ELF
set -euo pipefail
cd "$(dirname "$0")/.."
elf=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for tool in free slabtop vmstat; do
    command -v $tool >/dev/null || { echo "no $tool: apt-get install procps; skipped"; exit 0; }
done
unshare -r -m mount --bind /proc/uptime /proc/uptime 2>/dev/null || { echo "no mounts of one's own here: skipped"; exit 0; }

files=(meminfo slabinfo vmstat uptime)
# The echoes are where one report ends and the next begins.
run='modprobe test_vmalloc test_loop_count=10 run_test_mask=1'
for file in "${files[@]}"; do run+="; echo @$file; cat /proc/$file"; done
run+='; echo @free; free; echo @free-m; free -m; echo @slabtop; slabtop -o; echo @slabtop-c; slabtop -o -s c; echo @slabtop-n; slabtop -o -s n; exit'
RUN=$run SMP=2 QUIET=1 TIMEOUT=60 firmware/tools/qemu.sh "$elf" </dev/null |
    awk -v work="$work" '/^@/ { file = substr($0, 2); next } /^quire>/ { next } file { print > (work "/" file) }'

ours() { # COMMAND...: as procps prints it from our reports
    unshare -r -m bash -c '
        work=$1; shift
        for file in '"${files[*]}"'; do mount --bind "$work/$file" "/proc/$file" || exit 9; done
        "$@"' - "$work" "$@"
}
same() { # REPORT COMMAND...
    local report=$1
    shift
    if ! ours "$@" | diff -u --label "procps: $*" --label "Quire: $*" - "$work/$report"; then
        echo "FAILED: $*"
        exit 1
    fi
}
same free free
same free-m free -m
same slabtop slabtop -o
same slabtop-c slabtop -o -s c
same slabtop-n slabtop -o -s n
total=$(awk '$1 == "MemTotal:" { print $2 }' "$work/meminfo")
ours vmstat -s | grep -E "^ +$total K total memory$" >/dev/null || { ours vmstat -s; echo "FAILED: vmstat -s has not $total K"; exit 1; }
ours vmstat | awk -v free="$(awk '$1 == "MemFree:" { print $2 }' "$work/meminfo")" 'NR == 3 && $4 != free { exit 1 }' ||
    { echo "FAILED: vmstat's free"; exit 1; }
[ "$(ours vmstat -m | tail -n +2 | wc -l)" = "$(tail -n +3 "$work/slabinfo" | wc -l)" ] || { echo "FAILED: vmstat -m"; exit 1; }
echo "$(slabtop --version): free, slabtop and vmstat read our reports and print the same"
