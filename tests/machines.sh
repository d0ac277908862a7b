# SPDX-License-Identifier: MIT OR Apache-2.0
# Every machine that QEMU has for us: all on-target tests, and the image that `make run` boots. Sourced by all.sh, behind
# boots.sh.

# The tests of one on each level are those of the other: v8.0 both of them. Both levels have cortex-a72 and max.
declare -A levels=([cortex-a53]=0 [cortex-a57]=1 [cortex-a76]=1)
for cpu in cortex-a53 cortex-a57 cortex-a72 cortex-a76 max; do
    for el2 in 0 1; do
        [ "${levels[$cpu]:-$el2}" != $el2 ] ||
            beside "virt, $cpu, EL$((el2 + 1)): tests" boots CPU=$cpu EL2=$el2
        beside "virt, $cpu, EL$((el2 + 1)): reports" reports 516424 524288 CPU=$cpu EL2=$el2
    done
done
beside "virt, GICv3, two processors: tests" boots GIC=3 SMP=2
for board in rpi4 rpi3; do beside "$board: tests" boots BOARD=$board; done
together
for legacy in true false; do
    DISK_ARGS="-global virtio-mmio.force-legacy=$legacy" step "virtio disk, legacy $legacy" disk SMP=4
    DISK_ARGS="-global virtio-mmio.force-legacy=$legacy" step "virtio disk, legacy $legacy, 8 MiB" disk MEM=8M
done
step "contiguous memory area" expects 0 '^CmaTotal: +32768 kB' 'cma test 8192; meminfo; exit' APPEND=cma=32M
step "rpi4: contiguous memory area of the tree" expects 0 '^CmaTotal: +65536 kB' 'cma test 16384; meminfo; exit' BOARD=rpi4
step "rpi4: reports" reports 900000 983040 BOARD=rpi4
step "rpi4, PL011: reports" reports 900000 983040 BOARD=rpi4 APPEND=console=ttyAMA0
for board in rpi4 rpi3; do
    step "$board, our own tree: reports" reports 900000 983040 BOARD=$board DTB="$(compiled $board)"
done
step "virt, 5 MiB" reports 4032 5120 MEM=5M
step "virt, 8 MiB" reports 7104 8192 MEM=8M
step "virt, 64 GiB" reports 67000000 67108864 MEM=64G
step "virt, 200 GiB" reports 209500000 209715200 MEM=200G
for el2 in 0 1; do
    step "virt, U-Boot, EL$((el2 + 1)): reports" reports 4190000 4194304 LOADER=u-boot MEM=4G SMP=2 EL2=$el2
done
step "U-Boot: CPUs" expects 0 'CPU 3: MPIDR 0x3, node 0, PSCI' 'cpuinfo; exit' LOADER=u-boot SMP=4
step "mem= holds back" reports 64000 65536 APPEND=mem=64M
# All of it is there again, in one zone, and none is held back.
added() { # LEAST-MEMTOTAL-IN-KIB MOST [NAME=VALUE...]
    local least=$1 most=$2 total managed
    shift 2
    console "memadd 5M; memadd; meminfo; zoneinfo; iomem; exit" "$@" || { complain "status $?"; return; }
    total=$(awk '$1 == "MemTotal:" { print $2 }' <<<"$said")
    managed=$(awk '$1 == "managed" { pages += $2 } END { print pages * 4 }' <<<"$said")
    [ "$total" -ge "$least" ] && [ "$total" -le "$most" ] || { complain "MemTotal is $total kB, not $least to $most"; return; }
    [ "$managed" = "$total" ] || { complain "zoneinfo has $managed kB"; return; }
    grep -q '^0 kB are held back' <<<"$said" || complain "some is held back"
}
step "mem= holds back, memadd adds" added 520000 524288 APPEND=mem=64M
step "mem= holds back, memadd adds, 64 GiB" added 8380000 8388608 APPEND=mem=256M MEM=64G
step "rpi4: mem= holds back, memadd adds" added 900000 983040 BOARD=rpi4 APPEND=mem=128M
step "memadd without mem=" expects 1 'nothing is held back' 'memadd; exit'
late_pages() { env APPEND=mem=64M cargo test --quiet --profile on-target --target $target -p tests --test pages "$@"; }
step "memory added late: tests" late_pages
step "memblock=debug" expects 0 '^memblock: memory 0x20000000 bytes' exit APPEND=memblock=debug

# The debug build, whose types gdb reads memory by.
gdb_reads() {
    cargo build --quiet --target $target -p firmware && tests/gdb.sh target/$target/debug/firmware
}
step "gdb reads what the console says" gdb_reads

# The example that takes nothing but mm: its own boot code, so no runner of ours.
embedded() { # LEVEL MACHINE
    said=$(timeout "$TIMEOUT" qemu-system-aarch64 -M "$2" -cpu cortex-a72 -display none -nic none -serial stdio \
        -semihosting -kernel target/$target/release/embed </dev/null 2>&1) || { complain "status $?"; return; }
    grep -q "$1: sum 499999500000, moved: false; the device wrote QEMU" <<<"$said" || complain "it does not say what it should"
}
step "mm in another firmware" embedded EL1 virt
step "mm in another firmware, at EL2" embedded EL2 virt,virtualization=on

