#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Plants a bug in a copy of the source, builds the image, and expects torture to find it: a merge that is lost, an
# invalidate that is missing, an object that is freed twice. Without one torture finds nothing. Prints a table; the status is
# 1 if a bug is not found. Takes some minutes a bug.
#   planted.sh [WORD]     only those whose name has the word in it
set -uo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-none-softfloat
copy=$PWD/target/planted
only=${1:-}
mkdir -p "$copy/source"
export CARGO_TARGET_DIR=$copy/target QUIET=1 TIMEOUT=120 SMP=4

pristine() {
    git ls-files -z | xargs -0 tar -c | tar -x -C "$copy/source"
}

missed=0
plant() { # NAME FOUND [FILE PERL-PATTERN REPLACEMENT]...
    local name=$1 found=$2 said status
    shift 2
    case $name in *"$only"*) ;; *) return ;; esac
    pristine
    while [ $# -gt 0 ]; do
        perl -0pi -e 'BEGIN { ($p, $r) = splice @ARGV, 0, 2 } my $n = s/$p/$r/g; END { exit(!$n) }' "$2" "$3" "$copy/source/$1" ||
            { printf '%-32s %s\n' "$name" "DOES NOT APPLY"; missed=$((missed + 1)); return; }
        shift 3
    done
    (cd "$copy/source" && cargo build --quiet --release --target $target -p firmware) >"$copy/log" 2>&1 ||
        { cat "$copy/log"; printf '%-32s %s\n' "$name" "DOES NOT COMPILE"; missed=$((missed + 1)); return; }
    said=$(RUN='modprobe torture seconds=30 seed=1; exit' firmware/tools/qemu.sh "$CARGO_TARGET_DIR/$target/release/firmware" </dev/null 2>&1)
    status=$?
    if grep -qE "$found" <<<"$said"; then
        printf '%-32s status %3d: %s\n' "$name" $status "$(grep -E "$found" <<<"$said" | head -n 1)"
    else
        tail -n 20 <<<"$said"
        printf '%-32s %s\n' "$name" "NOT AS EXPECTED"
        missed=$((missed + 1))
    fi
}

plant "no bug" 'torture: nothing was wrong'
plant "a lost merge" 'torture: (FAILED|WRONG)' \
    mm/src/buddy.rs 'if Class::of\(order\) > head\.class\(\) \{ self\.raise\(chunk, order\) \} else \{ pfn \}' '{ let _ = order; pfn }'
plant "a missing invalidate" 'torture: (FAILED|WRONG)|fatal:' \
    mm/src/tlb.rs 'operand::each\(&self\.arch, span, regime, self\.features\.tlb_range\);' 'let _ = (span, operand::each::<A>);' \
    mm/src/tlb.rs 'self\.arch\.tlbi\(op, operand\);' 'let _ = (op, operand);'
plant "a double free" 'torture: (FAILED|WRONG)' \
    firmware/src/modules/torture/object.rs 'Kind::Kmalloc => unsafe \{ kfree\(slab, self\.memory\) \}' \
    'Kind::Kmalloc => unsafe { kfree(slab, self.memory); kfree(slab, self.memory) }'
[ $missed = 0 ]
