// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Takes the place of kernel8.img on a Raspberry Pi 3 or 4, moves itself out of the way, asks for an image on
// the mini UART (raspbootin's protocol), puts it where kernel8.img belongs, and starts it as the firmware
// would have: x0 = device tree, x1 to x3 = 0, the exception level as it came.
//
//   us:   0x03 0x03 0x03, once a second        them: size, 32 bits, little endian
//   us:   "OK", or "SE" if it cannot be        them: the bytes
//
// MMU and data cache stay off, so that what is stored is in memory. The other cores stay where they are.
//
// x19 = UART block, x20 = device tree, x21 = size

.equ IMAGE, 0x200000                    // config.txt's kernel_address
.equ SELF, 0x4000000                    // above the largest image, below the tree of every board
.equ AUX_ENABLES, 0x04                  // BCM2711 ARM Peripherals, 2.1
.equ MU_IO, 0x40
.equ MU_LCR, 0x4c
.equ MU_LSR, 0x54
.equ MU_CNTL, 0x60

.section .head, "ax"
.global _start
_start:
    b       boot                        // an arm64 Image, as Linux's booting.rst has it
    nop
    .quad   0
    .quad   0x1000
    .quad   0xa
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0

boot:
    mov     x20, x0
    adr     x1, _start
    mov     x2, #SELF
    adr     x3, end
1:  ldp     x4, x5, [x1], #16
    stp     x4, x5, [x2], #16
    cmp     x1, x3
    b.lo    1b
    dsb     sy
    ic      iallu
    dsb     sy
    isb
    mov     x2, #SELF
    adr     x4, moved
    adr     x1, _start
    sub     x4, x4, x1
    add     x4, x4, x2
    br      x4

moved:
    mrs     x1, midr_el1                // a Cortex-A53 is a Raspberry Pi 3
    ubfx    x1, x1, #4, #12
    mov     x19, #0x5000
    movk    x19, #0xfe21, lsl #16
    cmp     x1, #0xd03
    b.ne    2f
    movk    x19, #0x3f21, lsl #16
2:  ldr     w1, [x19, #AUX_ENABLES]     // pins and baud rate are the firmware's (enable_uart=1)
    orr     w1, w1, #1
    str     w1, [x19, #AUX_ENABLES]
    mov     w1, #3                      // 8 bits; receiver and transmitter on
    str     w1, [x19, #MU_LCR]
    str     w1, [x19, #MU_CNTL]

ask:
    mov     w0, #3
    bl      send
    bl      send
    bl      send
    mrs     x1, cntpct_el0
    mrs     x2, cntfrq_el0
    add     x2, x1, x2
3:  ldr     w1, [x19, #MU_LSR]
    tbnz    w1, #0, answer
    mrs     x1, cntpct_el0
    cmp     x1, x2
    b.lo    3b
    b       ask

answer:
    mov     x21, #0
    mov     x22, #0
4:  bl      receive
    lsl     x0, x0, x22
    orr     x21, x21, x0
    add     x22, x22, #8
    cmp     x22, #32
    b.lo    4b
    mov     x1, #(SELF - IMAGE)
    sub     x2, x21, #1                 // 0 becomes the largest
    cmp     x2, x1
    b.lo    good
    mov     w0, #'S'
    bl      send
    mov     w0, #'E'
    bl      send
    b       ask

good:
    mov     w0, #'O'
    bl      send
    mov     w0, #'K'
    bl      send
    mov     x22, #IMAGE
    add     x21, x21, x22
5:  bl      receive
    strb    w0, [x22], #1
    cmp     x22, x21
    b.lo    5b

6:  ldr     w1, [x19, #MU_LSR]          // the last answer has gone out
    tbz     w1, #6, 6b
    dsb     sy
    ic      iallu
    dsb     sy
    isb
    mov     x0, x20
    mov     x1, #0
    mov     x2, #0
    mov     x3, #0
    mov     x4, #IMAGE
    br      x4

// w0: a byte. Uses w1.
send:
    ldr     w1, [x19, #MU_LSR]
    tbz     w1, #5, send
    str     w0, [x19, #MU_IO]
    ret

// The next byte in x0. Uses x1, x2. Between two looks it lets some microseconds pass: eight bytes wait for us, 600 us long, and
// an emulator that is asked without a pause comes to nothing else.
receive:
    ldr     w1, [x19, #MU_LSR]
    tbnz    w1, #0, 8f
    mrs     x1, cntfrq_el0
    mrs     x2, cntpct_el0
    add     x2, x2, x1, lsr #14
7:  mrs     x1, cntpct_el0
    cmp     x1, x2
    b.lo    7b
    b       receive
8:
    ldr     w0, [x19, #MU_IO]
    and     w0, w0, #0xff
    ret

    .balign 16
end:
