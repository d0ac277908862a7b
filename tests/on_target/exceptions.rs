// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exceptions that return: a translation fault that is none any more is retried, and nothing is lost.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::exception;
    use firmware::layout::FAULT_STACK_SIZE;
    use firmware::smp::CpuSet;
    use firmware::{stack, thread, translate};
    use tests::check;

    /// A translation fault at level 3: on a read, of an instruction.
    const READ: u64 = 0x9600_0007;
    const FETCH: u64 = 0x8600_0007;
    static MAPPED: u64 = 42;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("a translation fault that has gone is retried", a_fault_that_has_gone_is_retried),
                ("a handler is retried on its own stack", a_handler_is_retried_on_its_own_stack),
                ("registers survive a retry", registers_survive),
                ("each CPU retries for itself", every_cpu_retries),
                ("handlers have the stack that they look for", handlers_have_their_stack),
                ("AT leaves PAR_EL1 alone", at_leaves_par_alone),
                ("what is not mapped cannot be peeked at", what_is_not_mapped_cannot_be_peeked_at),
            ],
        )
    }

    fn mapped() -> u64 {
        (&raw const MAPPED).addr() as u64
    }

    fn retries(vector: u64, esr: u64, far: u64) -> u64 {
        let before = exception::nr_retried();
        // SAFETY: the address is mapped, so that the handler returns.
        unsafe { tests::forge(vector, esr, far) };
        exception::nr_retried() - before
    }

    fn a_fault_that_has_gone_is_retried(_: &'static Machine) -> Result<(), &'static str> {
        check(retries(0, READ, mapped()) == 1, "a read is not counted")?;
        let text: fn() -> u64 = mapped;
        check(retries(0, FETCH, text as usize as u64) == 1, "a fetch is not counted")
    }

    fn a_handler_is_retried_on_its_own_stack(_: &'static Machine) -> Result<(), &'static str> {
        check(retries(4, READ, mapped()) == 1, "it is not counted")
    }

    fn registers_survive(_: &'static Machine) -> Result<(), &'static str> {
        let mut sum = (0_u64..29).map(|n| n + 100).filter(|n| ![118, 119].contains(n)).sum::<u64>() - 100;
        sum += 0x6000_0000;
        let found: u64;
        // SAFETY: as `tests::forge`, with a value of its own in every register that the compiler lets us have, and
        // in the flags. The address is mapped, so that the handler returns.
        unsafe {
            core::arch::asm!(
                "msr daifset, #0xf",
                "msr esr_el1, x1",
                "msr far_el1, x2",
                "adr x3, 2f",
                "msr elr_el1, x3",
                "mov x3, #0x03c4",
                "movk x3, #0x6000, lsl #16",        // flags nZCv
                "msr spsr_el1, x3",
                "mov x1, #101",
                "mov x2, #102",
                "mov x3, #103",
                "mov x4, #104",
                "mov x5, #105",
                "mov x6, #106",
                "mov x7, #107",
                "mov x8, #108",
                "mov x9, #109",
                "mov x10, #110",
                "mov x11, #111",
                "mov x12, #112",
                "mov x13, #113",
                "mov x14, #114",
                "mov x15, #115",
                "mov x16, #116",
                "mov x17, #117",
                "mov x20, #120",
                "mov x21, #121",
                "mov x22, #122",
                "mov x23, #123",
                "mov x24, #124",
                "mov x25, #125",
                "mov x26, #126",
                "mov x27, #127",
                "mov x28, #128",
                "msr spsel, #1",
                "b exception_vectors",
                "2: mrs x0, nzcv",
                "add x0, x0, x1",
                "add x0, x0, x2",
                "add x0, x0, x3",
                "add x0, x0, x4",
                "add x0, x0, x5",
                "add x0, x0, x6",
                "add x0, x0, x7",
                "add x0, x0, x8",
                "add x0, x0, x9",
                "add x0, x0, x10",
                "add x0, x0, x11",
                "add x0, x0, x12",
                "add x0, x0, x13",
                "add x0, x0, x14",
                "add x0, x0, x15",
                "add x0, x0, x16",
                "add x0, x0, x17",
                "add x0, x0, x20",
                "add x0, x0, x21",
                "add x0, x0, x22",
                "add x0, x0, x23",
                "add x0, x0, x24",
                "add x0, x0, x25",
                "add x0, x0, x26",
                "add x0, x0, x27",
                "add x0, x0, x28",
                inout("x0") 0_u64 => found,
                inout("x1") READ => _,
                inout("x2") mapped() => _,
                out("x3") _,
                out("x4") _,
                out("x5") _,
                out("x6") _,
                out("x7") _,
                out("x8") _,
                out("x9") _,
                out("x10") _,
                out("x11") _,
                out("x12") _,
                out("x13") _,
                out("x14") _,
                out("x15") _,
                out("x16") _,
                out("x17") _,
                out("x20") _,
                out("x21") _,
                out("x22") _,
                out("x23") _,
                out("x24") _,
                out("x25") _,
                out("x26") _,
                out("x27") _,
                out("x28") _,
            );
        }
        check(found == sum, "a register is not what it was")
    }

    fn every_cpu_retries(_: &'static Machine) -> Result<(), &'static str> {
        for cpu in CpuSet::online().iter() {
            let thread = thread::spawn_on(cpu, || (retries(0, READ, mapped()), retries(4, READ, mapped())));
            let counts = thread.map_err(|_| "a thread could not be spawned")?.join();
            check(counts == (1, 1), "it does not on some CPU")?;
        }
        Ok(())
    }

    fn handlers_have_their_stack(_: &'static Machine) -> Result<(), &'static str> {
        let stack = stack::all().find(|stack| stack.name == "fault stack").ok_or("there is none")?;
        check(stack.range.size() == FAULT_STACK_SIZE, "linker script and vectors differ about its size")?;
        let top: u64;
        // SAFETY: looks at SP_EL1 while no exception can come, and goes back to SP_EL0.
        unsafe {
            core::arch::asm!(
                "mrs {daif}, daif",
                "msr daifset, #0xf",
                "msr spsel, #1",
                "mov {top}, sp",
                "msr spsel, #0",
                "msr daif, {daif}",
                top = out(reg) top,
                daif = out(reg) _,
            );
        }
        check(top == stack.range.end().as_raw(), "the stack pointer is not at its top")
    }

    fn at_leaves_par_alone(_: &'static Machine) -> Result<(), &'static str> {
        const MARK: u64 = 0x0000_1234_5678_9b01;
        let after: u64;
        // SAFETY: PAR_EL1 is scratch.
        unsafe { core::arch::asm!("msr par_el1, {}", in(reg) MARK) };
        let (read, write) = (translate::for_read(mapped()), translate::for_write(mapped()));
        // SAFETY: as above.
        unsafe { core::arch::asm!("mrs {}, par_el1", out(reg) after) };
        check(after == MARK, "PAR_EL1 has changed")?;
        check(read.is_memory(), "a constant is not readable")?;
        check(write.page().is_none(), "a constant is writable")
    }

    fn what_is_not_mapped_cannot_be_peeked_at(_: &'static Machine) -> Result<(), &'static str> {
        check(translate::peek::<u64>(mapped()) == Some(42), "a constant is not what it is")?;
        check(translate::peek::<u64>(mapped() + 4).is_none(), "a misaligned word was read")?;
        for address in [0, 8, 0x0001_0000_0000_0000, u64::MAX - 7, firmware::layout::VMALLOC_START + (255 << 30)] {
            check(translate::peek::<u64>(address).is_none(), "what is not mapped was read")?;
        }
        check(translate::peek::<u32>(firmware::layout::DEVICE_WINDOW).is_none(), "a device was read")
    }
}
