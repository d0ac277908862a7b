// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the on-target tests share. Each file of `on_target/` is one image and one boot.
//!
//! On the host they are empty programs, so that `cargo test --workspace` works.
#![cfg_attr(target_os = "none", no_std)]

/// A test case: its name, a sentence, and the function, which tells what it found wrong.
pub type Case = (&'static str, fn(&'static Machine) -> Result<(), &'static str>);

#[cfg(target_os = "none")]
pub use firmware::boot::Machine;
/// Stands in for the real one where there is none.
#[cfg(not(target_os = "none"))]
#[derive(Debug)]
pub struct Machine;

/// Runs all cases, prints a line for each and the sum, and ends the machine: status 0 if all passed.
#[cfg(target_os = "none")]
pub fn run(machine: &'static Machine, cases: &[Case]) -> ! {
    use firmware::{power, println};

    let mut failed = 0;
    for (name, test) in cases {
        match test(machine) {
            Ok(()) => println!("test {name} ... ok"),
            Err(why) => {
                failed += 1;
                println!("test {name} ... FAILED: {why}");
            }
        }
    }
    println!("{} passed, {failed} failed", cases.len() - failed);
    power::exit(u32::from(failed != 0))
}

/// Ends a fault test that did not fault.
#[cfg(target_os = "none")]
pub fn no_fault(what: &str) -> ! {
    firmware::println!("test {what} ... FAILED: nothing happened");
    firmware::println!("0 passed, 1 failed");
    firmware::power::exit(1)
}

/// `Err(why)` unless `condition` holds.
///
/// # Errors
///
/// `why`.
pub const fn check(condition: bool, why: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(why) }
}
