# SPDX-License-Identifier: MIT OR Apache-2.0
# The kit for a Raspberry Pi 4: the card's image is read back and booted, the chainloader loads over a line, and what must
# not be written to is refused. Sourced by machines.sh.

# The card's image, from stand-ins for the firmware's files; its own kernel8.img boots where its config.txt says.
card() {
    local card=target/rpi4/sdcard.img at
    mkdir -p "$work/blobs" "$work/card"
    local name
    for name in start4.elf fixup4.dat bcm2711-rpi-4-b.dtb; do head -c 5000 /dev/urandom >"$work/blobs/$name"; done
    make --no-print-directory image FIRMWARE_DIR="$work/blobs" >"$work/made" 2>&1 || { cat "$work/made"; return 1; }
    [ "$(od -An -tx1 -j510 -N2 $card | tr -d ' ')" = 55aa ] && [ "$(od -An -tx1 -j450 -N1 $card | tr -d ' ')" = 0c ] ||
        { echo "FAILED: no MBR with a FAT32"; return 1; }
    MTOOLS_SKIP_CHECK=1 mcopy -n -i $card@@1M ::kernel8.img ::config.txt ::cmdline.txt ::start4.elf "$work/card/" || return 1
    cmp "$work/card/kernel8.img" target/kernel8.img && cmp "$work/card/start4.elf" "$work/blobs/start4.elf" || return 1
    at=$(sed -n 's/^kernel_address=//p' "$work/card/config.txt")
    boot=$work/card/kernel8.img expects 0 "image at $at \(" exit BOARD=rpi4 APPEND="$(cat "$work/card/cmdline.txt")"
}
step "rpi4: the card's image boots" card

# The loader waits on the mini UART, which is a line of QEMU's, and what it was sent runs.
chainloads() { # MACHINE TREE
    local tty='' qemu got
    local TIMEOUT=300 # a byte takes QEMU as long as a real line
    firmware/tools/serial monitor /dev/null 2>/dev/null # builds it before the clock runs
    # In one thread: the cores that wait in the spin table would leave QEMU's own no time.
    timeout "$TIMEOUT" qemu-system-aarch64 -accel tcg,thread=single -M "$1" -display none -nic none -monitor none -semihosting-config enable=on,target=native \
        -kernel target/chainloader.img -dtb "$2" -append 'run="meminfo; exit 7"' -serial null -serial pty >"$work/qemu" 2>&1 &
    qemu=$!
    for _ in {1..50}; do
        tty=$(grep -ao '/dev/pts/[0-9]*' "$work/qemu") && break
        sleep 0.1
    done
    said=$(timeout "$TIMEOUT" firmware/tools/serial load "$tty" target/kernel8.img </dev/null 2>&1)
    wait $qemu
    got=$?
    [ $got = 7 ] && grep -q '100 %' <<<"$said" && grep -q '^MemTotal:' <<<"$said" || complain "status $got"
}
step "rpi4: chainloader" chainloads raspi4b "$(compiled rpi4)"
step "rpi3: chainloader" chainloads raspi3b "$(compiled rpi3)"

flash_refuses() { # DEVICE TEXT [ANSWER]
    said=$(firmware/tools/sdcard.sh flash "$1" <<<"${3:-}" 2>&1) && { complain "it writes to $1"; return; }
    grep -q "$2" <<<"$said" || complain "it does not say: $2"
}
step "flash: which?" flash_refuses '' 'which device'
step "flash: a file" flash_refuses "$work/made" 'is no disk'
step "flash: no disk" flash_refuses /dev/null 'is no disk'
disk=$(lsblk -dnpo NAME,TYPE,RM 2>/dev/null | awk '$2 == "disk" && $3 == 0 { print $1; exit }')
[ -b "$disk" ] && step "flash: a disk that is built in" flash_refuses "$disk" 'is not removable'

# A card's device node without a driver behind it, and what the kernel would say of it.
flash_looks() { # TEXT ANSWER COMMAND...: after COMMAND, which changes what there is to be seen, in $fake
    local text=$1 answer=$2 fake=$work/fake
    shift 2
    rm -rf "$fake"
    mkdir -p "$fake/sys/sdz/device" "$fake/sys/sdz/holders" "$fake/proc"
    echo 1 >"$fake/sys/sdz/removable"
    echo 1000000 >"$fake/sys/sdz/size"
    echo Reader >"$fake/sys/sdz/device/model"
    : >"$fake/proc/mounts" && : >"$fake/proc/swaps"
    (cd "$fake" && "$@")
    FLASH_SYS=$fake/sys FLASH_PROC=$fake/proc flash_refuses "$work/sdz" "$text" "$answer"
}
put() { echo "$2" >"$1"; } # FILE TEXT
if mknod "$work/sdz" b 60 255 2>/dev/null; then
    step "flash: a partition" flash_looks 'name the whole disk' sdz rm -r sys/sdz
    step "flash: not removable" flash_looks 'is not removable' sdz put sys/sdz/removable 0
    step "flash: no card" flash_looks 'no card in it' sdz put sys/sdz/size 0
    step "flash: a small card" flash_looks 'is too small' sdz put sys/sdz/size 100000
    step "flash: a mounted card" flash_looks 'is in use.*/media/card' sdz put proc/mounts "$work/sdz1 /media/card vfat rw 0 0"
    step "flash: swap" flash_looks 'is in use' sdz put proc/swaps "$work/sdz partition 1 0 -2"
    step "flash: a card that is part of something" flash_looks 'is in use: by dm-0' sdz mkdir sys/sdz/holders/dm-0
    step "flash: another name" flash_looks 'left as it is' sda true
    step "flash: no answer" flash_looks 'left as it is' '' true
    # Named rightly, it is written to: only then does it come out that nothing is there.
    step "flash: nothing behind it" flash_looks 'dd: ' sdz true
fi
