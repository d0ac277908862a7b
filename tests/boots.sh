# SPDX-License-Identifier: MIT OR Apache-2.0
# What a step does with a machine: starts it, types, reads what it says. Sourced by all.sh, in front of the steps.

export TIMEOUT=${TIMEOUT:-60} QUIET=1
unset RUN APPEND DTB BOARD LOADER MEM CPU EL2 GIC SMP ICOUNT QEMU_ARGS LOG LOG_UART LOG_FILE
elf=target/$target/release/firmware
image=target/kernel8.img

# Every file of on_target/, one boot each, or those that TESTS matches; PROFILE=dev is the debug build.
boots() { # [NAME=VALUE...]
    local out
    if out=$(env "$@" sh -c "cargo test --quiet --profile \${PROFILE:-on-target} --target $target -p tests \${TESTS:+--test \"\$TESTS\"}" 2>&1 </dev/null); then
        awk '/^[0-9]+ passed, 0 failed/ { boots++; cases += $1 } END { print boots " boots, " cases " cases passed" }' <<<"$out"
    else
        echo "$out"
        return 1
    fi
}

# A disk by virtio, whose words are what disk.rs expects.
disk() { # [NAME=VALUE...]
    local out
    perl -e 'print pack("V*", map { ($_ * 2654435761) & 0xffffffff } 0..131071)' >"$work/disk" || return 1
    out=$(env QEMU_ARGS="${DISK_ARGS:-} -drive if=none,id=disk,format=raw,file=$work/disk -device virtio-blk-device,drive=disk" "$@" \
        cargo test --quiet --profile on-target --target $target -p tests --test disk 2>&1 </dev/null)
    grep -q '^5 passed, 0 failed' <<<"$out" || { echo "$out"; return 1; }
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

# Types once the console is there. An @ is a pause; under QEMU's multiplexer Ctrl-A (\001) is typed twice.
types() { # KEYS STATUS TEXT [NAME=VALUE...]
    local keys=$1 status=$2 text=$3
    shift 3
    : >"$work/typed"
    {
        for _ in {1..200}; do
            grep -q '^Type help' "$work/typed" && break
            sleep 0.1
        done
        while [ -n "$keys" ]; do
            # shellcheck disable=SC2059 # escapes are meant
            printf "${keys%%@*}"
            case $keys in
            *@*) keys=${keys#*@}; sleep 0.5 ;;
            *) keys= ;;
            esac
        done
        sleep 1
    } | env "$@" firmware/tools/qemu.sh "$elf" >"$work/typed" 2>&1
    local got=$?
    said=$(tr -d '\0' <"$work/typed")
    [ $got = "$status" ] && grep -qE "$text" <<<"$said" || complain "status $got, or it does not say: $text"
}

# Everything at once, while a person types: no operation is lost, no line of any CPU, and no key.
soaked() { # SECONDS [NAME=VALUE...]
    local seconds=$1 keys= number lines
    shift
    for number in {1..9}; do keys+="echo key $number\r@"; done
    TIMEOUT=$((seconds + 60)) types "irqsoff on; soak $seconds; irqsoff; interrupts; uptime\r@$keys"'exit 5\r' 5 \
        'soak: everything asked for was done, and all memory is back' "$@" || return
    for number in {1..9}; do
        grep -qx "key $number" <<<"$said" || { complain "key $number was lost"; return; }
    done
    lines=$(grep -cE '^(quire> .*)?soak: CPU [0-9]+ is at step [0-9]+$' <<<"$said")
    grep -qE "^ +$lines lines on the console, $lines done$" <<<"$said" || { complain "$lines lines came out"; return; }
    sed -n '/ CPUs, .* ticks$/,/^soak: every/p; /^up /p' <<<"$said"
}

firmware/tools/qemu.sh --image $elf $image >/dev/null
