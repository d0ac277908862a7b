// SPDX-License-Identifier: MIT OR Apache-2.0
//
// From the loader to the first line of Rust: about a page of code, position-independent until the MMU
// is on, and no Rust before that (formatting and vtables hold high addresses, and exclusives never
// succeed on a real Cortex-A72 while the MMU is off).
//
//   1. the arm64 Image header                 Linux Documentation/arch/arm64/booting.rst
//   2. EL3 -> EL2 -> EL1                      Arm ARM D1.3, D19.2
//   3. boot tables: TTBR0 maps this page to itself; TTBR1 maps the image by section, W^X
//   4. MMU and caches on, jump high, clear .bss, call Rust
//
// Held from entry to Rust: x19 = physical image start, x20 = x0 at entry (the device tree), x21 = the
// exception level at entry, x22 = where to go on at EL1.
//
// Every other CPU comes in at secondary_start, drops to EL1 by the same code, finds its data by its MPIDR in
// the table SECONDARIES (smp/start.rs), and turns its MMU on with the kernel's own map.

.section .head, "ax"
.global _start
_start:
    b       boot                        // code0
    nop                                 // code1
    .quad   0                           // text_offset: any 4 KiB-aligned address will do
    .quad   __image_size                // includes .bss, stacks and boot tables
    .quad   0xa                         // little endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0

// Loads the run-time (now physical) address of a symbol.
.macro adr_of reg, symbol
    adrp    \reg, \symbol
    add     \reg, \reg, #:lo12:\symbol
.endm

boot:
    mov     x20, x0
    adr_of  x19, __image_start
    adr     x22, boot_at_el1
    b       enter

.global secondary_start
secondary_start:
    adr     x22, secondary_at_el1

enter:
    mrs     x21, CurrentEL
    lsr     x21, x21, #2
    cmp     x21, #3
    b.eq    from_el3
    cmp     x21, #2
    b.eq    from_el2
    b       at_el1

// No firmware stands above us, so nobody held the other cores back: keep them here.
from_el3:
    mrs     x0, mpidr_el1
    tst     x0, #0xff
    b.ne    park
    ldr     x0, =0x8000531              // SCR_EL3: FGTEn, RW, HCE, RES1, NS
    msr     scr_el3, x0
    msr     cptr_el3, xzr
    ldr     x0, =0x30c50830             // SCTLR_EL2 RES1: MMU and caches off
    msr     sctlr_el2, x0
    mov     x0, #0x3c9                  // SPSR: EL2h, DAIF masked
    msr     spsr_el3, x0
    adr     x0, from_el2
    msr     elr_el3, x0
    isb
    eret

// Everything EL1 uses is allowed, nothing is trapped, there is no stage 2. Registers whose reset value
// is UNKNOWN and that an EL1 access depends on are all written.
from_el2:
    mov     x0, #(1 << 31)              // HCR_EL2.RW: EL1 is AArch64
    msr     hcr_el2, x0
    isb
    mov     x0, #3                      // EL1 reads the counter and programs its timer
    msr     cnthctl_el2, x0
    msr     cntvoff_el2, xzr
    mrs     x0, midr_el1
    msr     vpidr_el2, x0
    mrs     x0, mpidr_el1
    msr     vmpidr_el2, x0
    mov     x0, #0x33ff                 // CPTR_EL2 RES1 bits; traps nothing that soft-float code uses
    msr     cptr_el2, x0
    msr     hstr_el2, xzr
    msr     vttbr_el2, xzr

    mrs     x1, id_aa64dfr0_el1         // PMU present: give EL1 all of its counters
    ubfx    x0, x1, #8, #4
    sub     x0, x0, #1
    cmp     x0, #0xe                    // 0 (none) and 0xf (not the Arm PMU) are out
    mov     x2, xzr
    b.hs    1f
    mrs     x2, pmcr_el0
    ubfx    x2, x2, #11, #5             // MDCR_EL2.HPMN = PMCR_EL0.N
1:  msr     mdcr_el2, x2

    mrs     x0, id_aa64pfr0_el1         // GIC system registers present: let EL1 use them
    ubfx    x0, x0, #24, #4
    cbz     x0, 2f
    mrs     x0, S3_4_C12_C9_5           // ICC_SRE_EL2
    orr     x0, x0, #8                  // Enable
    orr     x0, x0, #1                  // SRE
    msr     S3_4_C12_C9_5, x0
    isb
    mrs     x0, S3_4_C12_C9_5
    tbz     x0, #0, 2f                  // it does not stick where EL3 withholds it
    msr     S3_4_C12_C11_0, xzr         // ICH_HCR_EL2
