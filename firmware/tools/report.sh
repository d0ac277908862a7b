#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Measures what the report shows, and writes target/report/index.html.
#   report.sh ELF        CHURN_SECONDS=30, SCALE_SECONDS=3, BOOT_MEM="5M 8M ...": what one has patience for
# The host's figures are those of target/bench/host.jsonl.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
elf=$1
data=$root/target/report/data
mkdir -p "$data"
say() { echo "report: $* ($SECONDS s)" >&2; }
machine() { env QUIET=1 "$@" "$root/firmware/tools/qemu.sh" "$elf" </dev/null 2>&1; }
counted() { machine ICOUNT=1 CPU="${CPU:-cortex-a72}" TIMEOUT=600 "$@"; }

say "benchmarks on the target"
# What this machine is too small for is left out, and said; 4 GiB are enough for nearly all.
counted MEM="${MEM:-4G}" RUN="bench all; exit" >"$data/target.log" || { tail -n 5 "$data/target.log"; exit 1; }
counted MEM="${MEM:-4G}" SMP=2 RUN="bench km_cross64; exit" >"$data/two.log" || { tail -n 5 "$data/two.log"; exit 1; }
cat "$data/target.log" "$data/two.log" | grep -a '^{"bench"' >"$data/target.jsonl"
sed -i '/^# km_cross64 was not measured/d' "$data/target.log"
rm -f "$data/host.jsonl"
[ ! -e "$root/target/bench/host.jsonl" ] || cp "$root/target/bench/host.jsonl" "$data"

: >"$data/cpus.txt"
for cpus in 1 2 4 8; do
    say "an operation with $cpus CPUs"
    counted SMP=$cpus RUN="bench pg_trace; bench km_trace; bench vm_hot_16K; exit" |
        awk -v cpus=$cpus '/^{"bench"/ { print cpus, $0 }' >>"$data/cpus.txt"
done

: >"$data/boot.txt"
for mem in ${BOOT_MEM:-5M 8M 32M 128M 512M 2G 8G 32G 64G}; do
    say "boot with $mem"
    machine ICOUNT=1 MEM="$mem" TIMEOUT=120 RUN=exit | awk -v mem="$mem" '
        /^memory: [0-9]+ bytes = / { used = $(NF - 1) }
        /^boot: [0-9]+ ns/ { print mem, $2, used }' >>"$data/boot.txt"
done

: >"$data/scaling.txt"
seconds=${SCALE_SECONDS:-3}
for cpus in 1 2 3 4 6 8; do
    say "$cpus CPUs at work"
    machine SMP=$cpus TIMEOUT=120 RUN="modprobe torture seconds=$seconds seed=1; exit" |
        awk -v cpus=$cpus -v seconds="$seconds" '/^torture: [0-9]+ operations/ { print cpus, $2 / seconds }' >>"$data/scaling.txt"
done

say "a long churn"
seconds=${CHURN_SECONDS:-30}
machine SMP=2 MEM=128M TIMEOUT=$((seconds + 60)) LOG=1 APPEND=top=500 \
    RUN="modprobe torture seconds=$seconds seed=1; exit" >"$data/churn.txt"

say "the page"
exec env -u CARGO_BUILD_TARGET cargo run --quiet --manifest-path "$root/firmware/tools/Cargo.toml" --features report \
    --bin report -- "$data" "$root/target/report/index.html"
