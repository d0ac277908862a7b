# SPDX-License-Identifier: MIT OR Apache-2.0
# Every machine that QEMU has for us, each with all on-target tests and the shipped image. Sourced by all.sh.

export TIMEOUT=${TIMEOUT:-60} QUIET=1

# One cargo test boots every file of on_target/ once.
boots() { cargo test --quiet --release --target $target -p tests; }

# The image that `make run` boots, with console commands; its output is in $said.
console() { # COMMANDS [NAME=VALUE...]
    local commands=$1
    shift
    said=$(env RUN="$commands" "$@" firmware/tools/qemu.sh target/$target/release/firmware </dev/null 2>&1)
}

reports() { # MEGABYTES [NAME=VALUE...]: the reports make sense and the status is 0
    local megabytes=$1 total
    shift
    console "meminfo; buddyinfo; iomem; pgtables; free; exit" "$@" || { echo "$said"; return 1; }
    total=$(awk '$1 == "MemTotal:" { print $2 }' <<<"$said")
    # MemTotal is less than the RAM by the kernel itself: at most 1.5 % of 512 MiB, 1 MiB where there is less.
    local least=$((megabytes * 1024 - (megabytes * 1024 * 15 / 1000 > 1024 ? megabytes * 1024 * 15 / 1000 : 1024)))
    [ "${total:-0}" -ge "$least" ] && [ "$total" -le $((megabytes * 1024)) ] &&
        ! grep -q BUG <<<"$said" || { echo "$said"; echo "MemTotal $total kB"; return 1; }
}

# A boot that must fail: it says why and ends with status 1.
refuses() { # TEXT [NAME=VALUE...]
    local text=$1 status
    shift
    console "exit" "$@"
    status=$?
    [ $status = 1 ] && grep -q "quire: fatal: .*$text" <<<"$said" || { echo "$said"; echo "status $status"; return 1; }
}

# A boot that must work and say something.
says() { # TEXT [NAME=VALUE...]
    local text=$1
    shift
    console "exit" "$@" && grep -q "$text" <<<"$said" || { echo "$said"; return 1; }
}

exits() { # STATUS COMMANDS
    console "$2"
    local status=$?
    [ $status = "$1" ] || { echo "$said"; echo "status $status, not $1"; return 1; }
}

hangs() { # the runner ends what does not end, and says where it stood
    console "help" TIMEOUT=3
    [ $? = 124 ] && grep -q 'no end within 3 s' <<<"$said" || { echo "$said"; return 1; }
}

for cpu in cortex-a53 cortex-a57 cortex-a72 cortex-a76 max; do
    for el2 in 0 1; do
        step "virt $cpu EL$((el2 + 1))" env CPU=$cpu EL2=$el2 bash -c "$(declare -f boots); target=$target boots"
        step "virt $cpu EL$((el2 + 1)): reports" reports 512 CPU=$cpu EL2=$el2
    done
done
step "rpi4" env BOARD=rpi4 bash -c "$(declare -f boots); target=$target boots"
step "rpi4: reports" reports 960 BOARD=rpi4
