// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine whose console faults as well ends all the same, without another word.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use bsp::info::UartKind;
    use bsp::uart::Port;
    use firmware::boot::Machine;
    use firmware::fatal::{self, Cause, Expected, Turn};
    use firmware::fault::Class;
    use firmware::{output, println};

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let cause = Cause::Fault(Class::Read);
        fatal::expect(Expected { cause, addresses: 0..u64::MAX, turn: Turn::Hopeless, words: &[] });
        fatal::notify(lose_the_console);
        // SAFETY: none; the machine ends in the handler.
        unsafe { core::arch::asm!("brk #1") };
        tests::no_fault("breakpoint")
    }

    fn lose_the_console() {
        // What the test would print if it ended well: the end itself must be silent.
        println!("1 passed, 0 failed");
        // SAFETY: none; there is no port, so that the next message faults, and so does what is told of that.
        output::set_port(unsafe { Port::new(UartKind::Pl011, 0x1000) });
        println!("never seen");
    }
}