2:
    mrs     x0, id_aa64mmfr0_el1        // fine-grained traps, if there are any, are off
    ubfx    x0, x0, #56, #4
    cbz     x0, 3f
    msr     S3_4_C1_C1_4, xzr           // HFGRTR_EL2
    msr     S3_4_C1_C1_5, xzr           // HFGWTR_EL2
    msr     S3_4_C1_C1_6, xzr           // HFGITR_EL2
    msr     S3_4_C3_C1_4, xzr           // HDFGRTR_EL2
    msr     S3_4_C3_C1_5, xzr           // HDFGWTR_EL2
3:
    ldr     x0, ={SCTLR_OFF}
    msr     sctlr_el1, x0
    mov     x0, #0x3c5                  // SPSR: EL1h, DAIF masked
    msr     spsr_el2, x0
    adr     x0, at_el1
    msr     elr_el2, x0
    isb
    eret

at_el1:
    msr     daifset, #0xf
    ldr     x0, ={SCTLR_OFF}              // MMU, caches and alignment checks in a known state
    msr     sctlr_el1, x0
    isb
    msr     spsel, #1
    msr     cpacr_el1, xzr              // no floating point, SIMD or SVE: soft-float code needs none
    br      x22

// Another CPU: memory is Device to it now, so the table is read in aligned words, and was cleaned for that.
// One that is not in the table came unasked, and stays here.
secondary_at_el1:
    adr_of  x1, SECONDARIES
    mrs     x2, mpidr_el1
    ldr     x3, =0xff00ffffff           // the affinity fields
    and     x2, x2, x3
    ldp     x6, x7, [x1]                // roots of the lower and the upper half
    ldr     x3, [x1, #16]               // number of entries
    add     x1, x1, #32
1:  cbz     x3, park
    sub     x3, x3, #1
    ldp     x4, x20, [x1], #16          // MPIDR and PerCpu
    cmp     x4, x2
    b.ne    1b
    ldr     x8, =secondary_high
    b       mmu_on

boot_at_el1:
// The tables are written with the cache off. Lines of them that a loader left dirty could be written
// back over ours, and clean ones could hide ours later: both are thrown away, before and after.
    adr_of  x0, __boot_tables_start
    adr_of  x1, __boot_tables_end
    bl      discard_lines

    mov     x2, x0
4:  stp     xzr, xzr, [x2], #16
    cmp     x2, x1
    b.lo    4b

// TTBR0: one page, this one, mapped to itself for the few instructions around turning the MMU on.
    adr_of  x2, boot_tt0
    add     x3, x2, #0x1000
    mov     x4, #39
    bl      link_next                   // level 0 -> 1 -> 2 -> 3, indexed by the physical address
    mov     x4, #30
    bl      link_next
    mov     x4, #21
    bl      link_next
    ldr     x5, ={PAGE_TEXT}
    orr     x5, x5, x19
    ubfx    x6, x19, #12, #9
    str     x5, [x2, x6, lsl #3]

// TTBR1: the top GiB-aligned half of the image's 2 GiB. Level 2 slots 0..3 are the image, 128..133 the
// windows through which Rust looks at what is not mapped yet.
    adr_of  x2, boot_tt1
    add     x3, x2, #0x1000             // level 1
    orr     x4, x3, #3
    str     x4, [x2, #(511 * 8)]
    add     x5, x3, #0x1000             // level 2
    orr     x4, x5, #3
    str     x4, [x3, #(510 * 8)]
    adr_of  x6, boot_image_l3
    mov     x7, #0
5:  orr     x4, x6, #3
    str     x4, [x5, x7, lsl #3]
    add     x6, x6, #0x1000
    add     x7, x7, #1
    cmp     x7, #4
    b.lo    5b
    adr_of  x6, boot_windows
    mov     x7, #128
6:  orr     x4, x6, #3
    str     x4, [x5, x7, lsl #3]
    add     x6, x6, #0x1000
    add     x7, x7, #1
    cmp     x7, #134
    b.lo    6b

    adr_of  x7, boot_image_l3
    mov     x2, x19
    adr_of  x3, __text_end
    ldr     x4, ={PAGE_TEXT}
    bl      map_section
    adr_of  x3, __rodata_end
    ldr     x4, ={PAGE_RODATA}
    bl      map_section
    adr_of  x3, __data_end
    ldr     x4, ={PAGE_DATA}
    bl      map_section
    adr_of  x2, __stack_start
    adr_of  x3, __stack_end
    bl      map_section
    adr_of  x2, __fault_stack_start
    adr_of  x3, __boot_tables_end
    bl      map_section

    dmb     sy
    bl      discard_lines               // x0, x1 still hold the tables
    adr_of  x6, boot_tt0
    adr_of  x7, boot_tt1
    ldr     x8, =high                   // an absolute, high address

// MMU on: x6 = root of the lower half, x7 = of the upper half, x8 = where to go on.
mmu_on:
    ldr     x2, ={MAIR}
    msr     mair_el1, x2
    mrs     x3, id_aa64mmfr0_el1
    ubfx    x3, x3, #0, #4              // PARange
    mov     x4, #5                      // 48 bits is all that these descriptors can say
    cmp     x3, x4
    csel    x3, x3, x4, lo
    ldr     x2, ={TCR}
    orr     x2, x2, x3, lsl #32         // IPS
    msr     tcr_el1, x2
    msr     ttbr0_el1, x6
    msr     ttbr1_el1, x7
    tlbi    vmalle1                     // after a reset TLBs and instruction cache may hold anything
    ic      iallu
    dsb     nsh
    isb
    ldr     x2, ={SCTLR_ON}
    msr     sctlr_el1, x2
    isb
    br      x8

park:
    wfe
    b       park

// x2 = table, x3 = the next level's table, x4 = shift: links them at index (x19 >> shift), steps both.
link_next:
    lsr     x5, x19, x4
    and     x5, x5, #0x1ff
    orr     x6, x3, #3
    str     x6, [x2, x5, lsl #3]
    mov     x2, x3
    add     x3, x3, #0x1000
    ret

// Maps the physical pages x2..x3 with attributes x4 at their place in the image; x7 = its level 3 tables.
map_section:
    sub     x5, x2, x19
    lsr     x5, x5, #12
    orr     x6, x2, x4
    str     x6, [x7, x5, lsl #3]
    add     x2, x2, #0x1000
    cmp     x2, x3
    b.lo    map_section
    ret

// Invalidates the cache lines of x0..x1 to the point of coherency. Both are page-aligned.
discard_lines:
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4             // DminLine: log2 of words
    mov     x3, #4
    lsl     x3, x3, x2
    mov     x2, x0
7:  dc      ivac, x2
    add     x2, x2, x3
    cmp     x2, x1
    b.lo    7b
    dsb     sy
    ret

// Rust runs on SP_EL0; every exception switches to SP_EL1, the fault stack, by itself (Arm ARM D1.6.2):
// a stack that overflowed into its guard page cannot take the report with it.
high:
    ldr     x2, =__fault_stack_end
    mov     sp, x2
    msr     spsel, #0
    ldr     x2, =__stack_end
    mov     sp, x2
    ldr     x2, =BOOT_CPU               // cpu.rs
    msr     tpidr_el1, x2
    ldr     x2, =exception_vectors
    msr     vbar_el1, x2
    isb
    ldr     x2, =__bss_start
    ldr     x3, =__bss_end
8:  cmp     x2, x3
    b.hs    9f
    stp     xzr, xzr, [x2], #16
    b       8b
9:  mov     x0, x20
    mov     x1, x19
    mov     x2, x21
    mov     x29, xzr                    // the backtrace ends here
    mov     x30, xzr
    b       kernel_start

// x20 = PerCpu. The lower half is empty from now on, as on every CPU.
secondary_high:
    mrs     x2, tcr_el1
    orr     x2, x2, #(1 << 7)           // EPD0
    msr     tcr_el1, x2
    msr     ttbr0_el1, xzr
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    ldr     x2, [x20, #{FAULT_STACK}]   // of PerCpu (cpu.rs)
    mov     sp, x2
    msr     spsel, #0
    ldr     x2, [x20, #{FIRST_STACK}]
    mov     sp, x2
    msr     tpidr_el1, x20
    ldr     x2, =exception_vectors
    msr     vbar_el1, x2
    isb
    mov     x29, xzr                    // the backtrace ends here
    mov     x30, xzr
    b       secondary_main

// replace_root(x0 = physical root, x1 = virtual minus physical address of the image)
//
// Both trees map the image, perhaps in descriptors of different size, which no TLB may ever hold at once
// (Arm ARM D8.16.1): for a few instructions nothing is mapped by TTBR1 at all, and this code runs from the
// identity page. One CPU at a time; interrupts are masked.
.global replace_root
replace_root:
    adr     x2, 1f
    sub     x2, x2, x1
    adr_of  x3, boot_empty
    sub     x3, x3, x1
    br      x2
1:  msr     ttbr1_el1, x3
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    msr     ttbr1_el1, x0
    isb
    ret
    .ltorg

.section .boot_tables, "aw", @nobits
.balign 4096
boot_tt0:       .skip 4 * 4096
boot_empty:     .skip 4096
.global boot_tt1
boot_tt1:       .skip 3 * 4096
boot_image_l3:  .skip 4 * 4096
.global boot_windows
boot_windows:   .skip 6 * 4096
