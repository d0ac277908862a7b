#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Measures what the report shows, and writes target/report/index.html.
#   report.sh ELF        CHURN_SECONDS=20, SCALE_SECONDS=3, BOOT_MEM="8M 64M ...": what one has patience for
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
elf=$1
data=$root/target/report/data
mkdir -p "$data"
say() { echo "report: $*" >&2; }
machine() { env QUIET=1 "$@" "$root/firmware/tools/qemu.sh" "$elf" </dev/null 2>&1; }

say "benchmarks on the target"
# In parts, so that one that a machine is too small for leaves the others be.
benches=
for name in pg km_hot km_sized kmc km_batch1000_ km_trace km_trace_p999 km_foot pt vm_hot vm_trace vm_trace_p999 vmap vm_map vrealloc kv dma; do benches+="bench $name; "; done
machine ICOUNT=1 CPU="${CPU:-cortex-a72}" MEM="${MEM:-2G}" TIMEOUT=600 RUN="${benches}exit 0" >"$data/target.log" ||
    { tail -n 5 "$data/target.log"; exit 1; }
grep -a '^{"bench"' "$data/target.log" >"$data/target.jsonl"
cp "$root/firmware/tools/linux-6.12.tsv" "$data"
[ ! -e "$root/target/bench/host.jsonl" ] || cp "$root/target/bench/host.jsonl" "$data"

: >"$data/boot.txt"
for mem in ${BOOT_MEM:-8M 32M 128M 512M 2G 8G 32G 64G}; do
    say "boot with $mem"
    machine ICOUNT=1 MEM="$mem" TIMEOUT=120 RUN=exit |
        awk -v mem="$mem" '/^boot: [0-9]+ ns/ { print mem, $2 }' >>"$data/boot.txt"
done

: >"$data/scaling.txt"
seconds=${SCALE_SECONDS:-3}
for cpus in 1 2 3 4 6 8; do
    say "$cpus CPUs"
    machine SMP=$cpus TIMEOUT=120 RUN="modprobe torture seconds=$seconds seed=1; exit" |
        awk -v cpus=$cpus -v seconds="$seconds" '/^torture: [0-9]+ operations/ { print cpus, $2 / seconds }' >>"$data/scaling.txt"
done

say "a long churn"
machine SMP=2 MEM=128M TIMEOUT=300 LOG=1 APPEND=top=500 \
    RUN="slabinfo; modprobe torture seconds=${CHURN_SECONDS:-20} seed=1; exit" >"$data/churn.txt"

exec env -u CARGO_BUILD_TARGET cargo run --quiet --manifest-path "$root/firmware/tools/Cargo.toml" --features report \
    --bin report -- "$data" "$root/target/report/index.html"
