// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting, by the generic timer's counter (Arm ARM D12.1), behind `embedded-hal`'s trait.

use embedded_hal::delay::DelayNs;

/// A counter that never stops.
pub trait Counter {
    /// Ticks so far; wraps around.
    fn ticks(&mut self) -> u64;

    /// Ticks per second; 0 if nobody knows.
    fn frequency(&self) -> u32;
}

/// Waits on a counter, at least as long as it was asked to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delay<C> {
    counter: C,
}

impl<C: Counter> Delay<C> {
    /// A delay by `counter`.
    #[must_use]
    pub const fn new(counter: C) -> Self {
        Self { counter }
    }

    /// The counter.
    pub const fn counter(&mut self) -> &mut C {
        &mut self.counter
    }
}

/// Ticks that last at least `ns` nanoseconds.
#[must_use]
pub const fn ticks_for(ns: u64, frequency: u32) -> u64 {
    (ns as u128 * frequency as u128).div_ceil(1_000_000_000) as u64
}

impl<C: Counter> DelayNs for Delay<C> {
    fn delay_ns(&mut self, ns: u32) {
        // One more, since the first tick may be about to end. Without a known frequency a GHz is meant: too long
        // rather than too short.
        let frequency = match self.counter.frequency() {
            0 => 1_000_000_000,
            known => known,
        };
        let ticks = ticks_for(ns.into(), frequency) + 1;
        let start = self.counter.ticks();
        while self.counter.ticks().wrapping_sub(start) < ticks {
            core::hint::spin_loop();
        }
    }
}

/// The generic timer's virtual counter: the same on all CPUs.
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
#[derive(Clone, Copy, Debug, Default)]
pub struct GenericTimer;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
impl Counter for GenericTimer {
    fn ticks(&mut self) -> u64 {
        use tock_registers::interfaces::Readable;

        // The counter may be read early, out of order, but not before this barrier (Arm ARM D12.1.2).
        aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
        aarch64_cpu::registers::CNTVCT_EL0.get()
    }

    fn frequency(&self) -> u32 {
        use tock_registers::interfaces::Readable;

        aarch64_cpu::registers::CNTFRQ_EL0.get() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes on by `step` ticks each time that it is read.
    struct Fake {
        now: u64,
        step: u64,
        hz: u32,
    }

    impl Counter for Fake {
        fn ticks(&mut self) -> u64 {
            self.now = self.now.wrapping_add(self.step);
            self.now
        }

        fn frequency(&self) -> u32 {
            self.hz
        }
    }

    fn waited(ns: u32, start: u64, step: u64, hz: u32) -> u64 {
        let mut delay = Delay::new(Fake { now: start, step, hz });
        delay.delay_ns(ns);
        delay.counter().now.wrapping_sub(start + step)
    }

    #[test]
    fn a_delay_is_never_too_short() {
        for hz in [19_200_000, 54_000_000, 62_500_000, 1_000_000_000] {
            for ns in [0, 1, 18, 19, 1000, 99_999] {
                let ticks = waited(ns, 0, 1, hz);
                // One tick may be almost over when it is first seen.
                assert!(u128::from(ticks - 1) * 1_000_000_000 >= u128::from(ns) * u128::from(hz), "{ns} ns at {hz} Hz");
                assert!(ticks <= ticks_for(ns.into(), hz) + 1);
            }
        }
    }

    #[test]
    fn counters_may_wrap_and_leap() {
        assert_eq!(waited(1000, u64::MAX - 20, 1, 54_000_000), 55);
        assert_eq!(waited(1000, 0, 1000, 54_000_000), 1000);
    }

    #[test]
    fn an_unknown_frequency_waits_too_long_rather_than_too_short() {
        assert_eq!(waited(1000, 0, 1, 0), 1001);
    }

    #[test]
    fn ticks_do_not_overflow() {
        assert_eq!(ticks_for(u64::MAX, 1_000_000_000), u64::MAX);
        assert_eq!(ticks_for(1_000_000_000, 54_000_000), 54_000_000);
        assert_eq!(ticks_for(1, 54_000_000), 1);
        assert_eq!(ticks_for(0, 54_000_000), 0);
    }
}
