#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# What goes onto a Raspberry Pi 4's SD card.
#
#   sdcard.sh files KERNEL LOADER    target/rpi4/boot: kernel8.img, config.txt, cmdline.txt, to be copied onto an existing boot
#                                    partition; target/rpi4/chainloader: the same with the loader for the serial line
#   sdcard.sh image                  target/rpi4/sdcard.img of that and of FIRMWARE_DIR: an MBR and one FAT32 partition
#   sdcard.sh flash DEVICE           writes it to a removable disk that nobody uses, after showing it and asking
#
# FIRMWARE_DIR has start4.elf, fixup4.dat and bcm2711-rpi-4-b.dtb: the boot partition of a Raspberry Pi OS, or /boot of
# https://github.com/raspberrypi/firmware. APPEND becomes the kernel's command line. The tests give flash another /sys/block
# and /proc by FLASH_SYS and FLASH_PROC.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=target/rpi4
image=$out/sdcard.img

die() { echo "sdcard.sh: $*" >&2; exit 1; }

config() { # what the firmware must know to start us, and to leave a serial line behind
    cat <<'END'
# 64 bits, and where the image is to be.
arm_64bit=1
kernel=kernel8.img
kernel_address=0x200000
# The mini UART on pins 14 and 15, 115200 baud, with a clock that stays.
enable_uart=1
# The PL011, should cmdline.txt have console=ttyAMA0 and an overlay move it to the pins.
init_uart_clock=48000000
END
}

files() { # KERNEL LOADER
    rm -rf "$out/boot" "$out/chainloader"
    mkdir -p "$out/boot" "$out/chainloader"
    cp "$1" "$out/boot/kernel8.img"
    cp "$2" "$out/chainloader/kernel8.img"
    config >"$out/boot/config.txt"
    config >"$out/chainloader/config.txt"
    echo "${APPEND:-panic=30}" | tee "$out/boot/cmdline.txt" >"$out/chainloader/cmdline.txt"
    echo "$out/boot: copy these onto the boot partition of a Raspberry Pi OS (FIRMWARE_DIR= makes a whole card)"
    echo "$out/chainloader: these instead, to load images over the serial line from then on (make chainboot)"
}

partitioned() { # FILE MIB: zeros, and an MBR with one partition of FAT32 (0x0c) from 1 MiB to the end
    truncate -s 0 "$1"
    truncate -s "$2M" "$1"
    local first=2048 count=$((($2 - 1) * 2048)) byte word entry='\x00\xfe\xff\xff\x0c\xfe\xff\xff'
    for word in $first $count; do
        for byte in 0 8 16 24; do entry+=$(printf '\\x%02x' $((word >> byte & 255))); done
    done
    # shellcheck disable=SC2059 # escapes are meant
    printf "$entry" | dd of="$1" bs=1 seek=446 conv=notrunc status=none
    printf '\x55\xaa' | dd of="$1" bs=1 seek=510 conv=notrunc status=none
}

make_image() {
    local name
    command -v mformat >/dev/null || die "mtools is missing: apt-get install mtools"
    for name in start4.elf fixup4.dat bcm2711-rpi-4-b.dtb; do
        [ -e "$FIRMWARE_DIR/$name" ] || die "FIRMWARE_DIR=$FIRMWARE_DIR has no $name: it is to be a Pi's boot partition, or /boot of its firmware"
    done
    partitioned "$image" 64
    export MTOOLS_SKIP_CHECK=1
    # A FAT32 has 65525 clusters at least: of one sector each.
    mformat -i "$image@@1M" -F -c 1 -v QUIRE ::
    for name in start4.elf fixup4.dat bcm2711-rpi-4-b.dtb; do mcopy -i "$image@@1M" "$FIRMWARE_DIR/$name" "::$name"; done
    mcopy -i "$image@@1M" "$out"/boot/* ::
    mdir -i "$image@@1M" ::
    echo "$image: make flash DEV=/dev/..., or any program that writes images to cards"
}

flash() { # DEVICE
    local device=$1 name sys size answer mounts=("${FLASH_PROC:-/proc}/mounts" "${FLASH_PROC:-/proc}/swaps")
    [ -n "$device" ] || die "which device? make flash DEV=/dev/..."
    [ -e "$image" ] || die "no $image: make image FIRMWARE_DIR=..."
    device=$(readlink -f "$device")
    [ -b "$device" ] || die "$device is no disk"
    name=$(basename "$device") sys=${FLASH_SYS:-/sys/block}/$(basename "$device")
    [ -d "$sys" ] || die "$device is a part of a disk, or none: name the whole disk"
    # A reader that is built in is not called removable, but its card is.
    [ "$(cat "$sys/removable")" = 1 ] || [ "$(cat "$sys/device/type" 2>/dev/null)" = SD ] || die "$device is not removable"
    size=$(cat "$sys/size")
    [ "$size" -gt 0 ] || die "$device is empty: there is no card in it"
    [ "$((size * 512))" -ge "$(stat -c %s "$image")" ] || die "$device is too small"
    if grep -qE "^$device(p?[0-9]+)? " "${mounts[@]}"; then
        die "$device is in use: $(grep -hE "^$device(p?[0-9]+)? " "${mounts[@]}" | cut -d' ' -f1,2 | tr '\n' ' ')"
    fi
    [ -z "$(ls -A "$sys/holders" 2>/dev/null)" ] || die "$device is in use: by $(ls "$sys/holders")"
    [ -w "$device" ] || die "$device cannot be written by you"
    echo "$device: $(cat "$sys/device/vendor" "$sys/device/model" "$sys/device/name" 2>/dev/null | tr -s ' \n' ' '), $((size / 2048)) MiB"
    lsblk -o NAME,SIZE,FSTYPE,LABEL "$device" 2>/dev/null || true
    read -r -p "All of it will be overwritten. Its name, to go on ($name): " answer || true
    [ "$answer" = "$name" ] || die "left as it is"
    dd if="$image" of="$device" bs=1M conv=fsync status=progress
    cmp -n "$(stat -c %s "$image")" "$image" "$device" || die "what was written does not read back"
    echo "$device is written and reads back; it may be taken out"
}

case ${1:-} in
files) files "$2" "$3" ;;
image) make_image ;;
flash) flash "${2:-}" ;;
*) sed -n '3,14s/^# \?//p' "$0"; exit 2 ;;
esac
