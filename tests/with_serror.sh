#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes a flat Image that starts another one under a hypervisor of 18 instructions, which has a virtual SError wait
# for it (HCR_EL2.VSE): the only way to have one in QEMU. To be booted with EL2=1.
#
#   with_serror.sh IMAGE OUTPUT
set -euo pipefail
image=$1 output=$2

word() { # little endian
    printf "\\x$(printf %02x $(($1 & 255)))\\x$(printf %02x $(($1 >> 8 & 255)))\\x$(printf %02x $(($1 >> 16 & 255)))\\x$(printf %02x $(($1 >> 24 & 255)))"
}

inner_size=$(od -An -t u8 -j 16 -N 8 "$image" | tr -d ' ') # what its header says, .bss and all

{
    word $((0x14000000 | 0x40 / 4)) # code0: b 0x40
    word $((0xd503201f))            # code1: nop
    word 0; word 0                  # text_offset
    word $((4096 + inner_size)); word 0
    word 10; word 0                 # flags
    word 0; word 0; word 0; word 0; word 0; word 0
    printf 'ARM\x64'; word 0
    word $((0xd2802401))            # mov  x1, #0x120              VSE, and AMO: EL1 takes it
    word $((0xf2b00001))            # movk x1, #0x8000, lsl #16    RW: EL1 is AArch64
    word $((0xd51c1101))            # msr  hcr_el2, x1
    word $((0xd2800061))            # mov  x1, #3                  counter and timer for EL1
    word $((0xd51ce101))            # msr  cnthctl_el2, x1
    word $((0xd51ce07f))            # msr  cntvoff_el2, xzr
    word $((0xd5380001))            # mrs  x1, midr_el1
    word $((0xd51c0001))            # msr  vpidr_el2, x1
    word $((0xd53800a1))            # mrs  x1, mpidr_el1
    word $((0xd51c00a1))            # msr  vmpidr_el2, x1
    word $((0xd2867fe1))            # mov  x1, #0x33ff             no traps
    word $((0xd51c1141))            # msr  cptr_el2, x1
    word $((0xd28078a1))            # mov  x1, #0x3c5              EL1h, DAIF masked
    word $((0xd51c4001))            # msr  spsr_el2, x1
    word $((0x10007c41))            # adr  x1, 4096: the inner image
    word $((0xd51c4021))            # msr  elr_el2, x1
    word $((0xd5033fdf))            # isb
    word $((0xd69f03e0))            # eret
} >"$output"
truncate -s 4096 "$output"
cat "$image" >>"$output"
