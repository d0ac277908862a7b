// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts instructions on bare metal: QEMU's virt board with `-icount shift=0`, where the virtual clock goes on by a
//! nanosecond for each instruction. The MMU and the caches are off, no interrupt is on, one CPU runs.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    panic!("for a bare-metal target");
}

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod bare {
    use core::alloc::{GlobalAlloc, Layout};
    use core::fmt::Write;
    use core::sync::atomic::Ordering::Relaxed;
    use core::sync::atomic::{AtomicU64, AtomicUsize};

    use bench::frames::{self, Frames};
    use bench::meter::Meter;
    use bench::objects::{self, Objects};
    use bench::ours::{QuirePages, QuireSlab, RawBuddy};
    use bench::peers::{frames as pf, objects as po};

    core::arch::global_asm!(
        ".section .text.boot, \"ax\"",
        ".global _start",
        "_start:",
        "adrp x0, __stack",
        "mov sp, x0",
        "adrp x0, __bss",
        "add x0, x0, :lo12:__bss",
        "adrp x1, __bss_end",
        "add x1, x1, :lo12:__bss_end",
        "1: cmp x0, x1",
        "b.hs 2f",
        "str xzr, [x0], #8",
        "b 1b",
        // mm asks TPIDR_EL1 which CPU this is: it points to a word that says 0.
        "2: adrp x0, CPU_NUMBER",
        "add x0, x0, :lo12:CPU_NUMBER",
        "msr tpidr_el1, x0",
        "bl rust_main",
        "3: wfe",
        "b 3b",
    );

    /// This CPU's data, as mm finds it: its number, and whatever a back end keeps behind it.
    #[unsafe(no_mangle)]
    static CPU_NUMBER: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

    /// With `-m 3G` RAM ends at 4 GiB. What allocators work on lies in its upper half, the harness's heap below.
    const REGION: usize = 0x8000_0000;

    /// A heap for the harness: lists by power of two over a bump pointer.
    struct Heap {
        next: AtomicUsize,
        free: [AtomicUsize; CLASSES],
    }

    const CLASSES: usize = 40;

    unsafe extern "C" {
        static __heap: u8;
    }

    const fn size_of(layout: Layout) -> usize {
        let size = if layout.size() > layout.align() { layout.size() } else { layout.align() };
        if size < 64 { 64 } else { size.next_power_of_two() }
    }

    // SAFETY: one CPU, no interrupts; blocks are apart from each other, and aligned to their size up to a page.
    unsafe impl GlobalAlloc for Heap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let size = size_of(layout);
            let list = &self.free[size.trailing_zeros() as usize];
            let head = list.load(Relaxed);
            if head != 0 {
                // SAFETY: a free block holds the next one's address.
                list.store(unsafe { *(head as *const usize) }, Relaxed);
                return head as *mut u8;
            }
            let next = self.next.load(Relaxed).max(&raw const __heap as usize);
            let start = next.next_multiple_of(size.min(4096));
            if start + size > REGION {
                return core::ptr::null_mut();
            }
            self.next.store(start + size, Relaxed);
            start as *mut u8
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            let list = &self.free[size_of(layout).trailing_zeros() as usize];
            // SAFETY: the block is free from now on, and of 64 bytes at least.
            unsafe { *block.cast::<usize>() = list.load(Relaxed) };
            list.store(block as usize, Relaxed);
        }
    }

    #[global_allocator]
    static HEAP: Heap = Heap { next: AtomicUsize::new(0), free: [const { AtomicUsize::new(0) }; CLASSES] };

    /// The board's PL011, which needs no setting up under QEMU.
    struct Uart;

    impl Write for Uart {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            for byte in text.bytes() {
                // SAFETY: the data register of the virt board's UART.
                unsafe { (0x0900_0000 as *mut u8).write_volatile(byte) };
            }
            Ok(())
        }
    }

    #[panic_handler]
    fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
        let _ = writeln!(Uart, "# {info}");
        off()
    }

    /// PSCI SYSTEM_OFF.
    fn off() -> ! {
        // SAFETY: ends the machine.
        unsafe { core::arch::asm!("hvc #0", in("x0") 0x8400_0008_u64, options(noreturn)) }
    }

    /// Instructions so far. `cntfrq=1000000000` makes a tick one nanosecond, and icount a nanosecond one
    /// instruction.
    #[inline(always)]
    fn instructions() -> u64 {
        let count: u64;
        // SAFETY: reads a counter.
        unsafe { core::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) count) };
        count
    }

    struct Counter {
        peer: &'static str,
        groups: &'static str,
        start: u64,
    }

    impl Meter for Counter {
        fn begin(&mut self) {
            self.start = instructions();
        }

        fn end(&mut self, label: &str, operations: u64) {
            let count = instructions() - self.start;
            let (whole, hundredths) = (count / operations, count % operations * 100 / operations);
            let peer = self.peer;
            let _ = writeln!(
                Uart,
                "{{\"peer\":\"{peer}\",\"bench\":\"{label}\",\"unit\":\"instr-a64\",\"operations\":{operations},\
                 \"values\":[{whole}.{hundredths:02}]}}",
            );
        }

        /// The host tells these.
        fn value(&mut self, _: &str, _: f64) {}

        fn repetitions(&self) -> usize {
            1
        }

        fn turns(&self) -> u64 {
            2000
        }

        fn steps(&self) -> usize {
            200_000
        }

        fn wants(&self, group: &str) -> bool {
            self.groups.is_empty() || self.groups.split(',').any(|name| name == group)
        }
    }

    fn run_frames<F: Frames>(groups: &'static str) {
        let mut counter = Counter { peer: F::NAME, groups, start: 0 };
        let base = REGION as *mut u8;
        frames::run::<F, _>(&mut counter, base, frames::GIB, "1g", true);
        frames::run::<F, _>(&mut counter, base, frames::GIB / 8, "128m", false);
        frames::run_init::<F, _>(&mut counter, base, frames::GIB, "1g");
    }

    fn run_objects<O: Objects>(groups: &'static str) {
        let mut counter = Counter { peer: O::NAME, groups, start: 0 };
        // SAFETY: nobody else uses what lies there.
        unsafe { objects::run::<O, _>(&mut counter, REGION as *mut u8, objects::ARENA) };
    }

    type Runner = (&'static str, &'static str, fn(&'static str));

    const fn frames_runner<F: Frames>() -> Runner {
        ("frames", F::NAME, run_frames::<F>)
    }

    const fn objects_runner<O: Objects>() -> Runner {
        ("objects", O::NAME, run_objects::<O>)
    }

    const RUNNERS: &[Runner] = &[
        frames_runner::<QuirePages>(),
        frames_runner::<RawBuddy>(),
        frames_runner::<pf::Null>(),
        frames_runner::<pf::BuddyAlloc>(),
        frames_runner::<pf::BuddySlab>(),
        frames_runner::<pf::Bitmap1M>(),
        frames_runner::<pf::FrameAllocator>(),
        frames_runner::<pf::BuddyHeap>(),
        frames_runner::<pf::FreeList>(),
        objects_runner::<QuireSlab>(),
        objects_runner::<po::Null>(),
        objects_runner::<po::SlabRs>(),
        objects_runner::<po::Talc>(),
        objects_runner::<po::Rlsf>(),
        objects_runner::<po::Dl>(),
        objects_runner::<po::LinkedList>(),
        objects_runner::<po::Embedded>(),
        objects_runner::<po::Pico>(),
        objects_runner::<po::Good>(),
        objects_runner::<po::BuddyHeap>(),
        objects_runner::<po::BuddyAlloc>(),
    ];

    /// What `-append` says, read from the bytes of the device tree, which QEMU puts at the start of RAM.
    fn arguments() -> &'static str {
        // SAFETY: RAM that nothing writes.
        let tree = unsafe { core::slice::from_raw_parts(0x4000_0000 as *const u8, 1 << 20) };
        let start = tree.windows(4).position(|bytes| bytes == b"run=").unwrap() + 4;
        let end = start + tree[start..].iter().position(|byte| *byte == 0).unwrap();
        core::str::from_utf8(&tree[start..end]).unwrap()
    }

    #[unsafe(no_mangle)]
    extern "C" fn rust_main() -> ! {
        let mut words = arguments().split(' ');
        let mut next = || words.next().unwrap_or("");
        let (kind, name, groups) = (next(), next(), next());
        match RUNNERS.iter().find(|runner| (runner.0, runner.1) == (kind, name)) {
            Some((_, _, run)) => run(groups),
            None => panic!("no {kind} {name}"),
        }
        off()
    }
}
