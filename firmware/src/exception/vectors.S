// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The vector table (Arm ARM D1.3.6). Sixteen entries, 128 bytes apart: four sources times synchronous,
// IRQ, FIQ, SError. The kernel runs on SP_EL0, so its own exceptions arrive in the first group, on
// SP_EL1. The second group means that the handler itself failed: it starts over at the top of the fault
// stack, since it will not return, and so can never run off its end.

.macro vector kind
    .balign 128
    sub     sp, sp, #288
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       exception_entry
.endm

.macro nested_vector kind
    .balign 128
    msr     tpidr_el0, x0               // scratch: there are no user threads while the kernel is dying
    ldr     x0, =__fault_stack_end
    mov     sp, x0
    sub     sp, sp, #288
    mrs     x0, tpidr_el0
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       exception_entry
.endm

.section .text.vectors, "ax"
.balign 2048
.global exception_vectors
exception_vectors:
    vector 0
    vector 1
    vector 2
    vector 3
    nested_vector 4
    nested_vector 5
    nested_vector 6
    nested_vector 7
    vector 8
    vector 9
    vector 10
    vector 11
    vector 12
    vector 13
    vector 14
    vector 15

// x0 = which entry. Stores a Frame (exception.rs) and calls Rust; returns to where it was if Rust does.
.balign 128
exception_entry:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, sp_el0
    stp     x30, x1, [sp, #240]
    mrs     x1, elr_el1
    mrs     x2, spsr_el1
    stp     x1, x2, [sp, #256]
    mrs     x1, esr_el1
    mrs     x2, far_el1
    stp     x1, x2, [sp, #272]
    mov     x1, sp
    bl      exception_taken
    ldp     x1, x2, [sp, #256]
    msr     elr_el1, x1
    msr     spsr_el1, x2
    ldp     x30, x1, [sp, #240]
    msr     sp_el0, x1
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp]
    add     sp, sp, #288
    eret
    .ltorg
