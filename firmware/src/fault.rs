// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the registers of a fault say, in words. Nothing here touches hardware, so the host tests it.
//!
//! - [`Syndrome`]: ESR_EL1, why the exception was taken
//! - [`Status`]: what became of a memory access, as ESR_EL1 and PAR_EL1 have it
//! - [`Pstate`]: SPSR_EL1, the state that was interrupted
//! - [`Par`]: PAR_EL1, what an address translation instruction found
//! - [`walk()`]: a table walk, entry by entry
//! - [`Unwind`]: who called whom, by frame pointers

mod esr;
mod par;
mod pstate;
mod status;
mod unwind;
mod walk;

pub use esr::{Class, Details, Syndrome};
pub use par::Par;
pub use pstate::Pstate;
pub use status::Status;
pub use unwind::{End, Stacks, Unwind};
pub use walk::{Step, walk};
