#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Takes out or weakens each barrier, invalidate, broadcast, break and operand mask of the translation code in turn, on a
# copy of the memory core, and expects the tests on the MMU model to fail. Prints a table; the status is 1 if a mutant
# survives.
#   mutants.sh [WORD]     only those whose name has the word in it
set -uo pipefail
cd "$(dirname "$0")/.."
copy=$PWD/target/mutants
only=${1:-}

rm -rf "$copy/mm" && mkdir -p "$copy"
cp -r mm Cargo.lock rust-toolchain.toml "$copy/"
rm -rf "$copy/pristine" && cp -r mm "$copy/pristine"
# The same workspace, with this one member.
sed -E 's/^members = .*/members = ["mm"]/; /^default-members|^exclude/d; /^(bsp|firmware) = /d' Cargo.toml >"$copy/Cargo.toml"
export CARGO_TARGET_DIR=$copy/target CARGO_PROFILE_DEV_DEBUG=0 RUST_BACKTRACE=0
export PGTABLE_STEPS=${PGTABLE_STEPS:-1000} PGTABLE_LENGTH=${PGTABLE_LENGTH:-2} PGTABLE_SWITCHES=${PGTABLE_SWITCHES:-1}
cd "$copy" || exit

# The cheap ones first: most mutants need no more. What is vmalloc's own, and memory for devices, have models of their own.
tests() { # NAME
    case ${1:-} in
    vmalloc*)
        timeout 200 cargo test --offline --quiet -p mm --test vmalloc_model >"$copy/log" 2>&1 &&
            timeout 120 cargo test --offline --quiet -p mm --lib -- vmalloc >"$copy/log" 2>&1
        return ;;
    dma*)
        timeout 200 cargo test --offline --quiet -p mm --test dma_model >"$copy/log" 2>&1
        return ;;
    esac
    timeout 120 cargo test --offline --quiet -p mm --test pgtable_model >"$copy/log" 2>&1 &&
        timeout 120 cargo test --offline --quiet -p mm --lib -- pgtable tlb ops >"$copy/log" 2>&1
}

killed=0 survived=0 broken=0
mutant() { # NAME FILE NUMBER-OF-THE-MATCH PERL-PATTERN REPLACEMENT
    local name=$1 file=mm/src/$2 nth=$3 pattern=$4 replacement=$5 by status
    case $name in *"$only"*) ;; *) return ;; esac
    if ! perl -0pi -e 'BEGIN { ($n, $p, $r) = splice @ARGV, 0, 3 } my $i = 0; s/$p/++$i == $n ? $r : $&/ge; END { exit($i < $n) }' \
        "$nth" "$pattern" "$replacement" "$file"; then
        printf '%-72s %s\n' "$name" "DOES NOT APPLY"
        broken=$((broken + 1))
    else
        tests "$name"
        status=$?
        if [ $status = 0 ]; then
            by="SURVIVES"
            survived=$((survived + 1))
        elif [ $status = 124 ]; then
            by="killed by a hang"
            killed=$((killed + 1))
        elif grep -q '^error' "$copy/log" && ! grep -q '^test result' "$copy/log"; then
            by="DOES NOT COMPILE"
            broken=$((broken + 1))
        else
            by="killed by $(sed -n 's/.* \([0-9]*\) failed;.*/\1/p' "$copy/log" | tail -n 1) tests"
            killed=$((killed + 1))
        fi
        printf '%-72s %s\n' "$name" "$by"
    fi
    cp "$copy/pristine/${file#mm/}" "$file"
}

# Built once without the clock running.
cargo test --offline --quiet -p mm --no-run >"$copy/log" 2>&1 || { cat "$copy/log"; exit 1; }
tests || { cat "$copy/log"; echo "the tests fail without a mutant"; exit 1; }

