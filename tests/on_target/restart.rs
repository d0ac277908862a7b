// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab's fast paths begin again where an interrupt finds them: at each single instruction, stepped by hand, and on
//! all CPUs at once in a storm of calls.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::ptr::{self, NonNull};
    use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    use firmware::boot::Machine;
    use firmware::slab::{KernelSlab, slab};
    use firmware::smp::{self, CpuSet};
    use firmware::sync::masked;
    use firmware::{cpu, println, thread, tick, time};
    use mm::arch::MAX_CPUS;
    use mm::arch::aarch64::restart;
    use mm::gfp::Gfp;
    use mm::slab::{CacheRef, CacheSpec};
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("every instruction of an allocation can be interrupted", allocations_step_by_step),
                ("every instruction of a free can be interrupted", frees_step_by_step),
                ("a second free is found wherever it comes", second_frees_step_by_step),
                ("all CPUs allocate and free while they are called all the time", a_storm),
            ],
        )
    }

    core::arch::global_asm!(include_str!("restart/step.S"));

    unsafe extern "C" {
        static step_vectors: u8;
    }

    /// What goes on after a step.
    #[repr(C)]
    struct Stepped {
        elr: u64,
        spsr: u64,
    }

    /// SPSR_EL1.SS: one more instruction.
    const ONE_MORE: u64 = 1 << 21;
    /// MDSCR_EL1: KDE, debug exceptions of the kernel itself; and SS.
    const STEPS: u64 = 1 << 13 | 1;

    /// Steps until the interruption.
    static LEFT: AtomicUsize = AtomicUsize::new(0);
    static RESTARTS: AtomicUsize = AtomicUsize::new(0);
    /// What the interruption does.
    static ACT: AtomicUsize = AtomicUsize::new(0);

    fn set_steps(bits: u64) {
        // SAFETY: the caller is ready for steps, or wants none.
        unsafe { core::arch::asm!("msr mdscr_el1, {}", "isb", in(reg) bits, options(nostack, preserves_flags)) };
    }

    /// From `restart/step.S`, behind each instruction, on the fault stack.
    #[unsafe(no_mangle)]
    extern "C" fn stepped(at: &mut Stepped) {
        let left = LEFT.load(Ordering::Relaxed) - 1;
        LEFT.store(left, Ordering::Relaxed);
        if left > 0 {
            at.spsr |= ONE_MORE;
            return;
        }
        // Stepping ends here: a lock that the rest may take is never got while each instruction is an exception.
        set_steps(0);
        at.spsr &= !ONE_MORE;
        let resumed = restart::resume_at(at.elr);
        if resumed != at.elr {
            RESTARTS.fetch_add(1, Ordering::Relaxed);
        }
        at.elr = resumed;
        interrupt(ACT.load(Ordering::Relaxed));
    }

    /// Runs something, interrupted after `nr` instructions. Whether it lasted so long.
    #[inline(never)]
    fn interrupted_after<R>(nr: usize, run: impl FnOnce() -> R) -> (R, bool) {
        masked(|| {
            LEFT.store(nr, Ordering::Relaxed);
            let vectors: u64;
            // SAFETY: the other table takes steps, and has all else done as before. The OS lock keeps debug exceptions away
            // (Arm ARM D2.3.1), and so does PSTATE.D.
            unsafe {
                core::arch::asm!(
                    "mrs {old}, vbar_el1",
                    "msr vbar_el1, {new}",
                    "msr oslar_el1, xzr",
                    "isb",
                    "msr daifclr, #8",
                    old = out(reg) vectors,
                    new = in(reg) &raw const step_vectors,
                    options(nostack, preserves_flags),
                );
            }
            set_steps(STEPS);
            let result = run();
            set_steps(0);
            // SAFETY: as it was.
            unsafe {
                core::arch::asm!("msr daifset, #8", "msr vbar_el1, {}", "isb", in(reg) vectors, options(nostack, preserves_flags));
            }
            (result, LEFT.load(Ordering::Relaxed) == 0)
        })
    }

    /// More places than an array has.
    const MANY: usize = 40;
    /// Objects of whoever interrupts, and those that it may free.
    static HELD: [AtomicPtr<u8>; MANY] = [const { AtomicPtr::new(ptr::null_mut()) }; MANY];
    static SPARE: [AtomicPtr<u8>; MANY] = [const { AtomicPtr::new(ptr::null_mut()) }; MANY];
    /// What is being freed.
    static VICTIM: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
    /// Which of the paths; in a handler too.
    static PATH: AtomicUsize = AtomicUsize::new(0);
    static CACHE: spin::Once<CacheRef> = spin::Once::new();
    static BROKEN: AtomicBool = AtomicBool::new(false);

    /// The fast paths: by size, freed by the frame's tag; by size both ways; a cache's; a large object's, which is kept in
    /// an array that its frame does not name; pages; two pages; a large object's that is freed by its size.
    const PATHS: usize = 7;
    const BYTES: [usize; PATHS] = [64, 40, 72, 600, 4096, 8192, 600];

    fn bytes() -> usize {
        BYTES.get(PATH.load(Ordering::Relaxed)).copied().unwrap_or(8)
    }

    fn allocate() -> *mut u8 {
        let Some(slab) = slab() else { return ptr::null_mut() };
        let object = match (PATH.load(Ordering::Relaxed), CACHE.get()) {
            (2, Some(cache)) => slab.cache_alloc(*cache, Gfp::ATOMIC),
            _ => slab.kmalloc(bytes(), Gfp::ATOMIC),
        };
        object.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    fn free(object: *mut u8) {
        let (Some(slab), Some(object)) = (slab(), NonNull::new(object)) else { return };
        match (PATH.load(Ordering::Relaxed), CACHE.get()) {
            // SAFETY: the test's own object, which it gives up. (Some are freed twice to see that refused.)
            (2, Some(cache)) => unsafe { slab.cache_free(*cache, object) },
            // SAFETY: the same.
            (1 | 6, _) => unsafe { slab.kfree_sized(object, bytes(), 8) },
            // SAFETY: the same.
            _ => unsafe { slab.kfree(object) },
        }
    }

    /// More instructions than any of the paths has.
    const MOST: usize = 300;

    /// What an interruption does: nothing; takes an object, five or all that are at hand; frees one, or so many that the
    /// array is full; takes and frees one; has the slab give everything back.
    const ACTS: usize = 8;
    /// It frees what is being freed.
    const SECOND_FREE: usize = ACTS;

    fn interrupt(act: usize) {
        let take = |nr: usize| HELD.iter().take(nr).for_each(|place| place.store(owned(allocate()), Ordering::Relaxed));
        let give =
            |nr: usize| SPARE.iter().take(nr).for_each(|place| free(place.swap(ptr::null_mut(), Ordering::Relaxed)));
        match act {
            1 => take(1),
            2 => take(5),
            3 => take(MANY),
            4 => give(1),
            5 => give(MANY),
            6 => free(allocate()),
            7 => _ = slab().is_some_and(KernelSlab::reclaim),
            SECOND_FREE => free(VICTIM.load(Ordering::Relaxed)),
            _ => {}
        }
    }

    /// Writes an object full of its own address, so that it is seen if it has two owners.
    fn owned(object: *mut u8) -> *mut u8 {
        for word in 0..if object.is_null() { 0 } else { bytes() / 8 } {
            // SAFETY: inside the object.
            unsafe { object.cast::<usize>().wrapping_add(word).write_volatile(object.addr() + word) };
        }
        object
    }

    /// Whether it is still so; and it is not from now on.
    fn disown(object: *mut u8) {
        for word in 0..if object.is_null() { 0 } else { bytes() / 8 } {
            let place = object.cast::<usize>().wrapping_add(word);
            // SAFETY: inside the object.
            if unsafe { place.read_volatile() } != object.addr() + word {
                BROKEN.store(true, Ordering::Relaxed);
            }
            // SAFETY: as above.
            unsafe { place.write_volatile(0) };
        }
    }

    /// Has something in the array of the path, and gives the handler something to free.
    fn prepare() {
        let mut objects = [ptr::null_mut(); MANY];
        objects.fill_with(allocate);
        for (index, object) in objects.into_iter().enumerate() {
            match index {
                0..2 => free(object),
                _ => SPARE.get(index).map_or((), |place| place.store(object, Ordering::Relaxed)),
            }
        }
    }

    fn clean_up() {
        for place in HELD.iter() {
            let object = place.swap(ptr::null_mut(), Ordering::Relaxed);
            disown(object);
            free(object);
        }
        for place in SPARE.iter() {
            free(place.swap(ptr::null_mut(), Ordering::Relaxed));
        }
    }

    /// Runs `once` for each path and act with an interruption behind each of its instructions. It is told whether there was
    /// one, and makes `true` of what is as it should be.
    fn each_step(
        acts: core::ops::Range<usize>,
        least: usize,
        mut once: impl FnMut(usize) -> (bool, bool),
    ) -> Result<(), &'static str> {
        let slab = slab().ok_or("there is no slab")?;
        if slab.is_tiny() {
            return Ok(());
        }
        CACHE.try_call_once(|| slab.cache_create(CacheSpec::new("stepped", 72))).map_err(|_| "no cache")?;
        for path in 0..PATHS {
            PATH.store(path, Ordering::Relaxed);
            for act in acts.clone() {
                ACT.store(act, Ordering::Relaxed);
                RESTARTS.store(0, Ordering::Relaxed);
                let mut nr = 1;
                loop {
                    prepare();
                    let (lasted, is_right) = once(nr);
                    clean_up();
                    if !is_right || BROKEN.load(Ordering::Relaxed) {
                        println!("path {path}, act {act}, after {nr} instructions:");
                        return Err("an object has two owners, or a fault was missed or made up");
                    }
                    if !lasted {
                        break;
                    }
                    nr += 1;
                    check(nr < MOST, "this is no fast path")?;
                }
                let restarts = RESTARTS.load(Ordering::Relaxed);
                if act == acts.start {
                    println!("{:>5} bytes: {nr} instructions, begun again at {restarts}", bytes());
                }
                check(restarts >= least, "sequences did not begin again")?;
            }
        }
        Ok(())
    }

    fn allocations_step_by_step(_: &'static Machine) -> Result<(), &'static str> {
        let slab = slab().ok_or("there is no slab")?;
        each_step(0..ACTS, 5, |nr| {
            let faults = slab.nr_faults();
            let (object, lasted) = interrupted_after(nr, allocate);
            let is_nobodys = HELD.iter().all(|held| held.load(Ordering::Relaxed) != object);
            disown(owned(object));
            free(object);
            (lasted, !object.is_null() && is_nobodys && slab.nr_faults() == faults)
        })
    }

    fn frees_step_by_step(_: &'static Machine) -> Result<(), &'static str> {
        let slab = slab().ok_or("there is no slab")?;
        each_step(0..ACTS, 9, |nr| {
            let faults = slab.nr_faults();
            let object = allocate();
            let restarts = RESTARTS.load(Ordering::Relaxed);
            let ((), lasted) = interrupted_after(nr, || free(object));
            let was_restarted = RESTARTS.load(Ordering::Relaxed) != restarts;
            let nr_taken = HELD.iter().filter(|held| held.load(Ordering::Relaxed) == object).count();
            // What was freed can be had once, and not by who came before that.
            let mut is_right = nr_taken <= usize::from(!was_restarted) && slab.nr_faults() == faults;
            let mut objects = [ptr::null_mut(); MANY];
            objects.fill_with(|| owned(allocate()));
            is_right &= nr_taken + objects.iter().filter(|other| **other == object).count() <= 1;
            objects.into_iter().for_each(disown);
            objects.into_iter().for_each(free);
            (lasted, is_right)
        })
    }

    fn second_frees_step_by_step(_: &'static Machine) -> Result<(), &'static str> {
        let slab = slab().ok_or("there is no slab")?;
        each_step(SECOND_FREE..SECOND_FREE + 1, 9, |nr| {
            let faults = slab.nr_faults();
            let object = allocate();
            VICTIM.store(object, Ordering::Relaxed);
            let ((), lasted) = interrupted_after(nr, || free(object));
            (lasted, slab.nr_faults() == faults + u64::from(lasted))
        })
    }

    /// Whether CPUs are to go on.
    static IS_STORMY: AtomicBool = AtomicBool::new(false);
    /// Objects on their way from one CPU to another.
    static HANDED: [AtomicPtr<u8>; 64] = [const { AtomicPtr::new(ptr::null_mut()) }; 64];

    fn size_at(index: usize) -> usize {
        8 + index * 37 % 700
    }

    /// Puts a new object into a place and frees what was there, whoever put it.
    fn exchange(index: usize) {
        let (Some(slab), Some(place)) = (slab(), HANDED.get(index % HANDED.len())) else { return };
        let bytes = size_at(index % HANDED.len());
        let Ok(object) = slab.kmalloc(bytes, Gfp::ATOMIC) else { return };
        // SAFETY: a new object of that size.
        unsafe { object.write_bytes(bytes as u8, bytes) };
        // Release and Acquire: the content goes with the object.
        if let Some(other) = NonNull::new(place.swap(object.as_ptr(), Ordering::AcqRel)) {
            // SAFETY: an object of that size, written above.
            let content = unsafe { core::slice::from_raw_parts(other.as_ptr(), bytes) };
            if content.iter().any(|byte| *byte != bytes as u8) {
                BROKEN.store(true, Ordering::Relaxed);
            }
            // SAFETY: nobody else has it.
            unsafe { slab.kfree(other) };
        }
    }

    /// What is interrupted: pairs of the fast paths, of the sizes that the interrupts have too.
    fn pairs(from: usize, nr: usize) {
        let Some(slab) = slab() else { return };
        for step in from..from + nr {
            if let Ok(object) = slab.kmalloc(size_at(step * 13 % HANDED.len()), Gfp::KERNEL) {
                // SAFETY: allocated above.
                unsafe { slab.kfree(object) };
            }
        }
    }

    fn loops(cpu: usize) {
        let mut step = cpu * 57;
        while IS_STORMY.load(Ordering::Relaxed) {
            pairs(step, 50);
            exchange(step);
            step += 13;
        }
    }

    fn nr_restarts() -> u32 {
        cpu::all().map(cpu::PerCpu::restarts).sum()
    }

    fn a_storm(_: &'static Machine) -> Result<(), &'static str> {
        const ENOUGH: u32 = 200;
        let slab = slab().ok_or("there is no slab")?;
        if !tick::is_running() {
            return Ok(());
        }
        let (faults, before, start) = (slab.nr_faults(), nr_restarts(), time::ticks());
        check(
            tick::on_tick(|cpu| {
                if IS_STORMY.load(Ordering::Relaxed) {
                    exchange(cpu.number())
                }
            }),
            "no room at the tick",
        )?;
        IS_STORMY.store(true, Ordering::Relaxed);
        let mut handles = [const { None }; MAX_CPUS];
        for (cpu, handle) in CpuSet::others().iter().zip(&mut handles) {
            let spawned = thread::spawn_on(cpu, move || loops(cpu));
            *handle = Some(spawned.map_err(|_| "a thread could not be spawned")?);
        }
        let mut calls = 0;
        while (nr_restarts() - before < ENOUGH || calls < 100) && !time::has_passed(start, 5000) {
            calls += 1;
            smp::call(CpuSet::others(), &|cpu| (0..4).for_each(|step| exchange(calls * 5 + step + cpu)));
            // Alone, a CPU has its ticks.
            pairs(calls, if CpuSet::others().is_empty() { 1000 } else { 1 });
            exchange(calls * 11);
        }
        IS_STORMY.store(false, Ordering::Relaxed);
        handles.into_iter().flatten().for_each(thread::JoinHandle::join);
        println!("{calls} calls, {} sequences begun again", nr_restarts() - before);
        for place in &HANDED {
            if let Some(object) = NonNull::new(place.swap(ptr::null_mut(), Ordering::AcqRel)) {
                // SAFETY: nobody else has it.
                unsafe { slab.kfree(object) };
            }
        }
        check(!BROKEN.load(Ordering::Relaxed), "the content changed")?;
        check(slab.nr_faults() == faults && slab.validate() == 0, "faults were reported")?;
        check(slab.is_tiny() || nr_restarts() > before, "nothing began again")
    }
}
