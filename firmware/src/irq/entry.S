// SPDX-License-Identifier: MIT OR Apache-2.0
//
// An interrupt of the kernel. It arrives on SP_EL1, whatever state the interrupted stack is in. There the registers
// that a call may change are saved; then the handler runs on this CPU's interrupt stack, by SP_EL0 like all of the
// kernel, so that a fault in it is told, or put right, like any other. It never nests: interrupts stay masked.
//
// The pair at sp + 176 is a frame record (AAPCS64 6.4.6): a call chain goes on in what was interrupted.

.section .text.irq, "ax"
.global irq_entry
irq_entry:
    sub     sp, sp, #192
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    mrs     x0, sp_el0
    mrs     x1, spsr_el1
    stp     x0, x1, [sp, #160]
    mrs     x1, elr_el1
    stp     x29, x1, [sp, #176]
    add     x29, sp, #176
    add     x0, sp, #184                // where it goes on: irq_taken may change that
    mrs     x1, tpidr_el1
    ldr     x1, [x1, #{IRQ_STACK}]      // of PerCpu (cpu.rs)
    msr     spsel, #0
    mov     sp, x1
    bl      irq_taken
    msr     spsel, #1
    ldp     x0, x1, [sp, #160]
    msr     sp_el0, x0
    msr     spsr_el1, x1
    ldp     x29, x1, [sp, #176]
    msr     elr_el1, x1
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
