#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs the benchmarks of the console in QEMU, one instruction a nanosecond, and puts them beside Linux's figures.
#
#   bench.sh ELF [NAME]     NAME: what the benchmarks' names begin with; all without it
#
# Writes target/bench/target.jsonl. SMP= and MEM= as for qemu.sh.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$root/target/bench
mkdir -p "$out"

ICOUNT=1 CPU=${CPU:-cortex-a72} TIMEOUT=${TIMEOUT:-300} QUIET=1 RUN="bench ${2:-all}; exit" \
    "$root/firmware/tools/qemu.sh" "$1" </dev/null >"$out/target.log" 2>&1
status=$?
grep '^{"bench"' "$out/target.log" >"$out/target.jsonl"
if [ $status != 0 ] || [ ! -s "$out/target.jsonl" ]; then
    tail -n 40 "$out/target.log"
    echo "bench.sh: status $status; all of it is in target/bench/target.log" >&2
    exit 1
fi

# name -> value, then a line for each that Linux or a goal has a figure for, then the others.
awk -F'\t' '
    FILENAME ~ /jsonl$/ {
        match($0, /"bench":"[^"]*"/); name = substr($0, RSTART + 9, RLENGTH - 10)
        match($0, /"value":[0-9.]*/); value[name] = substr($0, RSTART + 8, RLENGTH - 8) + 0
        order[++count] = name
        next
    }
    /^#/ || NF < 4 { next }
    { lean[$1] = $2; stock[$1] = $3; goal[$1] = $4 }
    function times(linux, ours) { return linux == "-" || linux == "" ? "-" : sprintf("%.1fx", linux / ours) }
    END {
        printf "%-30s %12s %10s %7s %10s %7s %9s\n", "instructions per operation", "Quire", "lean 6.12", "", "Debian", "", "goal"
        for (at = 1; at <= count; at++) {
            name = order[at]; v = value[name]
            l = name in lean ? lean[name] : "-"; s = name in stock ? stock[name] : "-"; g = name in goal ? goal[name] : "-"
            mark = g == "-" ? "" : (v <= g + 0 ? "" : "  missed")
            printf "%-30s %12.2f %10s %7s %10s %7s %9s%s\n", name, v, l, times(l, v), s, times(s, v), g, mark
        }
    }
' "$out/target.jsonl" "$root/firmware/tools/linux-6.12.tsv"
grep '^# ' "$out/target.log" | sed 's/^/  /'
exit 0
