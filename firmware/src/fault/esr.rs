// SPDX-License-Identifier: MIT OR Apache-2.0
//! ESR_EL1 in words (Arm ARM D24.2.40).

use core::fmt;

use super::Status;

/// ESR_EL1: why an exception was taken. Prints as the short story; [`Syndrome::details`] tells every field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syndrome(u64);

/// The exception class (EC), where the handler has to tell them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Nothing is known: an instruction that does not exist here, usually.
    Undefined,
    /// Floating point or SIMD, which is switched off.
    FloatingPoint,
    /// PSTATE.IL was set: an exception return that could not be.
    IllegalState,
    /// SVC: a program calls the kernel.
    Supervisor,
    /// A system register, or a system instruction, that must not be used.
    SystemRegister,
    /// Instruction fetch.
    Fetch,
    /// The program counter is no multiple of four.
    PcAlignment,
    /// Load.
    Read,
    /// Store.
    Write,
    /// The stack pointer is no multiple of sixteen.
    SpAlignment,
    /// An asynchronous external abort. The vector tells, too.
    SError,
    /// BRK.
    Breakpoint,
    /// Another.
    Other,
}

impl Syndrome {
    /// What ESR_EL1 holds.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// ESR_EL1.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    const fn field(self, offset: u32, bits: u32) -> u64 {
        self.0 >> offset & ((1 << bits) - 1)
    }

    const fn code(self) -> u64 {
        self.field(26, 6)
    }

    const fn is_set(self, bit: u32) -> bool {
        self.field(bit, 1) == 1
    }

    /// The exception class.
    #[must_use]
    pub const fn class(self) -> Class {
        match self.code() {
            0x00 => Class::Undefined,
            0x07 | 0x2c => Class::FloatingPoint,
            0x0e => Class::IllegalState,
            0x15 => Class::Supervisor,
            0x18 => Class::SystemRegister,
            0x20 | 0x21 => Class::Fetch,
            0x22 => Class::PcAlignment,
            // Cache maintenance counts as a write in WnR, but stores nothing.
            0x24 | 0x25 if self.is_set(6) => Class::Write,
            0x24 | 0x25 => Class::Read,
            0x26 => Class::SpAlignment,
            0x2f => Class::SError,
            0x3c => Class::Breakpoint,
            _ => Class::Other,
        }
    }

    /// What became of the access, if the exception is a data or instruction abort.
    #[must_use]
    pub const fn status(self) -> Option<Status> {
        match self.class() {
            Class::Fetch | Class::Read | Class::Write => Some(Status::new(self.0)),
            _ => None,
        }
    }

    /// Whether FAR_EL1 holds the address in question: for aborts (unless FnV says no), misaligned PCs and watchpoints.
    #[must_use]
    pub const fn has_address(self) -> bool {
        match self.code() {
            0x20 | 0x21 | 0x24 | 0x25 => !(Status::new(self.0).is_external() && self.is_set(10)),
            0x22 | 0x34 | 0x35 => true,
            _ => false,
        }
    }

    /// Every field, by name: for a report.
    #[must_use]
    pub const fn details(self) -> Details {
        Details(self)
    }
}

/// What the exception classes are called.
const fn class_name(code: u64) -> &'static str {
    match code {
        0x00 => "undefined instruction",
        0x01 => "trapped WFI or WFE",
        0x03 | 0x05 => "trapped MCR or MRC",
        0x04 | 0x0c => "trapped MCRR or MRRC",
        0x06 => "trapped LDC or STC",
        0x07 => "floating point or SIMD, which is off",
        0x0a => "trapped LD64B or ST64B",
        0x0d => "branch target exception",
        0x0e => "illegal execution state",
        0x11 | 0x15 => "SVC",
        0x14 => "trapped MSRR, MRRS or 128-bit system instruction",
        0x16 => "HVC",
        0x17 => "SMC",
        0x18 => "trapped system register access",
        0x19 => "SVE, which is off",
        0x1b => "trapped TSTART",
        0x1c => "pointer authentication failure",
        0x1d => "SME, which is off",
        0x20 | 0x21 => "instruction abort",
        0x22 => "misaligned PC",
        0x24 | 0x25 => "data abort",
        0x26 => "misaligned SP",
        0x27 => "memory copy or set exception",
        0x28 | 0x2c => "trapped floating point exception",
        0x2d => "guarded control stack exception",
        0x2f => "SError",
        0x30 | 0x31 => "hardware breakpoint",
        0x32 | 0x33 => "software step",
        0x34 | 0x35 => "watchpoint",
        0x38 => "BKPT",
        0x3c => "BRK",
        0x3d => "profiling exception",
        _ => "reserved exception class",
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(class_name(self.code()))?;
        match (self.class(), self.status()) {
            (Class::Write, Some(status)) if self.is_set(8) => write!(f, " on cache maintenance: {status}"),
            (Class::Write, Some(status)) => write!(f, " on a write: {status}"),
            (Class::Read, Some(status)) => write!(f, " on a read: {status}"),
            (_, Some(status)) => write!(f, ": {status}"),
            (Class::Breakpoint, None) => write!(f, " {:#x}", self.field(0, 16)),
            (Class::Supervisor, None) => write!(f, " {:#x}", self.field(0, 16)),
            (Class::SystemRegister, None) => write!(f, ": {}", Register(*self)),
            _ => Ok(()),
        }
    }
}