stores='self\.arch\.dsb\(Dsb::InnerShareableStores\);'
nothing=''
# Barriers on the way to the tables.
mutant "map, one run: no barriers at the end" pgtable/map.rs 1 'self\.arch\.publish_tables\(\);' "$nothing"
mutant "map, one run of any level: no barriers at the end" pgtable/map.rs 2 'self\.arch\.publish_tables\(\);' "$nothing"
mutant "map, pieces in tables that are there: no barriers at the end" pgtable/batch.rs 2 'self\.arch\.publish_tables\(\);' "$nothing"
mutant "map, with new tables: no barriers at the end" pgtable/map.rs 3 'self\.arch\.publish_tables\(\);' "$nothing"
mutant "map: new tables are linked before they are seen clear" pgtable/map.rs 1 "$stores" "$nothing"
mutant "map: new tables are not cleared" pgtable/map.rs 1 'unsafe \{ self\.arch\.zero_table\(table\) \};' "let _ = table;"
mutant "new: the root is not seen clear" pgtable.rs 1 'arch\.publish_tables\(\);' "$nothing"
mutant "publish: ISB only" arch.rs 1 'self\.dsb\(Dsb::InnerShareableStores\);' "$nothing"
mutant "publish: DSB only" arch.rs 1 'self\.isb\(\);' "$nothing"
mutant "publish: this CPU only" arch.rs 1 'self\.dsb\(Dsb::InnerShareableStores\)' 'self.dsb(Dsb::NonShareableStores)'
mutant "unmap: no DSB before the flush" pgtable/unmap.rs 3 "$stores" "$nothing"
mutant "unmap: a DSB for this CPU only" pgtable/unmap.rs 3 'Dsb::InnerShareableStores' 'Dsb::NonShareableStores'
mutant "trim: no DSB before the flush" pgtable/unmap.rs 2 "$stores" "$nothing"
mutant "split: the new table is linked before it is seen full" pgtable/split.rs 1 "$stores" "$nothing"
mutant "split: no DSB after the write (BBM level 2)" pgtable/split.rs 2 "$stores" "$nothing"
mutant "split: no DSB between break and invalidate" pgtable/split.rs 3 "$stores" "$nothing"
mutant "split: no barriers after the new entry" pgtable/split.rs 2 'self\.arch\.publish_tables\(\);' "$nothing"
mutant "split, stopped: the window is not published" pgtable/split.rs 3 'self\.arch\.publish_tables\(\);' "$nothing"
mutant "split, stopped: no DSB before the window's flush" pgtable/split.rs 4 "$stores" "$nothing"
mutant "change: no DSB before the flush" pgtable/change.rs 1 "$stores" "$nothing"
mutant "change: no barriers when nothing needs a flush" pgtable/change.rs 1 'return self\.arch\.publish_tables\(\)' 'return'
mutant "change: no barriers after what was mended" pgtable/change.rs 1 'self\.arch\.publish_tables\(\);' "$nothing"
# Invalidates and their completion.
mutant "flush: no DSB at the end" tlb.rs 1 'self\.arch\.dsb\(Dsb::InnerShareable\);' "$nothing"
mutant "flush: the DSB waits for stores only" tlb.rs 1 'Dsb::InnerShareable\)' 'Dsb::InnerShareableStores)'
mutant "flush: the DSB waits for this CPU only" tlb.rs 1 'Dsb::InnerShareable\)' 'Dsb::NonShareable)'
mutant "flush: no ISB at the end" tlb.rs 2 'self\.arch\.isb\(\);' "$nothing"
mutant "flush: nothing is invalidated" tlb.rs 1 'operand::each\(&self\.arch, span, regime, self\.features\.tlb_range\);' 'let _ = span;'
mutant "whole flush: nothing is invalidated" tlb.rs 2 'self\.arch\.tlbi\(op, operand\);' 'let _ = (op, operand);'
mutant "whole flush: the new generation is not waited for" tlb.rs 1 'self\.arch\.dsb\(Dsb::InnerShareableStores\);' "$nothing"
mutant "whole flush: on this CPU only" tlb/operand.rs 1 '\(Tlbi::All, 0\)' '(Tlbi::AllLocal, 0)'
mutant "whole flush: of another ASID" tlb/operand.rs 1 '\(Tlbi::Asid, asid_bits\(regime\)\)' '(Tlbi::Asid, 0)'
mutant "whole flush: EL2 takes EL1's" tlb/operand.rs 1 'Tlbi::AllEl2' 'Tlbi::All'
mutant "a flush counts as complete before it is" tlb.rs 1 'load\(Ordering::SeqCst\) > stamp\.0' 'load(Ordering::SeqCst) >= stamp.0'
mutant "quiescent: EL2 by a flush of EL1" tlb.rs 1 'if matches!\(regime, Regime::El2\)' 'if false'
mutant "gather: beyond its room nothing is flushed" tlb/gather.rs 1 'if self\.overflown' 'if false'
mutant "gather: one flush opens what waits for another" tlb/gather.rs 1 'held\.gather == self\.gather' 'true'
mutant "gather: ranges that touch lose their end" tlb/gather.rs 1 'own_last\.max\(last\)' 'own_last'
# Broadcast.
mutant "encoding: by page, not broadcast" arch/ops.rs 1 'LastLevelPageAnyAsid = 0x037' 'LastLevelPageAnyAsid = 0x077'
mutant "encoding: whole, not broadcast" arch/ops.rs 1 ' All = 0x030' ' All = 0x071'
mutant "encoding: by range, not broadcast" arch/ops.rs 1 'LastLevelRangeAnyAsid = 0x027' 'LastLevelRangeAnyAsid = 0x067'
# Operands.
mutant "operand: the page number is not masked" tlb/operand.rs 1 ' & PAGE_BITS' ''
mutant "operand: one bit of the mask is missing" tlb/operand.rs 1 '\(1 << 44\) - 1' '(1 << 45) - 1'
mutant "operand: the range's page number is not masked" tlb/operand.rs 1 ' & RANGE_PAGE_BITS' ''
mutant "operand: without the granule" tlb/operand.rs 1 ' \| GRANULE_4K' ''
mutant "operand: without the ASID" tlb/operand.rs 1 'asid_bits\(regime\) \| virt' 'virt'
mutant "operand: the range's scale is one too small" tlb/operand.rs 1 '\(scale as u64\) << SCALE_SHIFT' '(scale.saturating_sub(1) as u64) << SCALE_SHIFT'
mutant "operand: the range is one unit short" tlb/operand.rs 1 'units - 1' 'units.saturating_sub(2)'
mutant "operand: the odd page is left out" tlb/operand.rs 1 'if !pages\.is_multiple_of\(2\)' 'if false'
mutant "by page: the last one is left out" tlb/operand.rs 1 'while at <= end' 'while at < end'
mutant "by page: every second one" tlb/operand.rs 1 'at \+= step >> PAGE_SHIFT' 'at += step >> PAGE_SHIFT << 1'
mutant "trim: walk caches keep the tables" pgtable/unmap.rs 1 'tables: true' 'tables: false'
mutant "trim: the tables are not flushed" pgtable/unmap.rs 1 'tlb\.flush_span\([^;]*\);' "$nothing"
mutant "unmap: the step of blocks where there are pages" pgtable/unmap.rs 1 'cleared\.level\.max\(spot\.level\)' 'cleared.level.min(spot.level)'
# Breaks.
mutant "BBM rule: size" pgtable/descriptor.rs 1 'if size && !features\.bbm_level_2' 'if false'
mutant "BBM rule: a contiguous hint is no size" pgtable/descriptor.rs 1 '\(false, false\) => changed & CONTIGUOUS != 0' '(false, false) => false'
mutant "BBM rule: memory type" pgtable/descriptor.rs 1 'ADDRESS \| ATTR_INDEX \| INNER' 'ADDRESS | INNER'
mutant "BBM rule: permissions need no flush" pgtable/descriptor.rs 1 'else \{ Self::WriteThenFlush \}' 'else { Self::Write }'
mutant "BBM rule: unmapping needs no flush" pgtable/descriptor.rs 1 'return Self::WriteThenFlush' 'return Self::Write'
mutant "split: no flush between break and make" pgtable/split.rs 2 'tlb\.flush_span\(self\.regime, &span\);' "$nothing"
mutant "split: nothing is broken" pgtable/split.rs 1 'self\.fill\(table, slot, count, Descriptor::NONE, 0\);' "$nothing"
mutant "split, BBM level 2: no flush afterwards" pgtable/split.rs 1 'tlb\.flush_span\(self\.regime, &span\);' "$nothing"
mutant "split, stopped: the window is not flushed" pgtable/split.rs 1 'tlb\.flush_span\(self\.regime, &Span[^;]*\);' "$nothing"
mutant "split, stopped: nobody is stopped" pgtable/split.rs 1 'unsafe \{ &\*arch \}\.with_others_stopped\(&mut \|\| \{' 'let _ = arch; (&mut || {'
mutant "change: no flush" pgtable/change.rs 1 'tlb\.flush_span\([^;]*\);' "$nothing"
mutant "change: memory types are not broken" pgtable/change.rs 1 'Some\(old\.broken\(\)\)' 'Some(new)'
mutant "unmap: a cut group stays hinted" pgtable/unmap.rs 1 '!self\.cuts_group\(&spot, slot\)|self\.cuts_group\(&spot, slot\) \|\| self\.cuts_group\(&spot, slot \+ count\)' 'false'
mutant "map: groups form out of step" pgtable/map.rs 1 '\|\| !in_step ' ''
mutant "split: the group at the boundary is hinted" pgtable/split.rs 1 'self\.fill\(table, group, CONTIGUOUS_GROUP, leaf\(group\), step\);' 'self.fill(table, group, CONTIGUOUS_GROUP, leaf(group).with_contiguous(true), step);'
mutant "map, one entry: into what is in use" pgtable/map.rs 1 'return self\.load\(spot\.table, slot\)\.is_none\(\);' 'return true;'
mutant "unmap, one entry: one of a group" pgtable/unmap.rs 1 'entry\.is_table\(LEVEL\) \|\| entry\.is_contiguous\(\)' 'entry.is_table(LEVEL)'
# Flush points of vmalloc.
mutant "vmalloc: frames come back before the flush" vmalloc/lazy.rs 1 'if !self\.tlb\.is_past\(Stamp::from_word\(head\.note\)\)' 'if false'
mutant "vmalloc: what waits is taken for older than it is" vmalloc/lazy.rs 1 'stamp\.into_word\(\)' '0'
mutant "vmalloc: short of memory, no flush" vmalloc/lazy.rs 1 'Some\(true\) => self\.tlb\.flush_everything\(self\.regime\),' 'Some(true) => {}'
mutant "vmalloc: a tail that was cut is not flushed" vmalloc/resize.rs 1 'self\.tlb\.try_quiesce\(unmapped\)[^;]*;' 'let _ = unmapped;'
mutant "vmalloc: a tail that had moved is flushed by its new addresses only" vmalloc/resize.rs 1 'if state\.last_move\.is_some_and\([^{]*\{' 'if false {'
mutant "vmalloc: frames that moved wait with their old addresses" vmalloc/resize.rs 1 'head, 0, unmapped\.stamp\(\)' 'head, old, unmapped.stamp()'
mutant "vmalloc: an area that moved leaves no trace" vmalloc/resize.rs 1 'state\.last_move = Some\(unmapped\.stamp\(\)\);' "$nothing"
mutant "vmalloc: frames of others are unmapped without a flush" vmalloc/map.rs 1 'unmapped\.flush\(self\.tlb\)\.release\(\);' 'let _ = unmapped;'
mutant "vmalloc: frames of others, no barriers at the end" pgtable/batch.rs 1 'self\.arch\.publish_tables\(\);' "$nothing"
mutant "vmalloc: an area is put away without a DSB" pgtable/unmap.rs 1 "$stores" "$nothing"
mutant "vmalloc: what was put away comes back before the flush" vmalloc/lazy.rs 1 'is_none_or\(\|since\| !self\.tlb\.is_past\(since\)\)' 'is_none()'
mutant "vmalloc: an area that is half given back is handed on" vmalloc/shelf.rs 1 'let is_whole = extent_of\(head\.extent\)\.0 == 0;' 'let is_whole = true;'
mutant "vmalloc: an area of other attributes is handed on" vmalloc/alloc.rs 1 'if self\.attributes == Attributes::DATA \{ 0 \} else \{ UNLIKE \}' '0'
mutant "vmalloc: an area that was changed is handed on" vmalloc/map.rs 1 'short \| UNLIKE' 'short'
mutant "vmalloc: an area that moved is handed on" vmalloc/resize.rs 1 'kind as u32 \| UNLIKE' 'kind as u32'
mutant "vmalloc: a mapping of a moment, no barriers at the end" vmalloc/ram.rs 1 'self\.arch\.publish_tables\(\);' "$nothing"
mutant "vmalloc: a mapping of a moment is undone without a DSB" vmalloc/ram.rs 1 "$stores" "$nothing"
mutant "vmalloc: blocks of such mappings are used again without a flush" vmalloc/ram.rs 1 'self\.tlb\.flush_everything\(self\.regime\);' "$nothing"
mutant "vmalloc: what is unmapped in part is given back" vmalloc/retire.rs 1 'if stop < end' 'if false'
mutant "vmalloc: of what was unmapped in part the rest is forgotten" vmalloc/retire.rs 1 '\(done \* PAGE_SIZE|virt \+ done \* PAGE_SIZE' 'virt'
# Memory for devices: what is cleaned and invalidated, for whom, and when.
mutant "dma: map does not clean" dma/stream.rs 1 'self\.maintain\(CacheOp::Clean, phys, size\);' "$nothing"
mutant "dma: map invalidates instead" dma/stream.rs 1 'CacheOp::Clean, phys, size' 'CacheOp::Invalidate, phys, size'
mutant "dma: map cleans a line too few" dma/stream.rs 1 'CacheOp::Clean, phys, size' 'CacheOp::Clean, phys, size.saturating_sub(64)'
mutant "dma: map to bounce does not clean" dma/stream.rs 2 'self\.maintain\(CacheOp::Clean, phys, size\);' "$nothing"
mutant "dma: map to bounce does not copy" dma/stream.rs 1 'self\.copy\(record\.start\(\), phys, size\);' "$nothing"
mutant "dma: sync for the device does not clean" dma/stream.rs 1 'self\.maintain\(CacheOp::Clean, found\.phys, size\);' "$nothing"
mutant "dma: sync for the device does not copy" dma/stream.rs 1 'self\.copy\(start, found\.phys, size\);' "$nothing"
mutant "dma: unmap and sync do not invalidate" dma/stream.rs 1 'self\.maintain\(CacheOp::Invalidate, found\.phys, size\);' "$nothing"
mutant "dma: unmap cleans instead" dma/stream.rs 1 'CacheOp::Invalidate, found\.phys' 'CacheOp::Clean, found.phys'
mutant "dma: unmap does not copy back" dma/stream.rs 1 'self\.copy\(found\.phys, start, size\);' "$nothing"
mutant "dma: unmap copies back before it invalidates" dma/stream.rs 1 'if !device\.is_coherent\(\) \{\s*self\.maintain\(CacheOp::Invalidate, found\.phys, size\);\s*\}\s*if found\.record\.slot\(\)\.is_some\(\) \{\s*self\.copy\(found\.phys, start, size\);\s*\}' 'if found.record.slot().is_some() { self.copy(found.phys, start, size); } if !device.is_coherent() { self.maintain(CacheOp::Invalidate, found.phys, size); }'
mutant "dma: unmap shows the CPU nothing" dma/stream.rs 1 'if direction\.writes\(\) && !attrs' 'if false && !attrs'
mutant "dma: a device that sees the caches is taken for one that does not" dma/stream.rs 1 'if !device\.is_coherent\(\) && !attrs' 'if !attrs'
mutant "dma: a buffer that shares lines is not bounced" dma/stream.rs 1 '\|\| self\.owns_lines\(phys, size\)' '|| true'
mutant "dma: only the beginning of a buffer is looked at" dma/stream.rs 1 '\(phys\.as_raw\(\) \| size\)\.is_multiple_of' 'phys.as_raw().is_multiple_of'
mutant "dma: the granule is a byte" dma.rs 1 'arch\.cache_granule\(\)\.max\(1\)' '1'
mutant "dma: overlaps are let through" dma/record.rs 1 '&& \(old\.is_written\(\) \|\| new\.is_written\(\)\)' '&& false'
mutant "dma: what a device reads may be written by another" dma/record.rs 1 'old\.is_written\(\) \|\| new\.is_written\(\)' 'new.is_written()'
mutant "dma: a new chunk's lines stay in the caches" dma/coherent.rs 1 'self\.discard\(range\);' "$nothing"
mutant "dma: a new chunk stays cached" dma/coherent.rs 1 'if !self\.platform\.set_cached\(range, false\)' 'if false'
mutant "dma: a chunk goes back uncached" dma/coherent.rs 1 'range\.is_some_and\(\|range\| self\.platform\.set_cached\(range, true\)\)' 'true'
mutant "dma: coherent memory is not zeroed" dma/coherent.rs 1 'self\.zero\(phys, pages\);' "$nothing"
mutant "dma: coherent memory is of any alignment" dma/chunk.rs 1 'begins &= aligned;' "let _ = aligned;"
mutant "dma: the mask is not looked at" dma/device.rs 1 'last <= self\.mask' 'true'
mutant "dma: bounce slots are not given back" dma/stream.rs 2 'self\.free_slot\(slot, size\);' 'let _ = slot;'

echo "$killed killed, $survived survived, $broken do not apply"
[ $((survived + broken)) = 0 ]
