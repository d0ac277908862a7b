// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The vector table (Arm ARM D1.3.6). Sixteen entries, 128 bytes apart: four sources times synchronous,
// IRQ, FIQ, SError. The kernel runs on SP_EL0, so its own exceptions arrive in the first group, on
// SP_EL1, which is then the top of the CPU's fault stack.
//
// The second group means that a handler was interrupted or failed. Its stack pointer may be what is wrong:
// misaligned, wild, or run into the guard page, and then every store through it would bring us back here,
// for ever. So it is looked at first. If it is of no use, the stack is taken from the top: whoever was on it
// will not go on.

// The exception came with SP_EL1 in order.
.macro vector kind
    .balign 128
    sub     sp, sp, #{FRAME_SIZE}
    stp     x0, x1, [sp]
    add     x0, sp, #{FRAME_SIZE}
    str     x0, [sp, #288]
    mov     x0, #\kind
    b       exception_entry
.endm

.macro handler_vector kind
    .balign 128
    msr     tpidrro_el0, x0             // the one register that nothing depends on
    mrs     x0, tpidr_el1               // PerCpu (cpu.rs)
    ldr     x0, [x0, #{FAULT_STACK}]    // the stack's end
    sub     x0, sp, x0
    add     x0, x0, #{FAULT_STACK_SIZE} // how far above its start we are
    cmp     x0, #{FAULT_STACK_SIZE}     // flags are free: SPSR_EL1 has them
    b.hi    1f
    cmp     x0, #{FRAME_SIZE}
    b.lo    1f
    tst     x0, #15
    b.ne    1f
    mrs     x0, tpidrro_el0
    msr     tpidrro_el0, xzr
    sub     sp, sp, #{FRAME_SIZE}
    stp     x0, x1, [sp]
    add     x0, sp, #{FRAME_SIZE}
    str     x0, [sp, #288]
    mov     x0, #\kind
    b       exception_entry
1:  mrs     x0, tpidr_el1
    ldr     x0, [x0, #{FAULT_STACK}]
    sub     x0, x0, #{FRAME_SIZE}
    str     x1, [x0, #8]
    mov     x1, sp
    str     x1, [x0, #288]
    mov     sp, x0
    mov     x1, #\kind
    b       exception_entry_afresh
.endm

// An interrupt of the kernel, which goes on afterwards: irq/entry.S.
.macro irq_vector
    .balign 128
    b       irq_entry
.endm

.section .text.vectors, "ax"
.balign 2048
.global exception_vectors
exception_vectors:
    vector 0
    irq_vector
    vector 2
    vector 3
    handler_vector 4
    handler_vector 5
    handler_vector 6
    handler_vector 7
    vector 8
    vector 9
    vector 10
    vector 11
    vector 12
    vector 13
    vector 14
    vector 15

// x1 = which entry; the interrupted x0 is still in the scratch register.
.balign 128
exception_entry_afresh:
    mrs     x0, tpidrro_el0
    str     x0, [sp]
    mov     x0, x1

// x0 = which entry. Stores a Frame (exception.rs) and calls Rust; returns to where it was if Rust does.
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
    stp     x29, x1, [sp, #304]         // a frame record: a trace goes on in the interrupted code
    mrs     x1, esr_el1
    mrs     x2, far_el1
    stp     x1, x2, [sp, #272]
    add     x29, sp, #304
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
    add     sp, sp, #{FRAME_SIZE}
    eret
    .ltorg