/// The system register of a trap, as assemblers write one that they have no name for, and what was tried.
struct Register(Syndrome);

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = |offset, bits| self.0.field(offset, bits);
        let (op0, op1, op2, crn, crm) = (field(20, 2), field(14, 3), field(17, 3), field(10, 4), field(1, 4));
        let (rt, how) = (field(5, 5), if self.0.is_set(0) { "read into" } else { "written from" });
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2} {how} x{rt}")
    }
}

/// All fields of a syndrome, in words.
#[derive(Clone, Copy, Debug)]
pub struct Details(Syndrome);

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let esr = self.0;
        let code = esr.code();
        let size = if esr.is_set(25) { "32-bit instruction" } else { "16-bit instruction, or unknown" };
        write!(f, "EC {code:#04x} {}", class_name(code))?;
        match code {
            0x20 | 0x24 | 0x30 | 0x32 | 0x34 => f.write_str(" from a lower level")?,
            0x21 | 0x25 | 0x31 | 0x33 | 0x35 => f.write_str(" from the same level")?,
            _ => {}
        }
        write!(f, "; IL {} {size}; ISS {:#09x}", esr.field(25, 1), esr.field(0, 25))?;
        if esr.field(32, 24) != 0 {
            write!(f, "; ISS2 {:#08x}", esr.field(32, 24))?;
        }
        match code {
            0x24 | 0x25 => self.data_abort(f),
            0x20 | 0x21 => {
                write!(f, "; IFSC {:#04x} {}", esr.field(0, 6), Status::new(esr.0))?;
                self.flags(f, &[("S1PTW", 7, ""), ("EA", 9, ""), ("FnV", 10, "FAR is not valid")])
            }
            0x2f => self.serror(f),
            0x15..=0x17 | 0x3c => write!(f, "; immediate {:#06x}", esr.field(0, 16)),
            0x18 => write!(f, "; {}", Register(esr)),
            0x01 => write!(f, "; TI {} ({})", esr.field(0, 2), if esr.is_set(0) { "WFE" } else { "WFI" }),
            0x0d => write!(f, "; BTYPE {:#04b}", esr.field(0, 2)),
            0x30..=0x35 => write!(f, "; FSC {:#04x}", esr.field(0, 6)),
            _ => Ok(()),
        }
    }
}

impl Details {
    /// `; NAME value`, and the words if the bit is set.
    fn flags(self, f: &mut fmt::Formatter<'_>, flags: &[(&str, u32, &str)]) -> fmt::Result {
        for (name, bit, words) in flags {
            match self.0.is_set(*bit) {
                true if !words.is_empty() => write!(f, "; {name} 1 {words}")?,
                set => write!(f, "; {name} {}", u8::from(set))?,
            }
        }
        Ok(())
    }

    fn data_abort(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let esr = self.0;
        write!(f, "; DFSC {:#04x} {}", esr.field(0, 6), Status::new(esr.0))?;
        write!(f, "; WnR {}", if esr.is_set(6) { "1 write" } else { "0 read" })?;
        self.flags(f, &[("S1PTW", 7, "stage 2, on a walk of stage 1"), ("CM", 8, "cache maintenance")])?;
        self.flags(f, &[("EA", 9, ""), ("FnV", 10, "FAR is not valid"), ("VNCR", 13, ""), ("ISV", 24, "")])?;
        if Status::new(esr.0).is_external() {
            write!(f, "; SET {}", esr.field(11, 2))?;
        }
        if esr.is_set(24) {
            write!(f, "; SAS {} bytes; SRT x{}", 1 << esr.field(22, 2), esr.field(16, 5))?;
            self.flags(
                f,
                &[("SSE", 21, "sign-extended"), ("SF", 15, "64-bit register"), ("AR", 14, "acquire or release")],
            )?;
        }
        Ok(())
    }

