// SPDX-License-Identifier: MIT OR Apache-2.0
//
// switch_context(x0 = where to keep SP, x1 = SP to go on with): from one thread to another, interrupts masked. What
// a call may change is on the stacks already (AAPCS64 6.1.1).

.section .text.switch, "ax"
.global switch_context
switch_context:
    sub     sp, sp, #96
    stp     x19, x20, [sp]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    mov     x2, sp
    str     x2, [x0]
    mov     sp, x1
    isb                                 // another CPU may have mapped this stack (Arm ARM D8.2.6)
    ldp     x19, x20, [sp]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    add     sp, sp, #96
    ret

// Where a new thread begins: x19 = the thread.
.global thread_start
thread_start:
    mov     x0, x19
    mov     x29, xzr                    // the call chain ends here
    mov     x30, xzr
    b       thread_main
