# SPDX-License-Identifier: MIT OR Apache-2.0
# Every machine that QEMU has for us: all on-target tests, and the image that `make run` boots. Sourced by all.sh.

export TIMEOUT=${TIMEOUT:-60} QUIET=1
unset RUN APPEND DTB BOARD MEM CPU EL2 GIC SMP ICOUNT QEMU_ARGS LOG LOG_UART LOG_FILE
elf=target/$target/release/firmware
image=target/kernel8.img
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Every file of on_target/, one boot each; PROFILE=dev is the debug build.
boots() { # [NAME=VALUE...]
    local out
    if out=$(env "$@" sh -c "cargo test --quiet --profile \${PROFILE:-release} --target $target -p tests" 2>&1 </dev/null); then
        awk '/^[0-9]+ passed, 0 failed/ { boots++; cases += $1 } END { print boots " boots, " cases " cases passed" }' <<<"$out"
    else
        echo "$out"
        return 1
    fi
}

# Boots the image with console commands; what it says is in $said.
console() { # COMMANDS [NAME=VALUE...]
    local commands=$1
    shift
    said=$(env RUN="$commands" "$@" firmware/tools/qemu.sh "${boot:-$elf}" </dev/null 2>&1)
}

complain() { echo "$said"; echo "FAILED: $*"; return 1; }

# The reports make sense, nothing is lost, and the status is 0.
reports() { # LEAST-MEMTOTAL-IN-KIB MOST [NAME=VALUE...]
    local least=$1 most=$2 total
    shift 2
    console "meminfo; buddyinfo; iomem; pgtables; free; free -h; cat /proc/meminfo; exit" "$@" || { complain "status $?"; return; }
    total=$(awk '$1 == "MemTotal:" { print $2; exit }' <<<"$said")
    [ "${total:-0}" -ge "$least" ] && [ "$total" -le "$most" ] || { complain "MemTotal is $total kB, not $least to $most"; return; }
    ! grep -q BUG <<<"$said" || { complain "the account does not add up"; return; }
    echo "MemTotal $total kB; $(grep 'memory: [0-9]* bytes =' <<<"$said")"
}

# A boot that must end with a status and say something.
expects() { # STATUS TEXT COMMANDS [NAME=VALUE...]
    local status=$1 text=$2
    shift 2
    console "$@"
    local got=$?
    [ $got = "$status" ] || { complain "status $got, not $status"; return; }
    grep -qE "$text" <<<"$said" || { complain "it does not say: $text"; return; }
}

# The report of a failure on demand: its status, and all of these words.
crashes() { # FAILURE STATUS WORDS...
    local failure=$1 status=$2 words
    shift 2
    console "crash $failure"
    local got=$?
    [ $got = "$status" ] || { complain "status $got, not $status"; return; }
    for words in "$@"; do
        grep -qF -- "$words" <<<"$said" || { complain "it does not say: $words"; return; }
    done
}

# A report with the lines of the source.
symbolised() {
    console "crash write"
    said=$(firmware/tools/symbolise "$PWD/$elf" <<<"$said" 2>&1)
    grep -qE 'write_text at firmware/src/exception/provoke.rs:[0-9]+' <<<"$said" || { complain "no lines"; return; }
}

# An SError that waits when the machine starts.
serror() { # [NAME=VALUE...]
    tests/with_serror.sh $image "$work/image" || return 1
    boot=$work/image expects 134 'fatal: SError, an asynchronous external abort, seen in the kernel' '' EL2=1 "$@" &&
        grep -qF 'EC 0x2f SError; IL 1' <<<"$said" || complain "no syndrome"
}

# A tree that must be refused, by name of a file or fixture.
refuses() { # TEXT TREE [NAME=VALUE...]
    local text=$1 tree=$2
    shift 2
    tests/with_tree.sh $image "$tree" "$work/image" || return 1
    boot=$work/image expects 1 "^quire: fatal: .*$text" "" "$@"
}

compiled() { # FIXTURE: the blob
    dtc -q -I dts -O dtb -o "$work/$1.dtb" "tests/fixtures/$1.dts" && echo "$work/$1.dtb"
}

# A fixture that must boot with the given words in its log.
boots_with() { # TEXT FIXTURE
    tests/with_tree.sh $image "$(compiled "$2")" "$work/image" || return 1
    said=$( (sleep 1; printf 'exit\r'; sleep 1) | QEMU_ARGS="${3:-}" firmware/tools/qemu.sh "$work/image" 2>&1)
    local got=$?
    [ $got = 0 ] && grep -qE "$1" <<<"$said" || complain "status $got"
}

# Bytes flipped where the tree is: whatever happens, it ends by itself or at the prompt, and says something.
flipped() { # SEED
    local at=$1 n offset
    cp "$work/virt.dtb" "$work/bad.dtb"
    for n in 1 2 3; do
        at=$(((at * 1103515245 + 12345) & 0x7fffffff))
        offset=$((at % 7000))
        printf "\\x$(printf %02x $((at >> 16 & 255)))" | dd of="$work/bad.dtb" bs=1 seek=$offset conv=notrunc status=none
    done
    tests/with_tree.sh $image "$work/bad.dtb" "$work/image" || return 1
    said=$( (sleep 1; printf 'exit\r'; sleep 1) | firmware/tools/qemu.sh "$work/image" 2>&1)
    local got=$?
    [ $got = 0 ] || [ $got = 1 ] || { complain "status $got with seed $1"; return; }
    [ -n "$said" ] || complain "not a word with seed $1"
}

at_el3() { # IMAGE STATUS TEXT: no firmware, every core at once; both serial ports at hand
    said=$( (sleep 1; printf 'exit\r'; sleep 1) | timeout 20 qemu-system-aarch64 -M raspi4b -display none -nic none -monitor none \
        -semihosting-config enable=on,target=native -chardev stdio,id=console,mux=on,signal=off \
        -serial chardev:console -serial chardev:console -device loader,file="$1",addr=0x200000,cpu-num=0 2>&1)
    local got=$?
    [ $got = "$2" ] && grep -qE "$3" <<<"$said" || complain "status $got"
}

firmware/tools/qemu.sh --image $elf $image >/dev/null

for cpu in cortex-a53 cortex-a57 cortex-a72 cortex-a76 max; do
    for el2 in 0 1; do
        step "virt, $cpu, EL$((el2 + 1)): tests" boots CPU=$cpu EL2=$el2
        step "virt, $cpu, EL$((el2 + 1)): reports" reports 516424 524288 CPU=$cpu EL2=$el2
    done
done
step "virt, GICv3, two processors: tests" boots GIC=3 SMP=2
step "rpi4: tests" boots BOARD=rpi4
step "rpi4: reports" reports 900000 983040 BOARD=rpi4
step "rpi4, PL011: reports" reports 900000 983040 BOARD=rpi4 APPEND=console=ttyAMA0
step "rpi3: tests" boots BOARD=rpi3
for board in rpi4 rpi3; do
    step "$board, our own tree: reports" reports 900000 983040 BOARD=$board DTB="$(compiled $board)"
done
step "virt, 5 MiB" reports 4096 5120 MEM=5M
step "virt, 8 MiB" reports 7168 8192 MEM=8M
step "virt, 64 GiB" reports 67000000 67108864 MEM=64G
step "virt, 200 GiB" reports 209500000 209715200 MEM=200G
step "mem= holds back" reports 64000 65536 APPEND=mem=64M
step "memblock=debug" expects 0 '^memblock: memory 0x20000000 bytes' exit APPEND=memblock=debug

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