    fn serror(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let esr = self.0;
        if esr.is_set(24) {
            return f.write_str("; IDS 1: the syndrome is the implementation's own");
        }
        let severity = match esr.field(10, 3) {
            0 => "uncontainable",
            1 => "unrecoverable",
            2 => "restartable",
            3 => "recoverable",
            6 => "corrected",
            _ => "reserved",
        };
        match esr.field(0, 6) {
            0x11 => write!(f, "; DFSC 0x11 asynchronous SError; AET {} {severity}", esr.field(10, 3))?,
            0x00 => f.write_str("; DFSC 0x00 uncategorized")?,
            other => write!(f, "; DFSC {other:#04x} reserved")?,
        }
        self.flags(f, &[("EA", 9, ""), ("IESB", 13, "taken at an implicit barrier")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(raw: u64) -> (String, String) {
        let syndrome = Syndrome::new(raw);
        (syndrome.to_string(), syndrome.details().to_string())
    }

    #[test]
    fn data_aborts_tell_every_field() {
        let (short, long) = both(0x9600_0047);
        assert_eq!(short, "data abort on a write: translation fault at level 3");
        assert_eq!(
            long,
            "EC 0x25 data abort from the same level; IL 1 32-bit instruction; ISS 0x0000047; \
             DFSC 0x07 translation fault at level 3; WnR 1 write; S1PTW 0; CM 0; EA 0; FnV 0; VNCR 0; ISV 0"
        );
        // ISV, 4 bytes, x3, sign-extended, 64-bit; external, FAR not valid, SET 2.
        let (short, long) =
            both(0x9000_0000 | 1 << 24 | 2 << 22 | 1 << 21 | 3 << 16 | 1 << 15 | 2 << 11 | 1 << 10 | 0x10);
        assert_eq!(short, "data abort on a read: synchronous external abort");
        for words in
            ["16-bit", "FnV 1 FAR is not valid", "SET 2", "SAS 4 bytes; SRT x3; SSE 1 sign", "SF 1 64-bit", "AR 0"]
        {
            assert!(long.contains(words), "{words}: {long}");
        }
        assert_eq!(both(0x9600_0147).0, "data abort on cache maintenance: translation fault at level 3");
        assert!(both(0x9200_0087).1.contains("from a lower level"));
        assert!(both(0x9600_0087).1.contains("S1PTW 1 stage 2"));
    }

    #[test]
    fn instruction_aborts_and_alignment_are_told() {
        let (short, long) = both(0x8600_000f);
        assert_eq!(short, "instruction abort: permission fault at level 3");
        assert!(long.ends_with("IFSC 0x0f permission fault at level 3; S1PTW 0; EA 0; FnV 0"), "{long}");
        assert_eq!(both(0x8a00_0000).0, "misaligned PC");
        assert_eq!(both(0x9a00_0000).0, "misaligned SP");
        assert_eq!(both(0x9600_0021).0, "data abort on a read: alignment fault");
    }

    #[test]
    fn instructions_are_told_by_their_immediates() {
        assert_eq!(both(0xf200_04d2).0, "BRK 0x4d2");
        assert!(both(0xf200_04d2).1.ends_with("immediate 0x04d2"));
        assert_eq!(both(0x5600_0007).0, "SVC 0x7");
        assert_eq!(both(0x0200_0000).0, "undefined instruction");
        assert_eq!(both(0x3a00_0000).0, "illegal execution state");
        assert_eq!(both(0x1fe0_0000).0, "floating point or SIMD, which is off");
    }

    #[test]
    fn a_trapped_system_register_is_named() {
        // mrs x5, SCTLR_EL1: op0 3, op1 0, CRn 1, CRm 0, op2 0.
        let read = 0x6200_0000 | 3 << 20 | 1 << 10 | 5 << 5 | 1;
        assert_eq!(both(read).0, "trapped system register access: S3_0_C1_C0_0 read into x5");
        // msr CNTP_TVAL_EL0, x31: op0 3, op1 3, CRn 14, CRm 2, op2 0.
        let write = 0x6200_0000 | 3 << 20 | 3 << 14 | 14 << 10 | 31 << 5 | 2 << 1;
        assert!(both(write).1.ends_with("S3_3_C14_C2_0 written from x31"));
    }

    #[test]
    fn serrors_tell_their_severity() {
        assert_eq!(both(0xbe00_0000).0, "SError");
        assert!(both(0xbe00_0011 | 1 << 10).1.contains("asynchronous SError; AET 1 unrecoverable; EA 0; IESB 0"));
        assert!(both(0xbf00_1234).1.contains("implementation's own"));
        assert!(both(0xbe00_0000).1.contains("uncategorized"));
    }

    #[test]
    fn the_address_counts_only_where_the_architecture_sets_it() {
        for (raw, valid) in [
            (0x9600_0047, true),
            (0x8600_0007, true),
            (0x8a00_0000, true),
            (0x9600_0410, false),
            (0x9600_0010, true),
            // FnV means nothing outside external aborts.
            (0x9600_0407, true),
            (0x9a00_0000, false),
            (0xbe00_0000, false),
            (0x0200_0000, false),
            (0xf200_0000, false),
        ] {
            assert_eq!(Syndrome::new(raw).has_address(), valid, "{raw:#x}");
        }
    }

    #[test]
    fn no_syndrome_is_without_words() {
        for code in 0..64_u64 {
            for iss in [0, 0x1ff_ffff, 0x0aa_aaaa, 0x155_5555] {
                let (short, long) = both(code << 26 | iss | 0xff << 56);
                assert!(short.len() > 2 && long.contains("ISS 0x"), "{code:#x}");
            }
        }
    }
}
