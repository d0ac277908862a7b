# SPDX-License-Identifier: MIT OR Apache-2.0
# Several CPUs, none where the tree has some, and what interrupts them. Sourced by machines.sh, behind console.sh.

step "virt, 2 CPUs, GICv3, EL2: tests" boots SMP=2 GIC=3 EL2=1
step "virt, 4 CPUs, GICv2, EL2: tests" boots SMP=4 EL2=1
step "virt, 8 CPUs, GICv2: tests" boots SMP=8
step "virt, 8 CPUs, GICv3, max: tests" boots SMP=8 GIC=3 CPU=max
# Without the reports of failures (fault_*), which take longest to build and are the same.
step "virt, debug build, 4 CPUs: tests" boots SMP=4 PROFILE=dev TESTS='[!f]*'
numa="-object memory-backend-ram,id=a,size=256M -object memory-backend-ram,id=b,size=256M"
numa+=" -numa node,memdev=a,cpus=0-1 -numa node,memdev=b,cpus=2-3"
step "virt, two nodes: tests" boots SMP=4 QEMU_ARGS="$numa"
step "virt, two nodes: CPUs" expects 0 'CPU 3: MPIDR 0x3, node 1, PSCI' 'cpuinfo; exit' SMP=4 QEMU_ARGS="$numa"
step "rpi4: CPUs" expects 0 'CPU 3: MPIDR 0x3, node 0, spin table' 'cat /proc/cpuinfo; exit' BOARD=rpi4
step "rpi3: CPUs" expects 0 'CPU 3: MPIDR 0x3, node 0, spin table' 'cat /proc/cpuinfo; exit' BOARD=rpi3
step "soak, 8 CPUs" soaked 5 SMP=8 GIC=3
step "soak, rpi3" soaked 3 BOARD=rpi3
step "test_vmalloc, all of it" expects 0 'Summary: vrealloc_test passed: 1 failed: 0 xfailed: 0 repeat: 1 loops: 100' \
    'modprobe test_vmalloc run_test_mask=0x1fff test_loop_count=100 nr_threads=2 nr_pcpu_objects=2000; vpurge; exit' SMP=2
step "test_vmalloc from the command line" expects 0 'Summary: fix_size_alloc_test passed: 2 failed: 0 xfailed: 0 repeat: 2' \
    exit APPEND="test_vmalloc.run_test_mask=1 test_vmalloc.test_loop_count=1000 test_vmalloc.test_repeat_count=2" BOARD=rpi4
step "test_vmalloc in the log" expects 0 '^\[ .*test_vmalloc: 1 workers: 2 runs passed, 0 failed' \
    'modprobe test_vmalloc run_test_mask=3 test_loop_count=10; dmesg | grep test_vmalloc; exit'
vng() { APPEND='test_vmalloc.run_test_mask=1 test_vmalloc.test_loop_count=10 test_vmalloc.use_huge=y' make --no-print-directory vng | grep 'fix_size_alloc_test passed: 1'; }
step "make vng" vng
step "no such module" expects 1 'no such module; modprobe alone lists them' 'modprobe usb; exit'
step "no such parameter" expects 1 'the module has no such parameter' 'modprobe memblock loops=3; exit'
step "memblock" expects 0 '^# memblock: pass:14 fail:0 skip:0 total:14' exit APPEND=memblock
step "page_alloc" expects 0 '^# page_alloc: pass:9 fail:0 skip:1 total:10' 'modprobe page_alloc; exit' SMP=2
step "page_alloc, with a DMA zone" expects 0 '^# page_alloc: pass:10 fail:0 skip:0 total:10' \
    'modprobe page_alloc; exit' BOARD=rpi4 DTB="$(compiled rpi4-4gb)"