step "status of exit" expects 42 '' 'exit 42'
step "status of a failed command" expects 1 'nonsense: unknown command' 'nonsense; exit'
step "bad argument" expects 1 'exit: the status is a number' 'exit 1000; exit'
step "without semihosting, PSCI by hvc" expects 0 '' exit QEMU_ARGS="-semihosting-config enable=off"
step "without semihosting, PSCI by smc" expects 0 '' exit QEMU_ARGS="-semihosting-config enable=off" EL2=1
step "without semihosting, watchdog" expects 0 '' exit QEMU_ARGS="-semihosting-config enable=off" BOARD=rpi4
for board in virt rpi4; do
    no_qemu="-semihosting-config enable=off"
    step "$board: reboot" expects 0 '' reboot BOARD=$board QEMU_ARGS="$no_qemu"
    step "$board: poweroff" expects 0 '' poweroff BOARD=$board QEMU_ARGS="$no_qemu"
    step "$board: panic=-1" expects 0 'end of report' 'crash brk' BOARD=$board APPEND=panic=-1 QEMU_ARGS="$no_qemu"
    step "$board: panic=1" expects 0 'rebooting in 1 seconds' 'crash panic' BOARD=$board APPEND=panic=1 QEMU_ARGS="$no_qemu"
    step "$board: panic=0" expects 124 'halted after a failure' 'crash brk' BOARD=$board TIMEOUT=3 QEMU_ARGS="$no_qemu"
done
step "reboot, PSCI by smc" expects 0 '' reboot EL2=1
step "panic= in QEMU" expects 134 'end of report' 'crash brk' APPEND=panic=-1

at=firmware::exception::provoke
step "report: null pointer" crashes null 134 'fatal: data abort on a read: translation fault at level 0: null pointer' \
    'AT S1E1R: PAR_EL1' ">  $at::read_null+0x"
step "report: call of a null pointer" crashes call 134 'call of a null pointer at 0x' "] $at::call_null+0x"
step "report: undefined instruction" crashes undefined 134 'undefined instruction 0x00000000' ' (00000000)' ">  $at::run_nothing+0x"
step "report: BRK" crashes brk 134 'fatal: BRK 0x1' 'immediate 0x0001' ">  $at::break_here+0x"
step "report: write to text" crashes write 134 'permission fault at level 3' 'kernel text' 'RO X  Normal' ">  $at::write_text+0x"
step "report: stack overflow" crashes overflow 134 'stack overflow on CPU 0' 'guard page of the stack' "] $at::recurse+0x" ' times'
step "report: panic" crashes panic 101 'asked for at the console' 'call trace:' "] $at::panic+0x" '] firmware::console::run+0x'
step "report: lines of the source" symbolised
step "report: SError" serror
step "report: SError, with RAS" serror CPU=max
# shellcheck source=tests/pi.sh
. tests/pi.sh
# shellcheck source=tests/console.sh
. tests/console.sh
# shellcheck source=tests/cpus.sh
. tests/cpus.sh

step "no tree: ATAGs" expects 1 'fatal: no device tree: x0 points at ATAGs' exit BOARD=rpi4 DTB=none
step "no tree: entered at EL3" at_el3 $image 1 'fatal: no device tree: x0 is 0'
tests/with_tree.sh $image "$(compiled rpi4-1gb)" "$work/el3"
step "entered at EL3" at_el3 "$work/el3" 0 'entered at EL3'
: >"$work/empty"
step "no tree: zeros" refuses 'no tree is there' "$work/empty"
step "no tree: zeros, on a Pi" refuses 'no tree is there' "$work/empty" BOARD=rpi4
# QEMU 10 writes its tree only for a machine with a kernel, since the command line goes into it.
qemu-system-aarch64 -M virt,dumpdtb="$work/virt.dtb" -m 512M -nic none -kernel $image -append 'run="buddyinfo; exit"' 2>/dev/null
head -c 3000 "$work/virt.dtb" >"$work/truncated.dtb"
step "tree truncated" refuses 'bad device tree' "$work/truncated.dtb"
cp "$work/virt.dtb" "$work/huge.dtb"
printf '\xff' | dd of="$work/huge.dtb" bs=1 seek=4 conv=notrunc status=none
step "tree of 4 GiB" refuses 'bad device tree: size' "$work/huge.dtb"
step "no RAM in the tree" refuses 'names no RAM' "$(compiled no-memory)"
step "reservations cover all RAM" refuses 'no free memory' "$(compiled covered)"
step "RAM where there is none" refuses 'the image at pa:.* lies in no bank' "$(compiled elsewhere)"
step "console in RAM" boots_with 'is out of reach, misaligned, or in RAM' console-in-ram
step "banks overlap" boots_with 'overlaps others' overlap
step "banks nobody can reach" boots_with 'cannot be reached' absurd
step "two nodes" boots_with 'zone +Normal on node 1' numa
garbage=$(head -c 16384 /dev/urandom | tr -d '\0\n' | head -c 4000)
step "garbage as command line" expects 0 'unknown or without sense' '' APPEND="run=\"exit\" $garbage"
for seed in 1 2 3 4 5 6 7 8; do
    step "tree with flipped bytes, seed $seed" flipped $seed
done
