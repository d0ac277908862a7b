#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs the rings of tests, cheapest first, and sums them up. With arguments, only those rings:
#   all.sh [check] [host] [trees] [docs] [fuzz] [miri] [target]
# and two that are not among them: quick (some machines of target), soak (all CPUs busy for SOAK_SECONDS, 600)
set -uo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-none-softfloat
rings=("$@")
[ $# -gt 0 ] || rings=(check host trees docs fuzz miri target)
passed=0 failed=0 failures=()

judge() { # NAME STATUS SECONDS
    if [ "$2" = 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        failures+=("$1")
        echo "== $1: FAILED"
    fi
    echo "== $1: $3 s"
}

step() { # NAME COMMAND...
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    "$@"
    judge "$name" $? $((SECONDS - start))
}

# Steps that need one processor run beside each other, as many as there are processors. What each of them says comes when
# all are done.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
names=()
beside() { # NAME COMMAND...
    # Names of its own: what the command sets must not be these.
    local beside_at=$work/beside.${#names[@]} beside_start
    names+=("$1")
    shift
    while [ "$(jobs -pr | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    beside_start=$SECONDS
    ("$@" >"$beside_at" 2>&1; echo "$? $((SECONDS - beside_start))" >"$beside_at.status") &
}
together() { # waits for them
    local at status took
    wait
    for at in "${!names[@]}"; do
        read -r status took <"$work/beside.$at.status" || status=1 took=0
        echo "== ${names[at]}"
        cat "$work/beside.$at"
        judge "${names[at]}" "$status" "$took"
    done
    names=()
}

lint() { # also for the bare-metal target, whose code the host never compiles
    cargo fmt --all --check && cargo fmt --manifest-path tests/fuzz/Cargo.toml --check &&
        cargo fmt --manifest-path tests/bench/Cargo.toml --check &&
        cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings &&
        cargo clippy --quiet --target $target -p mm -p bsp -p firmware -p embed -- -D warnings &&
        cargo clippy --quiet --target $target -p tests --tests -- -D warnings
}

docs() {
    RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps &&
        RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --target $target -p firmware --lib
}

trees() { # every tree that Debian ships is read without an error
    local list
    list=$(find target/dtb/ -name '*.dtb' -path '*/*/*' 2>/dev/null | sort)
    [ -n "$list" ] || { echo "no trees were unpacked: skipped"; return 0; }
    # shellcheck disable=SC2086 # one word a file
    cargo run --quiet --release -p bsp --example memmap -- $list >target/memmap.jsonl &&
        echo "$(wc -l <target/memmap.jsonl) trees read, $(grep -vc '"error":null' target/memmap.jsonl) in error" &&
        [ "$(grep -vc '"error":null' target/memmap.jsonl)" = 0 ]
}

fuzz() { # parsers and the console, each for a bounded time; the tree's corpus begins with our fixtures
    local corpus=tests/fuzz/corpus/tree source
    mkdir -p $corpus
    for source in tests/fixtures/*.dts; do
        dtc -q -I dts -O dtb -o "$corpus/$(basename "$source" .dts)" "$source" || return 1
    done
    fuzz_one tree -dict=tests/fuzz/tree.dict -max_len=16384 && fuzz_one cmdline -max_len=4096 && fuzz_one console -max_len=4096
}

fuzz_one() { # TARGET [LIBFUZZER-OPTION...]
    local name=$1 log=target/fuzz-$1.log
    shift
    cargo +nightly fuzz run --fuzz-dir tests/fuzz "$name" -- -max_total_time="${FUZZ_SECONDS:-20}" -timeout=10 \
        -print_final_stats=1 "$@" >"$log" 2>&1 || { tail -n 60 "$log"; return 1; }
    awk -v name="$name" '/number_of_executed_units/ { print name ": " $2 " inputs, none panics or hangs" }' "$log"
}

# Not optimised, unlike the other rings: Miri would have to interpret what inlining has left.
miri() { CARGO_PROFILE_DEV_OPT_LEVEL=0 MIRIFLAGS=-Zmiri-strict-provenance cargo +nightly miri test --quiet "$@"; }

# The parts that finish in minutes; MIRI=all runs the rest too, which takes long.
under_miri() {
    if [ "${MIRI:-}" = all ]; then
        beside "Miri" miri -p mm
    else
        beside "Miri: memory found, pages" miri -p mm --lib -- addr:: arch:: buddy:: gfp:: memblock:: page_alloc:: slab:: sync::
        beside "Miri: translation tables, vmalloc, devices" miri -p mm --lib -- dma:: pgtable::tests:: tlb:: vmalloc::area::
        beside "Miri: memblock_model" miri -p mm --test memblock_model
        beside "Miri: hotplug" miri -p mm --test hotplug
        beside "Miri: slab" miri -p mm --test slab_linux --test slab_model --test slab_rust -- --skip powers_of_two --skip running_dry \
            --skip a_size_that --skip beyond_the_last
        beside "Miri: CPUs and interrupts in the slab" miri -p mm --test slab_threads --test slab_interrupts --test percpu
        beside "Miri: threads in vmalloc" miri -p mm --test vmalloc_threads
        beside "Miri: modules" miri -p firmware --lib -- modules::
    fi
}

on_target() { # SCRIPT...: what runs on the machines
    local script
    # shellcheck source=tests/boots.sh
    . tests/boots.sh
    # shellcheck source=tests/machines.sh
    for script in "$@"; do . "tests/$script.sh"; done
}

for ring in "${rings[@]}"; do
    # None of these waits for another's lock on a directory, so they run beside each other.
    case $ring in docs | fuzz | miri) ;; *) together ;; esac
    case $ring in
    check) step "format, clippy" lint ;;
    host)
        # In one go, so that nothing is built twice; examples are built with the tests.
        step "host tests" cargo test --quiet --workspace --features tools/top,tools/report
        step "example: an arena" "${CARGO_TARGET_DIR:-target}/debug/examples/arena"
        ;;
    trees) step "real device trees" trees ;;
    miri) under_miri ;;
    docs) beside "rustdoc" docs ;;
    fuzz) beside "fuzzing" fuzz ;;
    target | quick)
        step "on-target build" cargo build --quiet --release --target $target -p firmware -p embed
        step "on-target test build" cargo test --quiet --profile on-target --target $target -p tests --no-run
        if [ "$ring" = quick ]; then on_target quick; else on_target machines; fi
        ;;
    soak)
        step "on-target build" cargo build --quiet --release --target $target -p firmware
        on_target soak
        ;;
    *) echo "all.sh: no such ring: $ring"; exit 2 ;;
    esac
done
together

[ ${#failures[@]} -gt 0 ] && printf 'failed: %s\n' "${failures[@]}"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
