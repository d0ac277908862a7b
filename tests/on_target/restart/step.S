// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A vector table that takes software steps (Arm ARM D2.11) and leaves all else to the machine's own.

.section .text.step, "ax"
.balign 2048
.global step_vectors
step_vectors:
    sub     sp, sp, #192
    stp     x0, x1, [sp]
    mrs     x0, esr_el1
    lsr     x0, x0, #26
    cmp     x0, #0x33                   // a step taken from the same level; flags are in SPSR_EL1
    b.eq    step_taken
    ldp     x0, x1, [sp]
    add     sp, sp, #192
    b       exception_vectors
.set entry, 1
.rept 15
    .balign 128
    b       exception_vectors + 128 * entry
    .set    entry, entry + 1
.endr

step_taken:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x0, x1, [sp, #160]
    stp     x29, x0, [sp, #176]
    add     x29, sp, #176
    add     x0, sp, #160
    bl      stepped
    ldp     x0, x1, [sp, #160]
    msr     elr_el1, x0
    msr     spsr_el1, x1
    ldr     x29, [sp, #176]
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x30, [sp, #144]
    add     sp, sp, #192
    eret