step "slub_kunit" expects 0 '^# slub_test: pass:9 fail:0 skip:2 total:11' 'modprobe slub_kunit; exit' SMP=2
step "slub_kunit, slub_debug=FZPU" expects 0 '^# slub_test: pass:10 fail:0 skip:1 total:11' 'modprobe slub_kunit; exit' APPEND=slub_debug=FZPU
step "slub_kunit, tiny" expects 0 '^# slub_test: pass:9 fail:0 skip:2 total:11' 'modprobe slub_kunit; exit' MEM=8M
step "test_meminit, init_on_alloc=1" expects 0 'all [0-9]* tests passed!' exit APPEND="test_meminit init_on_alloc=1"
step "test_meminit, init_on_free=1" expects 0 'all [0-9]* tests passed!' exit APPEND="test_meminit init_on_free=1"
step "test_meminit, without" expects 1 'boot with init_on_alloc=1 or init_on_free=1' 'modprobe test_meminit; exit'
step "torture, 8 CPUs" expects 0 'torture: nothing was wrong, and every page is back' 'modprobe torture seconds=10; exit' SMP=8
step "torture, rpi4" expects 0 'torture: nothing was wrong, and every page is back' 'modprobe torture seconds=5; exit' BOARD=rpi4
step "torture, tiny" expects 0 'torture: nothing was wrong, and every page is back' exit MEM=16M APPEND='torture.ops=30000 torture.seed=5'
# The same seed does the same, down to the last tick.
replays() {
    local run='modprobe torture seed=7 ops=4000; exit' first
    console "$run" ICOUNT=1 MEM=64M || { complain "status $?"; return; }
    first=$(grep '^torture: .* operations' <<<"$said")
    console "$run" ICOUNT=1 MEM=64M || { complain "status $?"; return; }
    [ -n "$first" ] && grep -qxF "$first" <<<"$said" || complain "not as the first time: $first"
}
step "torture, replayed" replays
step "memtest=" expects 0 'EarlyMemtestBad: +0 kB' 'meminfo; exit' APPEND=memtest=3 MEM=64M
step "memtest, a bad word" expects 0 '42000000-42000fff +4096 bytes  bad RAM|0x42000010-0x42000017 : bad RAM|42000010-42000017 +8 bytes  bad RAM' \
    'iomem; meminfo | grep Bad:.*1.kB; exit' APPEND='memtest=2 memtest_bad=0x42000010' MEM=64M
step "memtest on the console" expects 0 'KiB tested with 2 patterns, 0 KiB kept from use' 'memtest 2; exit' MEM=64M SMP=2
step "memtest on the console, a bad word" expects 1 'bad memory at .*42000010-42000017' 'memtest 2; exit' \
    APPEND=memtest_bad=0x42000010 MEM=64M
step "procps reads our reports" tests/procps.sh $elf
step "maxcpus=" expects 0 'smp: 2 of 4 CPUs' exit SMP=4 APPEND=maxcpus=2
step "CPUs that are not there: PSCI" boots_with 'MPIDR 0x1 is not started: PSCI refuses' missing-cpus
step "CPUs that are not there: spin table" boots_with 'MPIDR 0x2, spin table\) does not come' missing-cpus

# A CPU that meets an undefined instruction at a symbol on its way: the image is patched there.
fails_at() { # SYMBOL STATUS TEXT [NAME=VALUE...]
    local symbol=$1 status=$2 text=$3 nm at
    shift 3
    nm=$(find "$(rustc --print sysroot)" -name llvm-nm | head -n 1)
    at=$("$nm" "$elf" | awk -v symbol="$symbol" '$3 == symbol { print $1 }')
    [ -n "$at" ] || { echo "no symbol $symbol"; return 1; }
    cp $image "$work/image"
    printf '\0\0\0\0' | dd of="$work/image" bs=4 seek=$(((0x$at - 0xffffffff80000000) / 4)) conv=notrunc status=none
    boot=$work/image expects "$status" "$text" exit "$@"
}
step "CPUs that fail before they are known" fails_at secondary_start 0 'CPU 2 \(MPIDR 0x2, PSCI\) does not come' SMP=3
step "CPUs that fail before they are known, rpi3" fails_at secondary_start 0 'smp: 1 of 4 CPUs' BOARD=rpi3
step "CPUs that fail once they are" fails_at secondary_main 134 '^CPU [12] \(MPIDR' SMP=3

keys() { # LINE [NAME=VALUE...]: the table of interrupts counts the keys that asked for it
    local line=$1
    shift
    types 'interrupts\rexit 5\r' 5 "^ +$line: +[1-9].* console" "$@"
}
step "keys by interrupt" keys 33
step "keys by interrupt, GICv3" keys 33 GIC=3 SMP=2
step "keys by interrupt, rpi4" keys 125 BOARD=rpi4
step "keys by interrupt, rpi4, PL011" keys 153 BOARD=rpi4 APPEND=console=ttyAMA0
step "keys by interrupt, rpi3" keys 93 BOARD=rpi3
step "no interrupt controller" boots_with 'smp: the device tree names no interrupt controller' no-intc
step "no timer" boots_with 'tick: there is none' no-timer
