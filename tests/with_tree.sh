#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes a flat Image that starts another one with a device tree of our choice, whole or broken: loaders check
# trees, and would not pass on a bad one. It also puts the inner image at an odd 4 KiB-aligned address.
#
#   with_tree.sh IMAGE TREE OUTPUT        TREE may be any file; OUTPUT can be booted on any machine
set -euo pipefail
image=$1 tree=$2 output=$3

word() { # little endian
    printf "\\x$(printf %02x $(($1 & 255)))\\x$(printf %02x $(($1 >> 8 & 255)))\\x$(printf %02x $(($1 >> 16 & 255)))\\x$(printf %02x $(($1 >> 24 & 255)))"
}
field() { # OFFSET of a 64-bit field of the inner header
    od -An -t u8 -j "$1" -N 8 "$image" | tr -d ' '
}

inner=4096                                       # the inner image follows our page
inner_size=$(field 16)                           # what its header says, .bss and all
blob=$(((inner + inner_size + 4095) / 4096 * 4096))
blob_size=$((($(stat -c %s "$tree") + 4095) / 4096 * 4096 + 4096))

{
    word $((0x14000000 | 0x40 / 4))              # code0: b 0x40
    word $((0xd503201f))                         # code1: nop
    word 0; word 0                               # text_offset
    word $((blob + blob_size)); word 0           # image_size
    word 10; word 0                              # flags
    word 0; word 0; word 0; word 0; word 0; word 0
    printf 'ARM\x64'; word 0
    # The image may be longer than the 1 MiB that adr reaches.
    distance=$((blob - 0x40))
    word $((0x10000000))                                          # adr  x0, .
    word $((0xd2800001 | (distance & 0xffff) << 5))               # movz x1, distance
    word $((0xf2a00001 | (distance >> 16 & 0xffff) << 5))         # movk x1, distance >> 16, lsl #16
    word $((0x8b010000))                                          # add  x0, x0, x1
    word $((0xd2800001))                                          # mov  x1, #0: as loaders leave it
    word $((0x14000000 | (inner - 0x54) / 4))                     # b inner
} >"$output"
truncate -s $inner "$output"
cat "$image" >>"$output"
truncate -s $blob "$output"
cat "$tree" >>"$output"
truncate -s $((blob + blob_size)) "$output"
