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

flash_refuses() { # DEVICE TEXT
    said=$(firmware/tools/sdcard.sh flash "$1" </dev/null 2>&1) && { complain "it writes to $1"; return; }
    grep -q "$2" <<<"$said" || complain "it does not say: $2"
}
disk=$(lsblk -dnpo NAME,TYPE,RM 2>/dev/null | awk '$2 == "disk" && $3 == 0 { print $1; exit }')
step "flash: which?" flash_refuses '' 'which device'
step "flash: a file" flash_refuses "$work/made" 'is no disk'
step "flash: no disk" flash_refuses /dev/null 'is no disk'
[ -b "$disk" ] && step "flash: a disk that is built in" flash_refuses "$disk" 'is not removable'
